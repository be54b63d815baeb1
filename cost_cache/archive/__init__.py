"""Archives of costs: one file each, written, read and checked."""
