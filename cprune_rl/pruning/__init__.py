"""Everything that imports torch_pruning:

coupled groups, importance, surgery; and the packaged networks.
"""
