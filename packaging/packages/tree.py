"""The Python tree of a package: an environment of its own, without what a device never needs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from packages import wheels
from packages.tools import PYTHON, PackagingError, call

HOME: Final = PurePosixPath("usr/lib/edgeslm")
SITE: Final = HOME / "lib" / f"python{PYTHON}" / "site-packages"
# Asked for by a package whose part that needs it is never imported here.
UNUSED: Final = {
    # tokenizers: to fetch tokenizers from a hub
    **dict.fromkeys(
        (
            *("certifi", "charset_normalizer", "filelock", "fsspec", "hf_xet", "huggingface_hub"),
            *("idna", "pyyaml", "requests", "tqdm"),
        ),
        "tokenizers",
    ),
    # onnxruntime: its tools, which convert and quantise; QNN's the same
    **dict.fromkeys(("flatbuffers", "protobuf", "packaging"), "onnxruntime"),
    "pycparser": "cffi",  # to compile; what is compiled needs _cffi_backend alone
}
PRUNED: Final = (
    *("*.a", "*.c", "*.h", "*.pxd", "*.pyi", "*.pyx", "*/tests/*", "bin/*"),
    # How it was installed, by pip; here dpkg knows.
    *("*.dist-info/INSTALLER", "*.dist-info/RECORD", "*.dist-info/REQUESTED"),
    "*.dist-info/direct_url.json",
    "cffi/*",
    "exporters/*",
    *("numpy/distutils/*", "numpy/f2py/*"),
    # For programs in C; Python's module has it all inside.
    "onnxruntime/capi/libonnxruntime.so*",
    *("onnxruntime/backend/*", "onnxruntime/datasets/*", "onnxruntime/quantization/*"),
    *("onnxruntime/tools/*", "onnxruntime/transformers/*"),
    *("zstandard/_cffi*", "zstandard/backend_cffi.py"),  # for other Pythons than CPython
)


def needed(folder: Path) -> list[Path]:
    """Return the wheels of `folder` that a device needs, sorted."""
    return sorted(w for w in folder.glob("*.whl") if w.name.partition("-")[0] not in UNUSED)


def lay_environment(root: Path) -> None:
    """Make the environment in `root`: Debian's interpreter, and packages of its own alone.

    It is what `python3 -m venv` makes: children that the agent starts with its interpreter find the
    same packages, and Debian's other programs see none of them.
    """
    home = root / HOME
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to(f"../../../bin/python{PYTHON}")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")


def fill_site(root: Path, chosen: Sequence[Path], *, arch: str) -> Path:
    """Unpack wheels into the environment in `root`, pruned and compiled; return that folder.

    Raises:
        PackagingError: this Python is another version than a device's.
    """
    if "{}.{}".format(*sys.version_info) != PYTHON:
        msg = f"packages are built with Python {PYTHON}, whose compiled files they hold"
        raise PackagingError(msg)
    site = root / SITE
    wheels.install(chosen, site, arch=arch)
    _prune(site)
    _compile(root, site)
    return site


def _prune(site: Path) -> None:
    for path in sorted(site.rglob("*"), reverse=True):  # what a folder holds comes before it
        name = path.relative_to(site).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif any(fnmatchcase(name, pattern) for pattern in PRUNED):
            path.unlink()


def _compile(root: Path, site: Path) -> None:
    """Compile it all, to files that name no time and are not checked: dpkg changes both or none.

    The agent may not write here, and without them would compile everything at each start.
    """
    for stray in site.rglob("__pycache__"):
        shutil.rmtree(stray)
    argv = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    # As they are on the device; a seed, since sets are written in the order of hashes.
    paths = ["-s", str(root), "-p", "/"]
    call([*argv, *paths, str(site)], env={"PYTHONHASHSEED": "0"})
