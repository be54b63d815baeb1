"""Agents and the rivals they are compared with, all behind one contract (`agents.searcher`)."""
