"""A container that boots has the checkout in it that is tested, and no older one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import container


def test_its_package_is_built_and_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in dist/, which may be of another day."""
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/edgeslm_9_amd64.deb").touch()
    monkeypatch.setattr(container, "ROOT", tmp_path)
    asked: list[tuple[object, ...]] = []

    def run(*argv: str | Path, **_: object) -> str:
        asked.append(argv)
        return "amd64\n" if argv[0] == "dpkg" else f"{tmp_path}/out/edgeslm_1_amd64.deb\n"

    monkeypatch.setattr(container, "_run", run)
    assert container.package(tmp_path / "out") == tmp_path / "out/edgeslm_1_amd64.deb"
    assert asked[-1][1:3] == ("-m", "packages")
    assert asked[-1][-1] == tmp_path / "out"
