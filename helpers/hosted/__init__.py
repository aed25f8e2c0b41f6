"""Hosted models: ask once, keep every answer, know what it costs."""

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
from .client import AccessDenied, BudgetExceeded, RunStopped, Transport, ask, run
from .journal import Call, Journal, play_recording, save_recording
from .probe import Finding, Probe, probe
from .requests import Request, build_request
from .rounds import RequestSettings

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
    "RequestSettings",
    "RunStopped",
    "TokenUsage",
    "Transport",
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
