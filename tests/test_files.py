"""Rules of helpers.files: a file is there whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.files import (
    FetchError,
    WheelFile,
    building,
    cache_dir,
    file_from_wheel,
    read_json,
    write_json,
    writing,
)

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


def test_file_comes_out_of_the_wheel_and_then_needs_no_network(
    source, target, monkeypatch
):
    assert file_from_wheel(source, target) == target
    assert target.read_bytes() == DATA
    assert left_in(target.parent) == ["data.bin"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip again"))
    assert file_from_wheel(source, target).read_bytes() == DATA


@pytest.mark.parametrize("which", ["wheel_sha256", "member_sha256"])
def test_wrong_hash_keeps_nothing(source, target, which):
    with pytest.raises(FetchError, match="has the SHA-256 .* try again"):
        file_from_wheel(replace(source, **{which: sha256(b"another")}), target)
    assert left_in(target.parent) == []
    assert file_from_wheel(source, target).read_bytes() == DATA


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (1, "No matching distribution", "(?s)pip download --no-deps tiny.*No matching"),
        (0, "", "could not download"),
        (2, "[Errno 28] No space left on device", "No space left for"),
    ],
)
def test_failing_pip_says_what_to_do(source, target, monkeypatch, code, said, expected):
    done = subprocess.CompletedProcess([], code, stdout="", stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(FetchError, match=expected):
        file_from_wheel(source, target)
    assert left_in(target.parent) == []


FULL, OWN = (
    "set HOW_SURE_CACHE to a folder on a larger",
    "Set HOW_SURE_CACHE to a folder",
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
        (Exception("Error while serializing: No space left on device"), FULL),
        (PermissionError(errno.EACCES, "Permission denied"), OWN),
        (OSError(errno.EROFS, "Read-only file system"), OWN),
    ],
    ids=["disk", "quota", "safetensors", "locked", "read-only"],
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_disk_that_cannot_be_written_says_what_to_do(
    target, monkeypatch, error, message, when
):
    def refuse(*_, **__):
        raise error

    if when == "before":
        monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FetchError, match=message), building(target):
        refuse()
    assert not target.parent.exists() or left_in(target.parent) == []


def test_other_errors_come_through_as_they_are(target):
    with pytest.raises(ZeroDivisionError), building(target):
        raise ZeroDivisionError
    assert left_in(target.parent) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("once", [True, False])
def test_nothing_has_the_final_name_before_it_is_whole(target, kind, once):
    def put(path, data):
        if kind == "folder":
            path.mkdir()
            path = path / "weights"
        path.write_bytes(data)

    def data():
        return (target / "weights" if kind == "folder" else target).read_bytes()

    with building(target) as folder:
        assert folder is not None
        put(folder / target.name, DATA)
        assert not target.exists()
    assert data() == DATA
    if once:
        with building(target) as folder:
            assert folder is None
        return
    for error in (KeyboardInterrupt, None):
        with contextlib.suppress(KeyboardInterrupt), writing(target) as unfinished:
            put(unfinished, b"new")
            assert data() == DATA
            if error:
                raise error
    assert data() == b"new"
    assert left_in(target.parent) == [target.name]


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | st.text() | numbers
lists = st.lists(plain, max_size=3)
VALUES = plain | lists | st.dictionaries(st.text(), plain | lists, max_size=3)


@given(VALUES)
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(value, path)
    assert read_json(path, lambda stored: stored) == value
    assert left_in(path.parent) == ["value.json"]


@pytest.mark.parametrize("text", ["", "{", "[NaN]", "[1, -Infinity]", "1e999", "\xff"])
def test_what_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "value.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"value\.json is no JSON"):
        read_json(path, dict)
    with pytest.raises(ValueError):
        write_json(float("nan"), path)
    assert path.read_bytes() == text.encode("latin-1")


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
def test_process_killed_half_way_leaves_nothing_that_counts(source, target, root):
    child = subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, str(target)], stdout=subprocess.PIPE, cwd=root
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


SLOWLY = """
import sys, time
from pathlib import Path
from helpers.files import building
target = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with building(target) as folder:
    if folder is not None:
        print("builds")
        time.sleep(0.3)
        (folder / target.name).write_bytes(b"0123456789")
print(target.read_bytes().decode())
"""


def test_of_two_processes_one_builds_and_the_other_waits(target, root):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", SLOWLY, str(target)]
    children = [subprocess.Popen(command, cwd=root, **pipes) for _ in range(2)]
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    said = [child.communicate(timeout=30)[0].split() for child in children]
    assert sorted(said) == [["0123456789"], ["builds", "0123456789"]]


@pytest.mark.parametrize("value", ["/elsewhere", "", None])
def test_environment_names_the_cache_folder(monkeypatch, value):
    monkeypatch.delenv("HOW_SURE_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("HOW_SURE_CACHE", value)
    assert cache_dir() == Path(value or platformdirs.user_cache_dir("how-sure"))
