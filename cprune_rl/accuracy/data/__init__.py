"""Images by name, split four ways; nothing is read before it is asked for."""

from cprune_rl.accuracy.data.checks import checked_data, data_warnings
from cprune_rl.accuracy.data.image_arrays import ArrayFile
from cprune_rl.accuracy.data.image_data import NORMALISATIONS, ImageData, Normalisation, Split
from cprune_rl.accuracy.data.registry import (
    DATA_SETS,
    DataKind,
    DataSpec,
    load_data,
    load_inputs,
    loop_name,
    parse_data,
)
from cprune_rl.accuracy.data.splitting import SplitSettings, split_images

__all__ = [
    "DATA_SETS",
    "NORMALISATIONS",
    "ArrayFile",
    "DataKind",
    "DataSpec",
    "ImageData",
    "Normalisation",
    "Split",
    "SplitSettings",
    "checked_data",
    "data_warnings",
    "load_data",
    "load_inputs",
    "loop_name",
    "parse_data",
    "split_images",
]
