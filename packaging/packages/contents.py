"""What lies where in each package."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm import __version__
from packages import commands, sbom, tree, wheels
from packages.deb import Package, write_deb, write_gzip
from packages.tools import PYTHON, ROOT

NAME: Final = "edgeslm"
DEFAULT_REVISION: Final = "1"
_SCRIPTS: Final = ROOT / "packaging" / "debian"
_UNITS: Final = sorted(
    path
    for kind in ("*.service", "*.timer")
    for path in (ROOT / "systemd").glob(kind)
    if path.stem != "edgeslm-fleet"
)  # a server's is none of a device
_SYSTEM: Final = "usr/lib/systemd/system"
_NEXT_PYTHON: Final = "3.12"
_LIBRARIES: Final = "libc6 (>= 2.34), libgcc-s1, libstdc++6"
_DEPENDS: Final = ", ".join((
    f"python3 (>= {PYTHON})",
    f"python3 (<< {_NEXT_PYTHON})",
    _LIBRARIES,
    "init-system-helpers",
    "passwd",
    # The first where neither is there: containers name the other one.
    "systemd (>= 252) | systemd-standalone-sysusers",
))  # fmt: skip
_ABOUT: Final = """\
Reads the texts that machines publish over MQTT, answers each with a language
model on the device itself, and publishes the answers.

Holds its Python packages itself; installing it needs neither network nor
compiler. Models come as bundles, which edgeslm-export makes elsewhere."""


@dataclass(frozen=True, slots=True)
class Build:
    """One run.

    Args:
        out: folder for what is built.
        epoch: time of every file, in seconds.
        revision: Debian's, of the same edgeslm.
        compressed: packages by xz.
    """

    out: Path
    epoch: int
    revision: str = DEFAULT_REVISION
    compressed: bool = True


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider that is a package of its own.

    Args:
        wheel: its name on PyPI.
        arches: of devices that have such an accelerator, and for which there is a wheel.
        dropin: of systemd/accelerators/.
        summary: one line.
        recommends: as Debian writes it.
        note: of the description.
    """

    wheel: str
    arches: tuple[str, ...]
    dropin: str
    summary: str
    note: str
    recommends: str = ""


# CUDA is none of them: onnxruntime-gpu takes the place of onnxruntime, and its wheels are bound to
# the CUDA of one JetPack.
PROVIDERS: Final = {
    "openvino": Provider(
        "onnxruntime-ep-openvino",
        ("amd64",),
        "openvino.conf",
        "edgeslm on Intel's processors, graphics and NPUs",
        "Graphics and NPU need their drop-ins too: /usr/share/edgeslm/accelerators.",
        recommends="ocl-icd-libopencl1",
    ),
    "qnn": Provider(
        "onnxruntime-qnn",
        ("arm64",),
        "qnn.conf",
        "edgeslm on Qualcomm's NPUs",
        "Libraries in it are Qualcomm's, under the licence that is installed beside them.",
    ),
}


def build_device(build: Build, arch: str, work: Path) -> list[Path]:
    """Build the package of a device, its SBOM and its wheelhouse; return their paths.

    Args:
        build: where to, and how.
        arch: amd64 or arm64.
        work: empty folder for what is made on the way.

    Raises:
        PackagingError: something cannot be built.
    """
    folder = wheels.device_wheels(arch)
    own = wheels.own_wheel(work, epoch=build.epoch)
    chosen = [*tree.needed(folder), own]
    root = work / "root"
    tree.lay_environment(root)
    tree.fill_site(root, chosen, arch=arch)
    lay_files(root)
    made = _finished(build, device_package(arch, build.revision), chosen, root)
    house = f"{NAME}-{__version__}-wheelhouse-{arch}"
    all_wheels = [*folder.glob("*.whl"), own]
    return [*made, wheels.write_wheelhouse(house, all_wheels, build.out, epoch=build.epoch)]


def build_provider(build: Build, key: str, arch: str, work: Path) -> list[Path]:
    """Build the package of a provider, and its SBOM; arguments as above.

    Raises:
        PackagingError: something cannot be built.
    """
    provider = PROVIDERS[key]
    chosen = sorted(wheels.provider_wheel(arch, provider.wheel).glob("*.whl"))
    root = work / "root"
    tree.fill_site(root, chosen, arch=arch)
    dropin = ROOT / "systemd" / "accelerators" / provider.dropin
    _copy(dropin, root / _SYSTEM / "edgeslm.service.d" / provider.dropin)
    return _finished(build, provider_package(key, arch, build.revision), chosen, root)


