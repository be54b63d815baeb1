"""Search on a model of a problem: it costs nothing, and knows what was learnt so far."""
