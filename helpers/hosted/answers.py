"""Answers of hosted models in one form, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass

Listed = tuple[str, float, bytes | None]


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer.

    Parameters
    ----------
    text : str
        The token as text. Characters cut across tokens are in ``bytes`` only.
    logprob : float or None
        Natural logarithm of its probability; None where the server does not say, or
        says -9999.
    bytes : bytes or None
        The token as bytes; None where the server sends none, as llama.cpp does.
    top : tuple of (str, float, bytes or None)
        The alternatives listed, as text, log-probability and bytes. There may be
        fewer than asked for; those without a probability are left out.
    """

    text: str
    logprob: float | None
    bytes: bytes | None
    top: tuple[Listed, ...]


@dataclass(frozen=True)
class TokenUsage:
    """Tokens that one answer cost.

    Parameters
    ----------
    prompt : int
        Tokens read.
    completion : int
        Tokens written, those of reasoning among them.
    reasoning : int
        Tokens of reasoning.
    """

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Answer:
    """What a hosted model answered.

    Parameters
    ----------
    text : str
        The answer.
    tokens : tuple of AnswerToken
        Its tokens; empty where the server sends no log-probabilities.
    finish_reason : str or None
        ``"stop"``, ``"length"``, ``"content_filter"`` or the server's own word.
    refusal : str or None
        Why the model refused, if it did and said so.
    usage : TokenUsage
        What it cost.
    model : str or None
        The model that answered, as the server calls it.
    request_id : str or None
        What the server calls the request, for questions to its makers.
    """

    text: str
    tokens: tuple[AnswerToken, ...]
    finish_reason: str | None
    refusal: str | None
    usage: TokenUsage
    model: str | None
    request_id: str | None

    @property
    def problem(self) -> str | None:
        """Why this answer may be of no use, and what to do; None if nothing is wrong.

        Examples
        --------
        >>> Answer("ye", (), "length", None, TokenUsage(), "m", None).problem
        'The answer was cut at the limit: raise max_tokens.'
        """
        if self.refusal is not None:
            return f"The model refused: {self.refusal!r}. Reword the prompt."
        if self.finish_reason == "content_filter":
            return "A content filter stopped the answer: reword or leave out the text."
        if self.finish_reason == "length":
            return "The answer was cut at the limit: raise max_tokens."
        if not any(token.logprob is not None for token in self.tokens):
            return (
                "The server sent no log-probabilities: it needs to be asked for them, "
                "or another protocol, or a model that offers them."
            )
        return None


@dataclass(frozen=True)
class Failure:
    """A request without an answer.

    Parameters
    ----------
    kind : str
        The class of the error.
    message : str
        What happened and what to do, without any key.
    status : int or None
        The HTTP status, where there was one.
    request_id : str or None
        What the server calls the request.
    """

    kind: str
    message: str
    status: int | None = None
    request_id: str | None = None
