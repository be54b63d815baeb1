"""Problems that the environments open: recorded, replayed, generated."""
