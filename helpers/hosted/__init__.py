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
from .decisions import Decision, Question, decision_request, read_decisions
from .doors import OrderEffect, order_effect, probe_door
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
    "Decision",
    "Failure",
    "Finding",
    "HostedClassifier",
    "Journal",
    "OrderEffect",
    "Probe",
    "Question",
    "Request",
    "RequestSettings",
    "RunStopped",
    "TokenUsage",
    "Transport",
    "UnreadableAnswer",
    "ask",
    "build_request",
    "decision_request",
    "order_effect",
    "play_recording",
    "probe",
    "probe_door",
    "read_answer",
    "read_batch",
    "read_decisions",
    "run",
    "save_recording",
    "write_batch",
]
