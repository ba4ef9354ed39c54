"""Small packages and wheels: what is true of them is true of large ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: 1.0
License-Expression: MIT
"""
WHEEL = """\
Wheel-Version: 1.0
Generator: by hand
Root-Is-Purelib: true
Tag: py3-none-any
"""

MakeWheel = Callable[[str, Mapping[str, str]], Path]


@pytest.fixture
def make_wheel(tmp_path: Path) -> MakeWheel:
    """Makes a wheel of that name, with those files."""

    def make(name: str, files: Mapping[str, str]) -> Path:
        folder = tmp_path / "wheels"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        about = {
            f"{info}/METADATA": METADATA.format(name=name),
            f"{info}/WHEEL": WHEEL,
            f"{info}/RECORD": "",
        }
        with zipfile.ZipFile(path, "w") as archive:
            for inside, text in {**files, **about}.items():
                archive.writestr(zipfile.ZipInfo(inside), text)
        return path

    return make
