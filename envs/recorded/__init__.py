"""Recorded problems that ship with the package."""
