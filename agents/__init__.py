"""Search methods, the project's agent and its rivals, all behind one contract (`core.searcher`)."""
