"""Images by name, split four ways; nothing is read before it is asked for."""

from cprune_rl.accuracy.data.registry import DATA_SETS, DataKind, DataSpec, load_data, parse_data
from cprune_rl.accuracy.data.splits import (
    NORMALISATIONS,
    ImageData,
    Normalisation,
    Split,
    SplitSettings,
    split_images,
)

__all__ = [
    "DATA_SETS",
    "NORMALISATIONS",
    "DataKind",
    "DataSpec",
    "ImageData",
    "Normalisation",
    "Split",
    "SplitSettings",
    "load_data",
    "parse_data",
    "split_images",
]
