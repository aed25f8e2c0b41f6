"""Hosted models: ask once, keep every answer, know what it costs.

``endpoints`` builds requests for the three protocols that give log-probabilities;
``helpers.answers`` brings what comes back into one form; ``journal`` keeps it on disk;
``runner`` asks many at once; ``batch`` does so through files; ``recordings`` let others
repeat an analysis without asking. ``costs``, ``failures`` and ``scrub`` are theirs.
``classifier`` makes probabilities of labels of the answers, with ``labels``; ``probe``
finds out what a server can do.
"""

from ..answers import (
    Answer,
    AnswerToken,
    Failure,
    TokenUsage,
    UnreadableAnswer,
    read_answer,
)
from .batch import read_batch, write_batch
from .classifier import HostedClassifier
from .endpoints import Request, build_request
from .failures import AccessDenied, BudgetExceeded, RunStopped
from .journal import Call, Journal
from .probe import Finding, Probe, probe
from .recordings import play_recording, save_recording
from .runner import ask, run

__all__ = [
    "AccessDenied",
    "Answer",
    "AnswerToken",
    "BudgetExceeded",
    "Call",
    "Failure",
    "Finding",
    "HostedClassifier",
    "Journal",
    "Probe",
    "Request",
    "RunStopped",
    "TokenUsage",
    "UnreadableAnswer",
    "ask",
    "build_request",
    "play_recording",
    "probe",
    "read_answer",
    "read_batch",
    "run",
    "save_recording",
    "write_batch",
]
