"""Finds the fastest schedule of every task."""
