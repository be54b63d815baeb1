"""A scheme for each layer: by rule, by search, as published."""
