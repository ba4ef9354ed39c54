"""A slot is filled with the files that are wanted, from what is there and from elsewhere."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.fleet import BlobFile, BlockList
from edgeslm.ports import DiskFullError, SlotsUnavailableError
from edgeslm.runtime.bundle import Bundle, BundleInvalidError, BundleTamperedError, open_bundle
from edgeslm.updater.install import Bring, IncompleteError, fill, verify
from tests.blocks import block_list, bringing, sha256
from tests.runtime.tiny import graph, write_bundle

PATHS = {"golden.jsonl", "manifest.json", "model.onnx", "model.onnx.data", "parameters.json"}
PATHS |= {"tokenizer.json"}
OTHER = {"parameters.json": json.dumps(["red", "green", "violet"]).encode()}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("old") / "bundle")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with other labels: two files differ."""
    return write_bundle(tmp_path_factory.mktemp("new") / "bundle", files=OTHER, version=2)


def never(file: BlobFile, into: Path) -> NoReturn:
    pytest.fail(f"{file.path} is there already, in {into.parent}")


def install(blocks: BlockList, into: Path, *, bring: Bring, near: tuple[Path, ...] = ()) -> Bundle:
    fill(blocks, into, near=near, bring=bring)
    return verify(blocks, into)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_fills_an_empty_slot_with_what_is_brought(new: Path, tmp_path: Path) -> None:
    brought: list[str] = []
    arrived: list[str] = []
    blocks = block_list(new)
    fill(
        blocks,
        tmp_path / "a",
        near=(),
        bring=bringing(new, brought),
        arrived=lambda file: arrived.append(file.path),
    )
    assert verify(blocks, tmp_path / "a").hash == blocks.bundle
    assert set(brought) == files_in(tmp_path / "a") == PATHS
    assert brought[-1] == "manifest.json", "it says that all the others are there"
    assert arrived == brought


def test_what_the_other_slot_has_is_copied_and_not_brought(
    old: Path, new: Path, tmp_path: Path
) -> None:
    brought: list[str] = []
    missing = tmp_path / "not there"
    install(block_list(new), tmp_path / "a", bring=bringing(new, brought), near=(missing, old))
    assert brought == ["parameters.json", "manifest.json"]
    install(block_list(old), tmp_path / "b", bring=never, near=(tmp_path / "a", old))


