"""A full disk: told as that whichever library came upon it, and nothing half-done is left."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeslm.errors import RejectedError
from edgeslm.runtime.profiles import detect_profile
from exporters import cli
from exporters.cache import CacheError, kept
from exporters.room import DiskError, needing_room, temporary
from exporters.sources.base import SourceError

pytestmark = pytest.mark.usefixtures("own_cache")

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk a write fails, by whatever library: here where a file grows too large."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("error", [RuntimeError("not written"), OSError(errno.EIO, "I/O error")])
def test_what_fails_where_a_disk_is_full_is_told_as_that(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match="File too large; make room, or go elsewhere"),
        files_of_at_most(9),
        needing_room(tmp_path, remedy="go elsewhere"),
    ):
        raise error
    with pytest.raises(type(error), match=str(error.args[-1])), needing_room(tmp_path, remedy=""):
        raise error


def test_an_error_of_ours_is_told_as_a_full_disk_only_where_it_says_so(tmp_path: Path) -> None:
    """Where a library's words are in it; a mistake in the data is one on a full disk, too."""
    with pytest.raises(DiskError), needing_room(tmp_path, remedy=""):
        raise SourceError(str(FULL))
    with (
        pytest.raises(RejectedError, match="no such label"),
        files_of_at_most(9),
        needing_room(tmp_path, remedy=""),
    ):
        raise RejectedError("no such label")  # noqa: EM101, TRY003


def test_the_folder_that_is_full_is_named_and_empty_after(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_bytes(bytes(9))
        raise FULL

    with pytest.raises(CacheError, match=r"No space left .* EDGESLM_CACHE"):
        kept("kind", "key", make)
    assert list((own_cache / "kind").iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DiskError, match="make room, or set TMPDIR"), temporary():
        raise FULL


def test_an_export_on_a_full_disk_ends_with_its_status_and_what_was_there_stays(
    toy_model: Path, orders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    words = ["intent", "--model", toy_model, "--data", orders, "--name", "toy", "--version", "1"]
    words += ["--profile", detect_profile().name, "--out", place / "out", "--allow-drop"]
    argv = list(map(str, words))
    assert cli.main(argv) == 0
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    capsys.readouterr()
    with files_of_at_most(3_000):
        assert cli.main(argv) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"edgeslm-export: {place}: File too large; make room, or choose another --out [export.disk]"
    )
    assert {file: file.read_bytes() for file in place.rglob("*") if file.is_file()} == before
    assert [file.name for file in place.iterdir()] == ["out"]
