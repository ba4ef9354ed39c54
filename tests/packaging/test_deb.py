"""A package of the same files is the same bytes, whoever builds it, and says what it must."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from packages.contents import PROVIDERS, device_package, provider_package
from packages.deb import Package, installed_kib, write_deb
from packages.tools import PackagingError, call, source_epoch

EPOCH = 1_700_000_000
PACKAGE = Package(
    "tiny", "1.0-1", "amd64", "libc6", "a tiny one", "For tests.\n\nTwo paragraphs."
)  # fmt: skip
FILES = {"usr/bin/tiny": "#!/bin/sh\n", "usr/lib/tiny/b": "b" * 3000, "usr/lib/tiny/a": "a"}

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def laid(root: Path, names: list[str]) -> Path:
    """Lay FILES in that order, and a link."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name])
    (root / "usr/lib/tiny/link").symlink_to("a")
    return root


def built(root: Path, out: Path, *, compressed: bool = True) -> Path:
    out.mkdir()
    package = replace(PACKAGE, scripts={"postinst": "#!/bin/sh\n"})
    return write_deb(package, root, out, epoch=EPOCH, compressed=compressed)


@pytest.mark.parametrize("compressed", [True, False])
def test_the_same_files_give_the_same_bytes(tmp_path: Path, *, compressed: bool) -> None:
    """Whatever order they were written in, when, and under which umask."""
    once = built(laid(tmp_path / "a", sorted(FILES)), tmp_path / "1", compressed=compressed)
    before = os.umask(0o077)
    try:
        other = laid(tmp_path / "b", sorted(FILES, reverse=True))
        os.utime(other / "usr/lib/tiny/a", (1, 1))
        again = built(other, tmp_path / "2", compressed=compressed)
    finally:
        os.umask(before)
    assert once.name == again.name == "tiny_1.0-1_amd64.deb"
    assert once.read_bytes() == again.read_bytes()
    (tmp_path / "c").mkdir()
    third = laid(tmp_path / "c", sorted(FILES))
    (third / "usr/lib/tiny/a").write_text("A")
    assert built(third, tmp_path / "3", compressed=compressed).read_bytes() != once.read_bytes()


def test_everything_is_roots_and_only_commands_run(tmp_path: Path) -> None:
    deb = built(laid(tmp_path / "root", sorted(FILES)), tmp_path / "out")
    listed = [line.split() for line in call(["dpkg-deb", "-c", str(deb)]).splitlines()]
    assert {row[1] for row in listed} == {"root/root"}
    modes = {row[5]: row[0] for row in listed}
    assert modes["./usr/bin/tiny"] == "-rwxr-xr-x"
    assert modes["./usr/lib/tiny/a"] == "-rw-r--r--"
    assert modes["./usr/lib/tiny/"] == "drwxr-xr-x"
    assert modes["./usr/lib/tiny/link"].startswith("l")


def test_its_sums_are_those_of_its_files(tmp_path: Path) -> None:
    deb = built(laid(tmp_path / "root", sorted(FILES)), tmp_path / "out")
    call(["dpkg-deb", "-R", str(deb), str(tmp_path / "got")])
    done = subprocess.run(
        ["md5sum", "--check", "--strict", "DEBIAN/md5sums"], cwd=tmp_path / "got", check=False
    )
    assert done.returncode == 0
    assert len((tmp_path / "got/DEBIAN/md5sums").read_text().splitlines()) == len(FILES)


def test_the_size_is_counted_as_debian_does(tmp_path: Path) -> None:
    root = laid(tmp_path / "root", sorted(FILES))
    # 1 + 3 + 1 KiB of files; usr, bin, lib, tiny and the link
    assert installed_kib(root) == 10
    deb = built(root, tmp_path / "out")
    assert call(["dpkg-deb", "-f", str(deb), "Installed-Size"]) == "10\n"


@pytest.mark.parametrize(
    "package",
    [device_package("amd64", "1"), *(provider_package(key, "amd64", "1") for key in PROVIDERS)],
    ids=lambda package: package.name,
)
def test_a_package_says_what_it_needs(package: Package, tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.write_text(package.control(installed_kib=1))
    root = tmp_path / "root"
    root.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    deb = write_deb(package, root, out, epoch=EPOCH)
    assert call(["dpkg-deb", "-f", str(deb)]) == control.read_text().replace(
        "Installed-Size: 1\n", "Installed-Size: 0\n"
    )
    if package.name == "edgeslm":
        assert "python3 (>= 3.11), python3 (<< 3.12)" in package.depends
    else:
        assert package.depends.startswith("edgeslm (= ")


def test_the_time_is_the_given_one_or_the_last_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12")
    assert source_epoch() == 12
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "noon")
    with pytest.raises(PackagingError, match="noon"):
        source_epoch()


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(PackagingError, match=r"sh failed: oh"):
        call(["sh", "-c", "echo oh >&2; exit 3"])
    with pytest.raises(PackagingError, match=r"no-such is not installed"):
        call(["no-such"])
