"""A stick gives its own files and nothing else, whatever somebody has put on it."""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters import stick
from edgeslm.adapters.stick import (
    StickInvalidError,
    StickMissingError,
    StickTamperedError,
    StickUnreadableError,
    open_stick,
)
from edgeslm.ports import DiskFullError, SlotsUnavailableError
from tests.blocks import sha256

BLOB = bytes(range(256)) * 5_000  # more than one read
SMALL = b"x"
FILES = {
    "index.json": b'{"schema": 1}',
    "metadata/1.root.json": b"root",
    "metadata/12.model-press%2E1.json": b"model",
    "metadata/timestamp.json": b"timestamp",
    "assignments/Press-7.json": b"envelope",
    f"blobs/{sha256(BLOB)}": BLOB,
    f"blobs/{sha256(SMALL)}": SMALL,
    f"blobs/{sha256(b'')}": b"",
}


def lay_out(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def by_gnu_tar(folder: Path, target: Path, *options: str) -> Path:
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    subprocess.run(["tar", "-C", folder, "-cf", target, *options, "."], check=True)
    return target


def by_python(folder: Path, target: Path, form: int) -> Path:
    with tarfile.open(target, "w", format=form) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return target


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda folder, _: folder,
    "gnu": by_gnu_tar,
    "gnu ustar": lambda folder, target: by_gnu_tar(folder, target, "--format=ustar"),
    "gnu pax": lambda folder, target: by_gnu_tar(folder, target, "--format=pax"),
    "python ustar": lambda folder, target: by_python(folder, target, tarfile.USTAR_FORMAT),
    "python gnu": lambda folder, target: by_python(folder, target, tarfile.GNU_FORMAT),
    "python pax": lambda folder, target: by_python(folder, target, tarfile.PAX_FORMAT),
}


