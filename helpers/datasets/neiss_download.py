"""Fetch an annual file of the injury data from CPSC into the user's cache.

A file of some 100 MB takes a while, so a download that broke off goes on where it
stopped, as long as the server still has the same file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from .. import __version__
from ..fetch import FetchError, building, cache_dir
from ..progress import progress_bar
from .neiss_files import check_annual_file

NEISS_URL = (
    "https://www.cpsc.gov/cgibin/NEISSQuery/Data/Archived%20Data/{year}/neiss{year}.tsv"
)
QUERY_PAGE = "https://www.cpsc.gov/cgibin/NEISSQuery/home.aspx"
# SHA-256 of the files that are known. CPSC revises files.
NEISS_SHA256 = {
    2024: "2583a8d6b1f65525109c0dff9bff1c9dba930697b7e5e10094eee390f1b50dde",
}
FIRST_YEAR = 2014
_TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces
_PIECE = 1 << 16  # what may be lost when a connection breaks


def check_year(year: int) -> int:
    """A year whose annual file can be asked for.

    Parameters
    ----------
    year : int
        The year.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        It lies before 2014, the earliest year whose cases were tried here (the codes
        of older ones may be others), or in the future.

    Examples
    --------
    >>> check_year(1997)
    Traceback (most recent call last):
    ...
    ValueError: year must be 2014 or later, not 1997: earlier ones are untried.
    """
    if year < FIRST_YEAR:
        raise ValueError(
            f"year must be {FIRST_YEAR} or later, not {year}: earlier ones are untried."
        )
    if year > date.today().year:
        raise ValueError(f"year must not lie in the future; {year} does.")
    return year


def download_neiss(year: int) -> Path:
    """The annual file of a year, downloaded if it is not in the cache yet.

    The hash of the file is compared with the one written down here, where one is; it is
    written beside the file in any case (``.sha256``), so that a second machine can
    compare.

    Parameters
    ----------
    year : int
        The year.

    Returns
    -------
    pathlib.Path
        The file in the cache.

    Raises
    ------
    FetchError
        CPSC cannot be reached, or gave something else than the file.
    ValueError
        What came has another header or is of another year.
    """
    import pooch

    target = cache_dir() / "data" / "neiss" / f"neiss{year}.tsv"
    url = NEISS_URL.format(year=year)
    known = NEISS_SHA256.get(year)
    with building(target) as folder:
        if folder is not None:
            download = _Download(target, year)
            try:
                with _quiet(pooch.get_logger()):
                    pooch.retrieve(
                        url,
                        known_hash=known and f"sha256:{known}",
                        fname=target.name,
                        path=folder,
                        downloader=download,
                    )
            except ValueError:  # of pooch: another hash
                raise FetchError(
                    f"{url} gave a file with the SHA-256 {download.sha256}, not "
                    f"{known} as written down here: either it was damaged on the way, "
                    "then a second try helps, or CPSC has revised it. Nothing was "
                    f"kept. To use a revised file, {_by_hand(year)}"
                ) from None
            check_annual_file(folder / target.name, year, name=url)
            note = target.with_name(target.name + ".sha256")
            note.write_text(f"{download.sha256}  {target.name}\n", encoding="utf-8")
    return target


class _Download:
    """What pooch calls to get the file; it goes on where the last call stopped.

    What has come lies in ``.part`` beside the target, and in ``.part.json`` what the
    server calls this version of the file.
    """

    def __init__(self, target: Path, year: int) -> None:
        self.part = target.with_name(target.name + ".part")
        self.version = target.with_name(target.name + ".part.json")
        self.year = year
        self.sha256 = ""

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        import requests

        try:
            self._fetch(url)
        except requests.RequestException as error:
            kept = self.part.stat().st_size if self.part.exists() else 0
            then = f" {kept:,} bytes are kept; call again to go on from there." * (
                kept > 0 and self.version.exists()
            )
            raise self._failure(
                f"{url} could not be downloaded: {_words_of(error)}.{then}"
            ) from error
        with self.part.open("rb") as file:
            begin = file.read(1000).removeprefix(b"\xef\xbb\xbf").strip()
            file.seek(0)
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if not begin or begin.startswith(b"<"):
            self._forget()
            what = f"a web page that begins {begin[:60]!r}" if begin else "nothing"
            raise self._failure(f"{url} gave {what} instead of the file.")
        self.version.unlink(missing_ok=True)
        os.replace(self.part, output_file)

    def _fetch(self, url: str) -> None:
        """Bring ``.part`` to its full length."""
        import requests

        kept, version = self._kept(url)
        headers = {
            "User-Agent": f"how-sure/{__version__}",
            # A compressed answer could not be gone on with.
            "Accept-Encoding": "identity",
        }
        if kept:
            headers |= {"Range": f"bytes={kept}-", "If-Range": version}
        with requests.get(
            url, headers=headers, stream=True, timeout=_TIMEOUT
        ) as response:
            status = response.status_code
            span = response.headers.get("Content-Range", "")
            if kept and status == 416 and span == f"bytes */{kept}":
                return  # all of it had come before
            if kept and (
                status == 416
                or (status == 206 and not span.startswith(f"bytes {kept}-"))
            ):
                self._forget()
            elif status not in (200, 206) or (status == 206 and not kept):
                raise self._failure(f"{url} answered {status} {response.reason}.")
            elif response.headers.get("Content-Type", "").startswith("text/html"):
                raise self._failure(f"{url} gave a web page instead of the file.")
            else:
                self._write(url, response, kept if status == 206 else 0)
                return
        self._fetch(url)  # from the beginning; nothing is kept any more

    def _write(self, url: str, response: Any, kept: int) -> None:
        headers = response.headers
        # A weak tag promises only that the content means the same.
        tag = headers.get("ETag", "")
        version = tag if tag.startswith('"') else headers.get("Last-Modified", "")
        if not kept:
            self._forget()
            plain = headers.get("Content-Encoding", "identity") == "identity"
            if version and plain:
                note = {"url": url, "version": version}
                self.version.write_text(json.dumps(note), encoding="utf-8")
        length = headers.get("Content-Length", "")
        total = kept + int(length) if length.isdigit() else None
        megabytes = None if total is None else total >> 20
        with (
            self.part.open("ab") as file,
            progress_bar(total=megabytes, initial=kept >> 20, unit="MiB") as bar,
        ):
            for piece in response.iter_content(_PIECE):
                file.write(piece)
                bar.update((file.tell() >> 20) - bar.n)

    def _kept(self, url: str) -> tuple[int, str]:
        """How many bytes have come, and of which version of the file."""
        try:
            note = json.loads(self.version.read_text("utf-8"))
            if note["url"] == url:
                return self.part.stat().st_size, str(note["version"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, ""

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _failure(self, what: str) -> FetchError:
        return FetchError(f"{what} To do it by hand, {_by_hand(self.year)}")


def _by_hand(year: int) -> str:
    return (
        f"open {QUERY_PAGE}, download the archived data of {year} (neiss{year}.tsv), "
        "and pass the path of the file to load_neiss, or set HOW_SURE_NEISS to it."
    )


def _words_of(error: Exception) -> str:
    """An error of the network in few words: theirs nest three others."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}".rstrip(". :")


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Pooch tells of every file that it loads; the errors here say enough."""
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