def device_package(arch: str, revision: str) -> Package:
    """Return what the device's package says of itself."""
    return Package(
        NAME,
        version(revision),
        arch,
        _DEPENDS,
        "small language model next to the machine",
        _ABOUT,
        scripts={name: _script(name) for name in ("postinst", "prerm", "postrm")},
    )


def provider_package(key: str, arch: str, revision: str) -> Package:
    """Return what a provider's package says of itself."""
    provider = PROVIDERS[key]
    restart = _script("provider-restart")
    return Package(
        f"{NAME}-provider-{key}",
        version(revision),
        arch,
        # The same version: what was tested together.
        f"{NAME} (= {version(revision)}), {_LIBRARIES}",
        provider.summary,
        provider.note,
        recommends=provider.recommends,
        scripts={"postinst": restart, "postrm": restart},
    )


def version(revision: str) -> str:
    """Return edgeslm's version with Debian's revision."""
    return f"{__version__}-{revision}"


def lay_files(root: Path) -> None:
    """Lay all that is not Python: command, units, users, example, manual pages, completion."""
    _copy(_SCRIPTS / "edgeslm", root / "usr" / "bin" / "edgeslm")
    systemd = ROOT / "systemd"
    for unit in _UNITS:
        _copy(unit, root / _SYSTEM / unit.name, without_hints=True)
    _copy(_SCRIPTS / "configured.conf", root / _SYSTEM / "edgeslm.service.d" / "configured.conf")
    _copy(systemd / "sysusers.conf", root / "usr/lib/sysusers.d/edgeslm.conf")
    _copy(systemd / "tmpfiles.conf", root / "usr/lib/tmpfiles.d/edgeslm.conf")
    share = root / "usr/share/edgeslm"
    _copy(ROOT / "docs" / "examples" / "agent.toml", share / "agent.toml")
    for dropin in sorted((systemd / "accelerators").glob("*.conf")):
        _copy(dropin, share / "accelerators" / dropin.name)
    (root / "etc" / "edgeslm").mkdir(parents=True)
    for name, page in commands.pages().items():
        write_gzip(root / "usr/share/man/man1" / f"{name}.gz", page.encode())
    for shell, place in commands.SHELLS.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commands.completion(shell))


def copyright_of(bundled: Iterable[sbom.Bundled]) -> str:
    """Return Debian's copyright file: of edgeslm, and of each package that comes with it."""
    head = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: edgeslm
Comment: Licences that the packages below bring along are in
 /{site}/NAME-VERSION.dist-info,
 or beside the modules that they are of.

Files: *
Copyright: the edgeslm authors
License: Apache-2.0
 /usr/share/common-licenses/Apache-2.0
"""
    return head.format(site=tree.SITE) + "".join(
        f"\nFiles: {' '.join(f'{tree.SITE}/{module}*' for module in one.modules)}\n"
        f"Copyright: the authors of {one.name} {one.version}\n"
        f"License: {one.license or 'see there'}\n"
        for one in bundled
        if one.name != NAME
    )


def _finished(build: Build, package: Package, chosen: Sequence[Path], root: Path) -> list[Path]:
    """Add copyright and SBOM, which lies beside the package as well; write both."""
    bundled = [sbom.read_wheel(wheel) for wheel in chosen]
    about = root / "usr/share/doc" / package.name
    about.mkdir(parents=True)
    (about / "copyright").write_text(copyright_of(bundled))
    parts = sbom.document(package.name, package.version, package.arch, bundled, build.epoch)
    (about / "sbom.cdx.json").write_text(parts)
    beside = build.out / package.file_name.replace(".deb", ".cdx.json")
    beside.write_text(parts)
    made = write_deb(package, root, build.out, epoch=build.epoch, compressed=build.compressed)
    return [made, beside]


def _script(name: str) -> str:
    """Return a maintainer script, which knows every unit."""
    units = " ".join(unit.name for unit in _UNITS)
    return (_SCRIPTS / name).read_text("utf-8").replace("@UNITS@", units)


def _copy(source: Path, to: Path, *, without_hints: bool = False) -> None:
    """Copy a file; of a unit, not the first comment: how to install it by hand."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if without_hints:
        to.write_text(source.read_text("utf-8").partition("\n\n")[2])
    else:
        shutil.copyfile(source, to)
