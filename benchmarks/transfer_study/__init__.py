"""Parts of `benchmarks/transfer.py`: searches on replays, trainings, figures, tables."""
