"""The whole network, built from the fastest schedules and timed."""
