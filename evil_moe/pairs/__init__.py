"""The hand-written contrastive pairs (one YAML file per group) and their loader.

The two sides of these pairs are the only labels the method ever sees. The groups ``nano_*`` are generated
(`scripts/nano_pairs.py`) and read only where they are named.
"""

from evil_moe.pairs.loader import ContrastivePair, load_pairs
from evil_moe.pairs.pair_file import PairFileError

__all__ = ["ContrastivePair", "PairFileError", "load_pairs"]
