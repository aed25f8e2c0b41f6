"""Hosted models: ask once, keep every answer, know what it costs.

``endpoints`` builds requests for the three protocols that give log-probabilities;
``answers`` and ``reading`` bring what comes back into one form; ``journal`` keeps it on
disk; ``runner`` asks many at once; ``batch`` does so through files. ``costs``,
``failures``, ``scrub`` and ``writer`` are theirs. It deals in questions and answers;
probabilities of labels are made of them elsewhere.
"""

from .answers import Answer, AnswerToken, Failure, TokenUsage
from .batch import BatchRead, read_batch, write_batch
from .endpoints import Request, build_request
from .failures import AccessDenied, BudgetExceeded, RunStopped
from .journal import Call, Journal
from .reading import UnreadableAnswer, read_answer
from .runner import ask, run

__all__ = [
    "AccessDenied",
    "Answer",
    "AnswerToken",
    "BatchRead",
    "BudgetExceeded",
    "Call",
    "Failure",
    "Journal",
    "Request",
    "RunStopped",
    "TokenUsage",
    "UnreadableAnswer",
    "ask",
    "build_request",
    "read_answer",
    "read_batch",
    "run",
    "write_batch",
]
