"""Devices: how one is named, opened and timed on."""