@pytest.fixture(params=MAKERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A stick in each form that it may have."""
    folder = lay_out(tmp_path / "folder")
    (folder / "README.txt").write_text("for people")
    (folder / "._index.json").write_text("as other systems leave them")
    (folder / "System Volume Information").mkdir()
    (folder / "System Volume Information" / "x").touch()
    make = MAKERS[request.param]
    return make(folder, tmp_path / "stick.tar")


@pytest.fixture
def opened(source: Path) -> Iterator[stick.Stick]:
    with closing(open_stick(source)) as it:
        yield it


def test_gives_every_file_by_its_name(opened: stick.Stick, tmp_path: Path) -> None:
    for name, data in FILES.items():
        assert opened.read(name, len(data)) == data
        if name.startswith("blobs/"):
            opened.copy(name.removeprefix("blobs/"), tmp_path / "out", len(data))
            assert (tmp_path / "out").read_bytes() == data
            (tmp_path / "out").unlink()


def test_what_is_not_there_is_told(opened: stick.Stick, tmp_path: Path) -> None:
    for name in ("metadata/2.root.json", "assignments/x.json", f"blobs/{'0' * 64}"):
        with pytest.raises(StickMissingError, match=name):
            opened.read(name, 10)
    with pytest.raises(StickMissingError):
        opened.copy("0" * 64, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/index.json", "../index.json", "./index.json", "metadata", "metadata/"),
        *(
            "metadata/..",
            "metadata/../index.json",
            "metadata/.hidden",
            "README.txt",
            "index.json\0",
        ),
        *("blobs/short", f"blobs/{'A' * 64}", "metadata/a/b", "other/x", "index.json\n"),
    ],
)
def test_only_names_of_a_sticks_files_can_be_asked_for(name: str, opened: stick.Stick) -> None:
    with pytest.raises(StickInvalidError, match="no name"):
        opened.read(name, 10_000)


def test_nothing_longer_is_read_than_was_asked_for(opened: stick.Stick) -> None:
    with pytest.raises(StickInvalidError, match="13 bytes, and at most 12"):
        opened.read("index.json", 12)


def test_a_blob_of_another_size_is_not_copied(opened: stick.Stick, tmp_path: Path) -> None:
    with pytest.raises(StickTamperedError, match="1 bytes, and it should have 2"):
        opened.copy(sha256(SMALL), tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_a_blob_that_was_changed_is_not_kept(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "folder")
    (folder / "blobs" / sha256(BLOB)).write_bytes(BLOB[:-1] + b"!")
    for made in (folder, by_python(folder, tmp_path / "stick.tar", tarfile.GNU_FORMAT)):
        with closing(open_stick(made)) as opened:
            with pytest.raises(StickTamperedError, match="not its name"):
                opened.copy(sha256(BLOB), tmp_path / "out", len(BLOB))
            assert not (tmp_path / "out").exists()


def test_what_is_there_already_is_not_written_over(opened: stick.Stick, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "target")
    with pytest.raises(SlotsUnavailableError, match="File exists"):
        opened.copy(sha256(SMALL), tmp_path / "out", 1)
    assert (tmp_path / "target").read_text() == "precious"


def test_a_full_disk_is_not_the_sticks_fault(
    opened: stick.Stick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="out"):
            opened.copy(sha256(BLOB), tmp_path / "out", len(BLOB))
    assert not (tmp_path / "out").exists()


def test_a_stick_that_is_pulled_out_is_not_the_disks_fault(
    opened: stick.Stick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", gone)
        with pytest.raises(StickUnreadableError, match="Put it in again"):
            opened.copy(sha256(BLOB), tmp_path / "out", len(BLOB))
        patched.setattr(os, "pread", lambda *_: b"")
        with pytest.raises(StickTamperedError, match="ends too early"):
            opened.read("index.json", 100)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "socket", "folder"])
def test_a_folder_gives_plain_files_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lay_out(tmp_path / "folder")
    (tmp_path / "outside").write_text("secret")
    (folder / "index.json").unlink()
    if kind == "link":
        (folder / "index.json").symlink_to(tmp_path / "outside")
    elif kind == "loop":
        (folder / "index.json").symlink_to(folder / "index.json")
    elif kind == "pipe":
        os.mkfifo(folder / "index.json")
    elif kind == "socket":
        monkeypatch.chdir(folder)  # its path is too long for a socket
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("index.json")
    else:
        (folder / "index.json").mkdir()
    with closing(open_stick(folder)) as opened, pytest.raises(StickInvalidError):
        opened.read("index.json", 1_000)


def test_no_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "folder")
    (folder / "metadata").rename(tmp_path / "elsewhere")
    (folder / "metadata").symlink_to(tmp_path / "elsewhere")
    with closing(open_stick(folder)) as opened, pytest.raises(StickInvalidError, match="a link"):
        opened.read("metadata/1.root.json", 1_000)
    (tmp_path / "mounted").symlink_to(folder)
    with closing(open_stick(tmp_path / "mounted")) as opened:
        assert opened.read("index.json", 1_000), "the path that a person gives may be one"


@pytest.mark.parametrize("kind", ["nothing", "pipe", "device", "empty", "text", "nul"])
def test_what_is_no_stick_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "stick"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("x" * 2_000)
    elif kind == "nul":
        path = Path("a\0b")
    with pytest.raises((StickMissingError, StickInvalidError)) as caught:
        open_stick(path)
    assert str(path) in str(caught.value)


def test_a_compressed_tar_is_none(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "folder")
    made = by_gnu_tar(folder, tmp_path / "stick.tar.gz", "-z")
    with pytest.raises(StickInvalidError, match="compressed"):
        open_stick(made)


def member(name: str, data: bytes = b"", /, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = 0) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


GOOD = (member("index.json", SMALL), SMALL)
BAD: dict[str, tuple[str, tarfile.TarInfo]] = {
    "symbolic link": ("a link", member("metadata/x", type=tarfile.SYMTYPE, linkname="/etc")),
    "hard link": ("a hard link", member("metadata/x", type=tarfile.LNKTYPE, linkname="y")),
    "character device": ("a device", member("x", type=tarfile.CHRTYPE)),
    "block device": ("a device", member("x", type=tarfile.BLKTYPE)),
    "pipe": ("a pipe", member("x", type=tarfile.FIFOTYPE)),
    "contiguous": ("unknown kind", member("x", type=tarfile.CONTTYPE)),
    "sparse": ("holes", member("x", type=tarfile.GNUTYPE_SPARSE)),
    "absolute": ("leads out", member("/index.json")),
    "parent": ("leads out", member("metadata/../../etc/passwd")),
    "parent folder": ("leads out", member("..", type=tarfile.DIRTYPE)),
    "twice": ("twice", member("./index.json")),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_with_anything_but_plain_files_is_refused_whole(
    what: str, form: int, tmp_path: Path
) -> None:
    why, info = BAD[what]
    made = tar_of(tmp_path / "stick.tar", GOOD, (info, b""), form=form)
    with pytest.raises(StickInvalidError, match=why):
        open_stick(made)


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"name": "blobs/" + "x" * 200}, tarfile.GNU_FORMAT),
        ({"name": "blobs/" + "x" * 200}, tarfile.PAX_FORMAT),
        ({"name": "x", "pax_headers": {"path": "metadata/1.root.json"}}, tarfile.PAX_FORMAT),
        ({"name": "x", "pax_headers": {"size": "1"}}, tarfile.PAX_FORMAT),
        ({"name": "x", "pax_headers": {"GNU.sparse.name": "index.json"}}, tarfile.PAX_FORMAT),
        ({"name": "x", "pax_headers": {"comment": "y" * 20_000}}, tarfile.PAX_FORMAT),
    ],
    ids=["long by GNU", "long by PAX", "path", "size", "sparse", "without end"],
)
def test_another_name_or_size_in_an_extended_header_is_refused(
    fields: dict[str, Any], form: int, tmp_path: Path
) -> None:
    made = tar_of(tmp_path / "stick.tar", GOOD, (member("", **fields), b""), form=form)
    with pytest.raises(StickInvalidError, match=r"extended|too long"):
        open_stick(made)


def test_a_name_in_two_fields_is_one_name(tmp_path: Path) -> None:
    name = "metadata/" + "d" * 95 + ".json"
    folder = tmp_path / "stick.tar"
    tar_of(folder, (member(name, SMALL), SMALL), form=tarfile.USTAR_FORMAT)
    with closing(open_stick(folder)) as opened:
        assert opened.read(name, 1) == SMALL


def test_every_cut_of_an_archive_is_told(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "whole.tar", GOOD, (member("metadata/x", b"y"), b"y")).read_bytes()
    cut = tmp_path / "cut.tar"
    for size in (0, 1, 511, 512, 513, 1_024, 1_536, 1_537, 2_047):
        cut.write_bytes(whole[:size])
        with pytest.raises(StickInvalidError, match=r"cut|not a tar"):
            open_stick(cut)
    cut.write_bytes(whole[: 4 * 512 + 512])
    with closing(open_stick(cut)) as opened:
        assert opened.read("metadata/x", 1) == b"y"


def header(**fields: Any) -> bytes:
    return member("index.json", **fields).tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (2**33 - 1, "more bytes than any stick"),
        (2**33, "no number, or too large"),
        (4 * 2**30, r"index\.json.: the archive is cut"),
    ],
)
def test_a_declared_size_is_believed_only_as_far_as_the_archive_goes(
    size: int, why: str, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.tar"
    bomb.write_bytes(header(size=size) + bytes(1_024))
    with pytest.raises(StickInvalidError, match=why):
        open_stick(bomb)


def test_an_archive_full_of_holes_is_too_large(tmp_path: Path) -> None:
    """Its sizes are true, since the file system says so; nobody carries as much."""
    bomb = tmp_path / "bomb.tar"
    with bomb.open("wb") as file:
        for number in range(17):
            file.seek(number * (4 * 2**30 + 512))
            file.write(member(f"x{number}", size=4 * 2**30).tobuf(tarfile.GNU_FORMAT))
        file.truncate(17 * (4 * 2**30 + 512) + 1_024)
    with pytest.raises(StickInvalidError, match="more bytes than any stick"):
        open_stick(bomb)


def test_an_archive_of_countless_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(member(f"x{n}"), b"") for n in range(50)]
    made = tar_of(tmp_path / "stick.tar", *members)
    open_stick(made).close()
    monkeypatch.setattr(stick, "MAX_MEMBERS", 50)
    with pytest.raises(StickInvalidError, match="more than 50 files"):
        open_stick(made)


def test_a_flipped_bit_in_a_header_is_told(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "whole.tar", GOOD).read_bytes()
    changed = tmp_path / "changed.tar"
    for place in (0, 100, 124, 130, 156, 257, 511):
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StickInvalidError, match="damaged"):
            open_stick(changed)
