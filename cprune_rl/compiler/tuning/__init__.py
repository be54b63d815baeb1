"""The fastest schedule for each task."""
