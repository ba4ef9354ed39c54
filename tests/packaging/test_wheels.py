"""The Python tree of a package: what a device needs, compiled; its SBOM; the wheelhouse."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packages import hashes, sbom, tree, wheels
from packages.contents import PROVIDERS, copyright_of
from packages.tools import PackagingError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import MakeWheel

EPOCH = 1_700_000_000
FILES = {
    "tiny/__init__.py": "ANSWER = {'a', 'b', 'c'}\n",
    "tiny/tests/test_tiny.py": "",
    "tiny/tests/data/case": "",
    "tiny/tiny.h": "",
    "tiny/__init__.pyi": "",
}
UNCHECKED = 1  # PEP 552: compiled of a source that is not looked at


def test_a_tree_is_pruned_and_compiled(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel = make_wheel("tiny", FILES)
    trees = []
    for name in ("once", "again"):
        site = tree.fill_site(tmp_path / name, [wheel], arch="arm64")
        trees.append({p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()})
    assert trees[0] == trees[1]
    assert {str(path) for path in trees[0]} == {
        "tiny/__init__.py",
        "tiny/__pycache__/__init__.cpython-311.pyc",
        "tiny-1.0.dist-info/METADATA",
        "tiny-1.0.dist-info/WHEEL",
    }
    code = trees[0][Path("tiny/__pycache__/__init__.cpython-311.pyc")]
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(code[4:8], "little") == UNCHECKED
    assert b"/usr/lib/edgeslm/lib/python3.11/site-packages/tiny/__init__.py" in code
    assert str(tmp_path).encode() not in code


def test_no_tree_is_made_by_another_python(
    make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "PYTHON", "3.99")
    with pytest.raises(PackagingError, match=r"3\.99"):
        tree.fill_site(tmp_path / "root", [make_wheel("tiny", FILES)], arch="amd64")


def test_the_environment_is_debians_interpreter_and_its_own_packages(tmp_path: Path) -> None:
    tree.lay_environment(tmp_path)
    link = tmp_path / "usr/lib/edgeslm/bin/python3"
    assert link.readlink() == Path("../../../bin/python3.11")
    there = (link.parent / link.readlink()).resolve(strict=False)
    assert there == (tmp_path / "usr/bin/python3.11").resolve()
    settings = (tmp_path / "usr/lib/edgeslm/pyvenv.cfg").read_text()
    assert "include-system-site-packages = false" in settings


def test_what_nothing_imports_is_left_out(make_wheel: MakeWheel) -> None:
    kept = make_wheel("tiny", FILES)
    make_wheel("huggingface_hub", {})
    make_wheel("hf_xet", {})
    assert tree.needed(kept.parent) == [kept]


def test_what_is_left_out_is_no_dependency_of_ours() -> None:
    names = {line.partition(">")[0].replace("-", "_") for line in wheels.asked()}
    assert not names & tree.UNUSED.keys()


def test_a_wheelhouse_is_the_same_bytes_again(make_wheel: MakeWheel, tmp_path: Path) -> None:
    long = "a_package_with_a_long_name_" * 4
    made = [make_wheel("tiny", FILES), make_wheel(long, {})]
    outs = [tmp_path / "1", tmp_path / "2"]
    tars = []
    for out, given in zip(outs, (made, made[::-1]), strict=True):
        out.mkdir()
        tars.append(wheels.write_wheelhouse("house", given, out, epoch=EPOCH))
    assert tars[0].read_bytes() == tars[1].read_bytes()
    with tarfile.open(tars[0]) as tar:
        assert [entry.name for entry in tar] == [
            f"house/{long}-1.0-py3-none-any.whl",
            "house/tiny-1.0-py3-none-any.whl",
        ]
        assert {(entry.mtime, entry.uid, entry.mode) for entry in tar} == {(EPOCH, 0, 0o644)}


@pytest.mark.parametrize("file", [hashes.DEVICE, hashes.PROVIDERS], ids=lambda file: file.name)
def test_hashes_are_of_the_versions_that_are_pinned(file: Path) -> None:
    pins = {
        str(canonicalize_name(name)): version
        for name, _, version in (
            line.partition("==") for line in wheels.CONSTRAINTS.read_text().splitlines()
        )
    }
    found = hashes.read(file)
    assert found
    for name, line in found.items():
        asked, *digests = line.split(" --hash=sha256:")
        assert asked == f"{name}=={pins[name]}"
        assert digests
        assert all(len(digest) == 64 for digest in digests)


def test_hashes_are_of_all_that_a_device_asks_for() -> None:
    """What these ask for in turn included, as it is installed here."""
    waiting, needed = [Requirement(line) for line in wheels.asked()], set[str]()
    while waiting:
        one = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        if (name := canonicalize_name(one.name)) not in needed:
            needed.add(name)
            waiting += map(Requirement, distribution(name).requires or ())
    assert needed <= hashes.read(hashes.DEVICE).keys()


def test_a_providers_wheel_has_its_hash() -> None:
    assert hashes.read(hashes.PROVIDERS).keys() == {p.wheel for p in PROVIDERS.values()}
    with pytest.raises(PackagingError, match="has no onnxruntime-other"):
        hashes.line_of(hashes.PROVIDERS, "onnxruntime-other")


def test_a_wheel_of_another_hash_is_not_taken(
    make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that gives other bytes of the same version, and one that gives the right ones."""
    wheel = make_wheel("tiny", FILES)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    listed = tmp_path / "hashes.txt"
    monkeypatch.setattr(hashes, "DEVICE", hashes.write(listed, [wheel]))
    assert [w.name for w in wheels.device_wheels("arm64").glob("*")] == [wheel.name]
    listed.write_text(listed.read_text().replace("sha256:", "sha256:00")[:-3] + "\n")
    with pytest.raises(PackagingError, match="Expected sha256"):
        wheels.device_wheels("arm64")


def test_the_sbom_says_each_wheel_with_hash_and_licence(make_wheel: MakeWheel) -> None:
    one = sbom.read_wheel(make_wheel("tiny", FILES))
    own = sbom.read_wheel(make_wheel("edgeslm", {}))
    text = sbom.document("edgeslm", "1.0-1", "arm64", [one, own], EPOCH)
    assert text == sbom.document("edgeslm", "1.0-1", "arm64", [one, own], EPOCH)
    found = json.loads(text)
    refs = {component["bom-ref"]: component for component in found["components"]}
    assert refs.keys() == {"pypi:edgeslm", "pypi:tiny"}
    part = refs["pypi:tiny"]
    assert part["purl"] == "pkg:pypi/tiny@1.0"
    assert part["hashes"] == [{"alg": "SHA-256", "content": one.sha256}]
    assert part["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["metadata"]["component"]["purl"].startswith("pkg:deb/edgeslm/edgeslm@1.0-1?arch=")
    assert found["metadata"]["timestamp"].startswith("2023-11-14")
    assert "License: MIT\n" in copyright_of([one])


def test_a_document_that_is_none_is_refused() -> None:
    with pytest.raises(PackagingError, match="no CycloneDX document"):
        sbom.check('{"bomFormat": "CycloneDX"}')


def test_a_zip_that_is_no_wheel_is_refused(make_wheel: MakeWheel) -> None:
    path = make_wheel("tiny", {"other-1.dist-info/METADATA": ""})
    with pytest.raises(PackagingError, match="no wheel"):
        sbom.read_wheel(path)
