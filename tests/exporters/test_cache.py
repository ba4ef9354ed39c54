"""The cache: a folder is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.cache import CacheError, cache_folder, kept, key_of

pytestmark = pytest.mark.usefixtures("own_cache")
lists = st.lists(st.binary(max_size=4), max_size=4)


@given(one=lists, other=lists)
def test_keys_differ_where_parts_do(one: list[bytes], other: list[bytes]) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


def test_what_was_made_once_is_found_again(own_cache: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    first, second = kept("kind", "key", make), kept("kind", "key", make)
    assert first == second == own_cache / "kind" / "key"
    assert (first / "file").read_text() == "content"
    assert len(made) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_interrupted_leaves_nothing(own_cache: Path, error: type[BaseException]) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(error):
        kept("kind", "key", make)
    assert list((own_cache / "kind").iterdir()) == []


def test_two_at_once_agree_on_one(own_cache: Path) -> None:
    def make(folder: Path) -> None:
        rival = own_cache / "kind" / "key"
        rival.mkdir()
        (rival / "file").write_text("first")
        (folder / "file").write_text("second")

    assert (kept("kind", "key", make) / "file").read_text() == "first"


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="set EDGESLM_CACHE"):
        kept("kind", "key", lambda _: None)


def test_the_users_cache_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/edgeslm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/edgeslm")
