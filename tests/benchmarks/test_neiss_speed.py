"""Time and memory to read an annual file of injuries; by ``make bench``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.datasets.neiss_files import HEADER

N_CASES = 360_000
WORDS = (
    "PT FELL FROM BED LADDER STAIRS CUT THUMB WITH KNIFE PLAYING BASKETBALL TRIPPED "
    "OVER RUG AT HOME PAIN LEFT RIGHT WRIST RIDING BIKE HIT CURB ONTO KITCHEN FLOOR"
).split()
# In a process of its own, so that the peak is that of this work alone.
SCRIPT = """
import re, sys, time
from pathlib import Path
from helpers.datasets import load_neiss

def memory(field):
    status = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\\s+(\\d+)", status)[1]) / 1024

before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
cases = load_neiss(sys.argv[1])
print(len(cases), time.perf_counter() - start, time.process_time() - cpu)
print(memory("VmHWM") - before)
"""


def write_file(path: Path) -> None:
    rng = np.random.default_rng(0)
    phrases = [" ".join(rng.choice(WORDS, 25)) for _ in range(5_000)]
    first, second = rng.integers(5_000, size=(2, N_CASES))
    with path.open("w", newline="") as file:
        file.write("\t".join(HEADER) + "\r\n")
        for at in range(N_CASES):
            narrative = f"25YOM {phrases[first[at]]} {phrases[second[at]][:60]} DX: FX"
            if at % 60_000 == 9:
                narrative = narrative.replace(" ", "\r\n", 1)
            file.write(
                f"{220_000_000 + at}\t{at % 12 + 1:02d}/15/2022\t25\t{at % 2 + 1}\t0\t"
                f"\t0\t{(75, 92, 76, 31)[at % 4]}\t59\t\t\t\t\t1\t0\t0\t464\t0\t0\t0\t0"
                f"\t{narrative}\t{'SMLVC'[at % 5]}\t{at % 99 + 1}\t17.1234\r\n"
            )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_year_is_read_in_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "neiss2022.tsv"
    write_file(path)
    command = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n, seconds, cpu_seconds, megabytes = map(float, done.stdout.split())
    with capsys.disabled():
        print(f"\nload_neiss, {N_CASES:,} cases, {path.stat().st_size / 1e6:.0f} MB")
        print(f"  time        {seconds:6.1f} s, of a processor {cpu_seconds:.1f} s")
        print(f"  peak memory {megabytes:6.0f} MiB above the start")
    assert n > 0.95 * N_CASES
    assert cpu_seconds < 10  # what others do on the machine does not count
    assert megabytes < 1000
