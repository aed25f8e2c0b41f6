"""Self-report: ask the model how sure it is, and read what it writes.

``asking`` puts the question, ``reading`` makes numbers, or the names of failures, of
the answers.
"""

from .asking import p_true, report_distribution, self_report
from .reading import STATUSES, Report, read_report

__all__ = [
    "STATUSES",
    "Report",
    "p_true",
    "read_report",
    "report_distribution",
    "self_report",
]