def test_a_file_is_found_under_another_name_too(old: Path, tmp_path: Path) -> None:
    """A manifest says where; what it says is held against the hash."""
    source = tmp_path / "source"
    shutil_copy(old, source)
    manifest = json.loads((source / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        (source / artifact["path"]).rename(source / f"x{artifact['path']}")
        artifact["path"] = f"x{artifact['path']}"
    (source / "manifest.json").write_text(json.dumps(manifest))
    brought: list[str] = []
    install(block_list(old), tmp_path / "a", bring=bringing(old, brought), near=(source,))
    assert brought == ["manifest.json"]
    (source / "xtokenizer.json").write_bytes(b"[" * (old / "tokenizer.json").stat().st_size)
    brought = []
    install(block_list(old), tmp_path / "b", bring=bringing(old, brought), near=(source,))
    assert brought == ["tokenizer.json", "manifest.json"]


def shutil_copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def test_a_damaged_or_strange_neighbour_is_no_source(old: Path, new: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil_copy(old, source)
    whole = (source / "model.onnx.data").read_bytes()
    (source / "model.onnx.data").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (source / "tokenizer.json").unlink()
    os.mkfifo(source / "tokenizer.json")
    (source / "golden.jsonl").unlink()
    (source / "golden.jsonl").mkdir()
    (source / "model.onnx").write_bytes(b"cut")
    brought: list[str] = []
    install(block_list(new), tmp_path / "a", bring=bringing(new, brought), near=(source,))
    assert set(brought) == PATHS


def test_run_again_it_keeps_what_is_whole(new: Path, tmp_path: Path) -> None:
    into, blocks = tmp_path / "a", block_list(new)
    calls: list[str] = []

    def stops(file: BlobFile, target: Path) -> None:
        if len(calls) == 3:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        calls.append(file.path)
        bringing(new)(file, target)

    with pytest.raises(KeyboardInterrupt):
        fill(blocks, into, near=(), bring=stops)
    brought: list[str] = []
    install(blocks, into, bring=bringing(new, brought))
    assert set(brought) == PATHS - set(calls)
    install(blocks, into, bring=never)


def test_what_does_not_belong_there_is_removed(new: Path, tmp_path: Path) -> None:
    into, outside = tmp_path / "a", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (into / "deep" / "deeper").mkdir(parents=True)
    (into / "deep" / "deeper" / "file").touch()
    (into / ".manifest.json.abc").touch()
    (into / "model.onnx").mkdir()
    (into / "tokenizer.json").symlink_to(new / "tokenizer.json")
    (into / "out").symlink_to(outside)
    os.mkfifo(into / "pipe")
    (into / "golden.jsonl").symlink_to(into / "golden.jsonl")
    install(block_list(new), into, bring=bringing(new))
    assert files_in(into) == PATHS == {path.name for path in into.iterdir()}
    assert not any(path.is_symlink() for path in into.iterdir())
    assert (outside / "precious").exists()


def in_folders(folder: Path) -> Path:
    """A bundle whose files lie in folders."""
    write_bundle(folder, model=graph())
    manifest = json.loads((folder / "manifest.json").read_text())
    for number, artifact in enumerate(manifest["artifacts"]):
        path = f"d{number % 2}/e/{artifact['path']}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / artifact["path"]).rename(folder / path)
        artifact["path"] = path
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_folders_are_made_and_the_group_may_read_all_of_it(tmp_path: Path) -> None:
    source = in_folders(tmp_path / "source")
    into = tmp_path / "x" / "press" / "a"
    (tmp_path / "x").mkdir()
    bring = bringing(source)

    def private(file: BlobFile, target: Path) -> None:
        bring(file, target)
        target.chmod(0o600)

    install(block_list(source), into, bring=private, near=())
    for path in (into.parent, into, *into.rglob("*")):
        expected = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    (into / "d0").rename(into / "d2")
    (into / "d0").symlink_to(into / "d2")
    install(block_list(source), into, bring=bring)
    assert not (into / "d0").is_symlink()
    assert not (into / "d2").exists()


def test_everything_is_flushed_and_the_manifest_last(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what a killed process had written and not flushed: a power cut may follow."""
    flushed: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    for _ in range(2):
        flushed.clear()
        install(block_list(new), tmp_path / "slot", bring=bringing(new), near=(old,))
        assert set(flushed) >= {*PATHS, "slot"}
        before, after = flushed[: flushed.index("manifest.json")], flushed[-2:]
        assert set(before) >= {*PATHS - {"manifest.json"}, "slot"}
        assert after == ["manifest.json", "slot"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _: None,
        lambda target: target.write_bytes(b""),
        lambda target: target.write_bytes(b"x" * 9),
        lambda target: target.mkdir(),
        os.mkfifo,
        lambda target: target.symlink_to("/etc/hostname"),
    ],
    ids=["nothing", "empty", "other", "folder", "pipe", "link"],
)
def test_what_is_brought_is_held_against_its_hash(
    wrong: Callable[[Path], object], new: Path, tmp_path: Path
) -> None:
    bring = bringing(new)

    def fails(file: BlobFile, target: Path) -> None:
        (wrong if file.path == "parameters.json" else lambda path: bring(file, path))(target)

    with pytest.raises(IncompleteError, match=r"parameters\.json"):
        fill(block_list(new), tmp_path / "a", near=(), bring=fails)
    assert not (tmp_path / "a" / "parameters.json").exists()
    assert not (tmp_path / "a" / "manifest.json").exists()
    install(block_list(new), tmp_path / "a", bring=bring)


def test_a_link_to_the_right_file_is_not_the_file(new: Path, tmp_path: Path) -> None:
    def links(file: BlobFile, target: Path) -> None:
        target.symlink_to(new / file.path)

    with pytest.raises(IncompleteError):
        fill(block_list(new), tmp_path / "a", near=(), bring=links)


def test_a_disk_that_loses_a_file_is_told_from_a_bundle_at_fault(new: Path, tmp_path: Path) -> None:
    into, blocks = tmp_path / "a", block_list(new)
    for path in sorted(PATHS):
        install(blocks, into, bring=bringing(new))
        data = (into / path).read_bytes()
        (into / path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(IncompleteError, match=path):
            verify(blocks, into)
    with pytest.raises(IncompleteError):
        verify(blocks, tmp_path / "not there")


def test_a_block_list_that_does_not_fit_its_manifest_is_at_fault(new: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil_copy(new, source)
    (source / "extra.bin").write_bytes(b"not in the manifest")
    fill(block_list(source), tmp_path / "a", near=(), bring=bringing(source))
    with pytest.raises(BundleTamperedError, match=r"extra\.bin"):
        verify(block_list(source), tmp_path / "a")
    (source / "extra.bin").unlink()
    (source / "manifest.json").write_text("{}")
    fill(block_list(source), tmp_path / "a", near=(), bring=bringing(source))
    with pytest.raises(BundleInvalidError):
        verify(block_list(source), tmp_path / "a")


class Disk:
    """As `os.statvfs` has it, with so many free bytes."""

    f_frsize = 1024

    def __init__(self, free: int) -> None:
        self.f_bavail = free // self.f_frsize


def test_room_is_asked_for_before_anything_is_brought(
    new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, into = block_list(new), tmp_path / "a"
    free = 0
    monkeypatch.setattr(os, "statvfs", lambda _: Disk(free))
    with pytest.raises(DiskFullError, match="3 MiB too few"):
        fill(blocks, into, near=(), bring=never, keep_free=3 * 2**20 - 30_000)
    clusters = sum(-(-file.size // 4096) * 4096 for file in blocks.files)
    free = clusters - 1024
    with pytest.raises(DiskFullError, match="1 MiB too few"):
        fill(blocks, into, near=(), bring=never)
    # What is in place, or under way to it, needs no room again.
    held = {file.sha256: 1024 for file in blocks.files if file.path == "parameters.json"}
    fill(blocks, into, near=(), bring=bringing(new), held=lambda file: held.get(file.sha256, 0))
    free = 0
    fill(blocks, into, near=(), bring=never, keep_free=2**40)
    (into / "parameters.json").unlink()
    free = 2 * 4096  # it and the manifest
    fill(blocks, into, near=(), bring=bringing(new))


@pytest.mark.parametrize("step", ["bring", "copy", "mkdir", "fsync", "unlink"])
@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, DiskFullError), (errno.EIO, SlotsUnavailableError)]
)
def test_a_disk_that_refuses_is_a_typed_error_and_harms_nothing_else(  # noqa: PLR0913, PLR0917
    step: str,
    number: int,
    expected: type[Exception],
    old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = in_folders(tmp_path / "source")
    active, into = tmp_path / "b", tmp_path / "a"
    install(block_list(old), active, bring=bringing(old))
    before = {path: path.read_bytes() for path in active.iterdir()}
    into.mkdir(0o750)
    (into / "stranger").touch()

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if step == "copy":
            patched.setattr("edgeslm.updater.install.os.fdopen", full_after_open(refuse))
        elif step != "bring":
            patched.setattr(os, step, refuse)
        bring = refuse if step == "bring" else bringing(source)
        with pytest.raises(expected, match=os.strerror(number)):
            fill(block_list(source), into, near=(active,), bring=bring)
    assert {path: path.read_bytes() for path in active.iterdir()} == before
    open_bundle(active)
    install(block_list(source), into, bring=bringing(source), near=(active,))


def full_after_open(refuse: Callable[[], NoReturn]) -> Callable[..., object]:
    """`os.fdopen` whose files for writing refuse to be written."""
    fdopen = os.fdopen

    def opened(fd: int, mode: str, buffering: int = -1) -> object:
        file = fdopen(fd, mode, buffering)
        if "w" in mode:
            file.close()
            refuse()
        return file

    return opened


def litter(into: Path, source: Path, rng: random.Random) -> None:
    """Leave anything at all where a bundle's files shall lie, and elsewhere."""
    for path in [*sorted(PATHS), "x/y", ".z"]:
        what = rng.choice(["noise", "whole", "folder", "link", "nothing"])
        if what != "nothing":
            (into / path).parent.mkdir(exist_ok=True)
        if what == "noise" or (what == "whole" and path not in PATHS):
            (into / path).write_bytes(rng.randbytes(rng.randrange(50)))
        elif what == "whole":
            (into / path).write_bytes((source / path).read_bytes())
        elif what == "folder":
            (into / path).mkdir()
        elif what == "link":
            (into / path).symlink_to(rng.choice(["/", path, "..", str(source)]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), stops=st.integers(0, 8))
def test_from_whatever_is_in_the_slot_it_ends_with_the_bundle(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stops: int
) -> None:
    root = tmp_path_factory.mktemp("any")
    source, into = write_bundle(root / "source", version=3), root / "a"
    into.mkdir()
    litter(into, source, random.Random(seed))  # noqa: S311 -- not for secrets
    left = stops
    bring = bringing(source)

    def sometimes(file: BlobFile, target: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        bring(file, target)

    for _ in range(2):
        try:
            bundle = install(block_list(source), into, bring=sometimes)
        except KeyboardInterrupt:
            assert not (into / "manifest.json").exists()
    assert bundle.hash == sha256((source / "manifest.json").read_bytes())
    assert files_in(into) == PATHS
