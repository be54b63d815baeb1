"""Parts of `benchmarks/pruning_bench.py`: networks, features of groups, files."""
