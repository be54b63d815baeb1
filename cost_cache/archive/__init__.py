"""One file of costs: written, read, checked."""
