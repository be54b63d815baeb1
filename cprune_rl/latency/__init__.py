"""Latencies of tasks: measured elsewhere, recorded, interpolated or predicted."""
