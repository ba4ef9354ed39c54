"""Cores are counted; memory is measured, and given back after loading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from edgeslm.adapters import process
from edgeslm.adapters.process import clean_libraries, cores, pss_mb, rss_mb


def test_measures_this_process() -> None:
    own = pss_mb()
    assert own is not None
    assert 1 < own < 10_000
    assert rss_mb() > 1
    assert pss_mb(os.getpid()) == pytest.approx(own, rel=0.2)
    assert cores() == len(os.sched_getaffinity(0))


def test_without_linux_nothing_is_invented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(process, "PROC", tmp_path / "proc")
    assert cores() == os.cpu_count()
    assert pss_mb() is pss_mb(os.getpid()) is None
    assert rss_mb() == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_a_process_that_is_not_there_is_an_os_error() -> None:
    highest = int(Path("/proc/sys/kernel/pid_max").read_text("ascii"))
    with pytest.raises(OSError, match="No such file"):
        pss_mb(highest + 1)


SMAPS = """\
1000-3000 r-xp 00000000 fe:00 12 /usr/lib/libc.so.6
Rss: 8 kB
Anonymous: 0 kB
VmFlags: rd ex mr mw me
3000-4000 r--p 00000000 fe:00 12 /usr/lib/libc.so.6
Anonymous: 4 kB
4000-5000 rw-p 00000000 fe:00 12 /usr/lib/libc.so.6
Anonymous: 0 kB
5000-6000 r--p 00000000 fe:00 13 /srv/model.onnx.data
Anonymous: 0 kB
6000-7000 r--p 00000000 00:00 0
Anonymous: 0 kB
7000-9000 r--p 00000000 fe:00 14 /a b/x.abi3.so (deleted)
Anonymous: 0 kB
"""


def test_gives_back_only_library_pages_that_nobody_can_have_written() -> None:
    assert clean_libraries(SMAPS) == [(0x1000, 0x3000), (0x7000, 0x9000)]
    assert clean_libraries("") == []


TRIMMED = """
import gc, onnxruntime
from edgeslm.adapters.process import rss_mb, trim
before = rss_mb()
trim()
assert rss_mb() < before - 10, (before, rss_mb())
assert gc.get_freeze_count() > 10_000
assert onnxruntime.get_available_providers()
"""


def test_trim_gives_memory_back_and_everything_still_works() -> None:
    """In a process of its own: memory goes back once, and the collector's state is global."""
    done = subprocess.run([sys.executable, "-c", TRIMMED], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


GIVEN_BACK = """
import threading
from edgeslm.adapters.process import give_back, rss_mb
def burst():
    messages = [b"%d" % i * 100 for i in range(50_000)]
    last.append(messages[-1])  # it lies above all that is freed
last = []
model = b"x" * (30 << 20)
del model  # glibc trims itself only beyond twice as much from now on
thread = threading.Thread(target=burst)
thread.start()
thread.join()
before = rss_mb()
give_back()
assert rss_mb() < before - 10, (before, rss_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_what_a_burst_took_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's alone")
def test_what_is_written_is_counted_where_the_kernel_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (process.written_mb() or 0.0) >= 0
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(process, "PROC", tmp_path)
    assert process.written_mb() is None
    (tmp_path / "self/io").write_text("wchar: 7\nwrite_bytes: 3145728\n")
    assert process.written_mb() == 3.0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's alone")
def test_to_read_again_leaves_nothing_among_the_interpreters_strings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is done every second: see the test of bundles that are looked at again."""
    process.rss_mb()
    process.written_mb()
    with monkeypatch.context() as patched:
        interned = Mock(wraps=sys.intern)
        patched.setattr(sys, "intern", interned)
        assert process.rss_mb() > 1
        process.written_mb()
    interned.assert_not_called()
