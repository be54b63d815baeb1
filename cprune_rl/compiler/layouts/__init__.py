"""The layout variants of a network's tasks, and the choice among them."""
