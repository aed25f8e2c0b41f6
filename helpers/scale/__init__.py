"""Classify a data set of any size, on one machine or a cluster, restartably.

``sources`` reads files in blocks; ``plan`` says which rows make which block; ``store``
is the folder of a run; ``blocks`` classifies one block; ``cluster`` gives blocks to Ray
actors; ``run`` does it all.
"""

from .run import DatasetRun, classify_dataset
from .store import iter_results, read_bad_rows, read_manifest, read_results

__all__ = [
    "DatasetRun",
    "classify_dataset",
    "iter_results",
    "read_bad_rows",
    "read_manifest",
    "read_results",
]
