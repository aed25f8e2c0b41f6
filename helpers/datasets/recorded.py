"""Servers to ask: three whose answers are recorded, or one of the reader's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import EMBEDDED
from ..files import DATA, cache_dir
from ..hosted import Journal, play_recording
from ..hosted.requests import open_client, plain_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

URL_VARIABLE = "HOW_SURE_BASE_URL"
HOSTED_MODEL_VARIABLE = "HOW_SURE_HOSTED_MODEL"
KEY_VARIABLE = "HOW_SURE_API_KEY"
# Where each of them listened; make serve listens where the first one did.
RECORDED_SERVERS = {
    "llama-cpp-python": "http://127.0.0.1:8000/v1",
    "vLLM": "http://127.0.0.1:8001/v1",
    "transformers": "http://127.0.0.1:8002/v1",
}
RECORDED_DOORS = {"how-sure": "http://127.0.0.1:8003/v1"}


@dataclass(frozen=True)
class AnsweringServer:
    """A server by name, address and model, with journals of its answers."""

    name: str
    base_url: str
    model: str
    folder: Path | None
    recordings: Path | None = None
    keep_requests: bool = False

    def client(self) -> AsyncOpenAI:
        """An OpenAI client with the key in HOW_SURE_API_KEY, if one is needed."""
        # What a recording lacks is all that is asked then, and needs no key.
        key = os.environ.get(KEY_VARIABLE) if self.recordings is None else "-"
        return open_client(self.base_url, key)

    def journal(self, part: str) -> Journal:
        """The journal of one part of an analysis, including its recordings."""
        path = self.folder and self.folder / self.name / f"{part}.sqlite"
        journal = Journal(path or ":memory:", keep_requests=self.keep_requests)
        if self.recordings is not None:
            recording = self.recordings / self.name / f"{part}.parquet"
            if recording.exists():
                play_recording(recording, journal)
        return journal


def answering_servers(
    base_url: str | None = None,
    model: str | None = None,
    *,
    folder: str | Path | None = None,
    record: bool = False,
    doors: bool = False,
) -> list[AnsweringServer]:
    """The servers of the book's recordings, or one that is asked live.

    Parameters
    ----------
    base_url : str, optional
        The address of a server to ask. Default: the environment variable
        ``HOW_SURE_BASE_URL``; without it, recorded answers are used.
    model : str, optional
        The server's name of the model. Default: ``HOW_SURE_HOSTED_MODEL``, or the
        embedded model's name.
    folder : str or pathlib.Path, optional
        Where journals are kept. Default: the user's cache for live servers, else
        memory.
    record : bool, default=False
        Whether to ask the book's servers live, to make the recordings anew.
    doors : bool, default=False
        Servers to put typed questions to: one that is asked live may have no such
        door, and the recorded one is there all the same.

    Examples
    --------
    >>> [server.name for server in answering_servers()]
    ['llama-cpp-python', 'vLLM', 'transformers']
    """
    address = base_url or os.environ.get(URL_VARIABLE)
    if record and (address or folder is None):
        raise ValueError(
            "record needs a folder and no base_url: the book's servers are asked."
        )
    place = None if folder is None else Path(folder)
    recordings = None if record else DATA / "recorded"
    known = [
        AnsweringServer(name, url, EMBEDDED, place, recordings, record)
        for name, url in (RECORDED_DOORS if doors else RECORDED_SERVERS).items()
    ]
    if not address:
        return known
    name = model or os.environ.get(HOSTED_MODEL_VARIABLE) or EMBEDDED
    live = place or cache_dir() / "hosted"
    asked = AnsweringServer("asked", plain_url(address), name, live)
    return [asked, *known] if doors else [asked]
