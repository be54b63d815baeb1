"""A run from a network's name to a compiled, pruned network: one module a stage."""
