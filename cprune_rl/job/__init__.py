"""A run from a network's name to a compiled, pruned network: what `train_agent.py` does."""
