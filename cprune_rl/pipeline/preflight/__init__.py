"""Will a network go the whole way? Looked at before anything is trained or tuned."""
