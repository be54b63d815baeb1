"""Checks of what a finished run states."""
