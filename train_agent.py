"""Trains a pruning agent: `python train_agent.py --help`. The same as `cprune-rl train`."""

import sys

from cprune_rl.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
