"""One server with the embedded model, for all tests that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.local_server import local_server


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """The address of the server, which runs as long as the tests do."""
    # Several threads wait for each other in vain where other processes take their
    # time; most of an answer's time is spent by one thread on sorting the vocabulary.
    with local_server(threads=1) as url:
        yield url
