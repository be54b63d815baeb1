"""Convolutions of this project's own, as tensor expressions and schedule rules."""
