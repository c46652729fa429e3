"""Data sets, long-tailed profiles, splits, views, and streams of batches."""

from ssfnas.data.imageset import ImageData, ImageSet, channel_statistics
from ssfnas.data.profiles import long_tail_counts, long_tail_indices
from ssfnas.data.sampling import IndexStream
from ssfnas.data.sources import DATASETS, load_data
from ssfnas.data.splits import stratified_halves

__all__ = [
    "DATASETS",
    "ImageData",
    "ImageSet",
    "IndexStream",
    "channel_statistics",
    "load_data",
    "long_tail_counts",
    "long_tail_indices",
    "stratified_halves",
]
