"""Runs on published images: what is run, in which order, and the page that is made of it."""
