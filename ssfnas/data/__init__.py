"""Data sets, long-tailed profiles, splits, views, and streams of batches."""

from ssfnas.data import barlow_twins_views as _barlow_twins_views  # enters its views in VIEWS
from ssfnas.data import policies as _policies  # likewise
from ssfnas.data.imageset import DataParts, ImageData, ImageSet, channel_statistics
from ssfnas.data.profiles import long_tail_counts, long_tail_indices
from ssfnas.data.sampling import IndexStream
from ssfnas.data.sources import DATASETS, load_data
from ssfnas.data.splits import half_sizes, stratified_halves
from ssfnas.data.stream import Batch, ImageStream, iterate
from ssfnas.data.views import VIEWS, Views, make_views, usual_cutout

__all__ = [
    "DATASETS",
    "VIEWS",
    "Batch",
    "DataParts",
    "ImageData",
    "ImageSet",
    "ImageStream",
    "IndexStream",
    "Views",
    "channel_statistics",
    "half_sizes",
    "iterate",
    "load_data",
    "long_tail_counts",
    "long_tail_indices",
    "make_views",
    "stratified_halves",
    "usual_cutout",
]

del _barlow_twins_views, _policies
