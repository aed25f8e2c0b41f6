"""Fetch an annual file of the injury data from CPSC into the user's cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from .. import __version__
from ..files import FetchError, building, cache_dir
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


def check_year(year: int) -> int:
    """A year whose annual file can be asked for; older codes may mean other things."""
    if year < FIRST_YEAR:
        raise ValueError(
            f"year must be {FIRST_YEAR} or later, not {year}: earlier ones are untried."
        )
    if year > date.today().year:
        raise ValueError(f"year must not lie in the future; {year} does.")
    return year


def download_neiss(year: int) -> Path:
    """The annual file of a year in the cache, with its SHA-256 in a file beside it."""
    import pooch
    import requests

    target = cache_dir() / "data" / "neiss" / f"neiss{year}.tsv"
    url, known = NEISS_URL.format(year=year), NEISS_SHA256.get(year)
    by_hand = (
        f"open {QUERY_PAGE}, download the archived data of {year} (neiss{year}.tsv), "
        "and pass the path of the file to load_neiss, or set HOW_SURE_NEISS to it."
    )
    with building(target) as folder:
        if folder is None:
            return target
        # Pooch counts the bar, and gives it its total when it knows it.
        with progress_bar(total=1, unit="B") as bar, _quiet(pooch.get_logger()):
            download = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=1 << 16,
                headers={"User-Agent": f"how-sure/{__version__}"},
                timeout=_TIMEOUT,
            )
            try:
                pooch.retrieve(
                    url, None, fname=target.name, path=folder, downloader=download
                )
            except requests.RequestException as error:
                words = " ".join(str(error).split())[:200].rstrip(". :")
                raise FetchError(
                    f"{url} could not be downloaded: {type(error).__name__}: {words}. "
                    f"To do it by hand, {by_hand}"
                ) from error
        with (folder / target.name).open("rb") as file:
            begin = file.read(1000).removeprefix(b"\xef\xbb\xbf").strip()
        if not begin or begin.startswith(b"<"):
            what = f"a web page that begins {begin[:60]!r}" if begin else "nothing"
            raise FetchError(
                f"{url} gave {what} instead of the file. To do it by hand, {by_hand}"
            )
        found = pooch.file_hash(folder / target.name)
        if known and found != known:
            raise FetchError(
                f"{url} gave a file with the SHA-256 {found}, not {known} as written "
                "down here: either it was damaged on the way, then a second try helps, "
                "or CPSC has revised it. Nothing was kept. To use a revised file, "
                f"{by_hand}"
            )
        check_annual_file(folder / target.name, year, name=url)
        note = target.with_name(target.name + ".sha256")
        note.write_text(f"{found}  {target.name}\n", encoding="utf-8")
    return target


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Pooch tells of every file that it loads; the errors here say enough."""
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
