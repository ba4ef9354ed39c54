"""Whenever the power is cut, a file is the old one or the new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from edgeslm.adapters.fs import remove_unfinished, write_durably

STEPS: Final = ("make", "write", "flush", "rename", "flush folder")

# Is killed by the system at the named step: before it, or in the middle of a write.
KILLED: Final = """
import os, resource, signal, sys, tempfile
from pathlib import Path
from edgeslm.adapters.fs import remove_unfinished, write_durably
target, step = Path(sys.argv[1]), sys.argv[2]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if step == "make":
    tempfile.mkstemp = die
elif step == "write":
    signal.signal(signal.SIGXFSZ, lambda *_: die())
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
elif step == "flush":
    os.fsync = die
elif step == "rename":
    os.replace = die
else:
    real = os.open
    os.open = lambda path, flags, *a: (die if flags & os.O_DIRECTORY else real)(path, flags, *a)
write_durably(target, b"new" * 100_000)
"""


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "state"
    for data in (b"old", b"", b"new" * 100_000):
        write_durably(target, data)
        assert target.read_bytes() == data
    assert os.listdir(tmp_path) == ["state"]  # noqa: PTH208


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_process_killed_at_any_step_leaves_the_old_or_the_new(
    step: str, before: bytes | None, tmp_path: Path
) -> None:
    target = tmp_path / "state"
    if before is not None:
        write_durably(target, before)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(target), step], check=False, capture_output=True
    )
    assert child.returncode == -9, child.stderr
    renamed = step == "flush folder"
    assert (target.read_bytes() if target.exists() else None) == (
        b"new" * 100_000 if renamed else before
    )
    write_durably(target, b"next")
    assert target.read_bytes() == b"next", "what a killed process left is in nobody's way"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_and_no_litter(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "state"
    write_durably(target, b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match="No space"):
        write_durably(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]  # noqa: PTH208


def test_flushes_the_file_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is what a power cut tests, and a file system in memory does not."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"  # noqa: PTH112
        size = os.fstat(fd).st_size if kind == "file" else 3
        steps.append(f"flush {kind} of {size}")
        fsync(fd)

    def note_replace(source: str, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_durably(tmp_path / "state", b"new")
    assert steps == ["flush file of 3", "rename", "flush folder of 3"]


def test_what_a_kill_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "verdict.json"
    write_durably(target, b"old")
    argv = [sys.executable, "-c", KILLED, str(target), "rename"]
    assert subprocess.run(argv, check=False).returncode < 0
    (tmp_path / ".hidden").touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "verdict.json"]
    assert target.read_bytes() == b"old"
    remove_unfinished(tmp_path / "absent")
