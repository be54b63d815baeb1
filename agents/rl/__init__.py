"""Policies: networks, learners, training, roll-outs."""
