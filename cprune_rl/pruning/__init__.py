"""Pruning: coupled groups, importance, surgery, and masks.

The modules of this folder alone import torch_pruning.
"""
