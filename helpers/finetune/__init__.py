"""Fine-tuning: parts that share nothing, and an honest comparison before and after.

``splits`` cuts a data set so that texts that belong together stay on one side;
``audit`` finds texts that are nearly the same; ``comparison`` measures two models on
the same rows; ``business`` counts what is left above a threshold.
"""

from .audit import near_duplicates
from .business import RateDifference, business_table, error_rate_difference
from .comparison import Comparison, McNemar, compare
from .splits import grouped_split, joined_groups

__all__ = [
    "Comparison",
    "McNemar",
    "RateDifference",
    "business_table",
    "compare",
    "error_rate_difference",
    "grouped_split",
    "joined_groups",
    "near_duplicates",
]
