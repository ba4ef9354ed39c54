"""Bundles are stored by what they are, and a version never changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.tuf import Trust
from edgeslm.contract.fleet import BLOCK_BYTES, BlockList, BundleOffer
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.errors import (
    BundleRefusedError,
    KeyMissingError,
    PassphraseError,
    VersionOlderError,
    VersionTakenError,
)
from edgeslm.fleet.models import Stated, add, blobs_of, offers, versions
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository
from edgeslm.runtime.bundle import BundleMissingError, BundleTamperedError
from tests.fleet import kit


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return kit.make(tmp_path / "fleet")


def offered(repository: Repository, model: str = "press") -> list[BundleOffer]:
    return offers(repository.store.published(), model)


def test_what_a_device_gets_is_the_bundle(repository: Repository, tmp_path: Path) -> None:
    """Put together from blocks, each held against its hash, it opens as a bundle."""
    graph = bytes(range(256)) * (BLOCK_BYTES // 256 * 2) + b"the rest"
    folder = kit.bundle(tmp_path / "b", graph=graph)
    [new] = add(repository, [folder], Stated())
    trust = Trust(tmp_path / "d", repository.export_root(), kit.Shelf(kit.published(repository)))
    trust.walk_roots()
    trust.refresh(repository.now())
    [offer] = trust.offers("press")
    assert offer.bundle == new
    assert new.size == sum(path.stat().st_size for path in folder.iterdir())
    blobs = repository.folder / "blobs"
    listed = trust.blocks(offer, (blobs / offer.sha256).read_bytes())
    assert {file.path for file in listed.files} == {path.name for path in folder.iterdir()}
    for file in listed.files:
        data = (blobs / file.sha256).read_bytes()
        assert data == (folder / file.path).read_bytes()
        blocks = [data[i : i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)]
        hashes = tuple(hashlib.sha256(block).hexdigest() for block in blocks)
        assert file.blocks == (hashes if len(blocks) > 1 else ())
    assert len(next(file for file in listed.files if file.path == "model.onnx").blocks) == 3
    wanted = blobs_of(repository, repository.store.published(), "press", 1)
    assert wanted == {path.name for path in blobs.iterdir()}


def test_bundles_share_what_is_the_same(repository: Repository, tmp_path: Path) -> None:
    """Two profiles, one graph."""
    graph = b"w" * 300_000
    two = [kit.bundle(tmp_path / name, profiles=[name], graph=graph) for name in ("one", "two")]
    assert len(add(repository, two, Stated())) == 2
    sizes = sorted(path.stat().st_size for path in (repository.folder / "blobs").iterdir())
    assert [size for size in sizes if size >= 300_000] == [300_000]
    assert {offer.profiles for offer in offered(repository)} == {("one",), ("two",)}


def test_an_offer_says_what_each_variant_needs(repository: Repository, tmp_path: Path) -> None:
    needs = {"arch": "x86_64", "cpu_features": ["avx2"]}
    variants: dict[str | None, dict[str, Any]] = {
        "npu": {"provider": "qnn", "requires": {"soc": "qcm6490", "runtime": "2.51"}},
        "int8": {"requires": needs},
    }
    add(repository, [kit.bundle(tmp_path / "b", variants=variants)], Stated())
    npu, int8 = offered(repository)[0].variants
    assert (npu.name, npu.provider, npu.requires.soc) == ("npu", "qnn", "qcm6490")
    assert (int8.provider, int8.requires.arch, int8.requires.cpu_features) == (
        *("cpu", "x86_64", ("avx2",)),
    )


def test_adding_again_changes_nothing(repository: Repository, tmp_path: Path) -> None:
    folder = kit.bundle(tmp_path / "b")
    assert len(add(repository, [folder, folder], Stated())) == 1
    was = kit.published(repository)
    assert add(repository, [folder], Stated()) == []
    assert kit.published(repository) == was


def test_another_profile_joins_a_version(repository: Repository, tmp_path: Path) -> None:
    add(repository, [kit.bundle(tmp_path / "a", profiles=["one"])], Stated())
    add(repository, [kit.bundle(tmp_path / "b", profiles=["two"])], Stated())
    assert len(offered(repository)) == 2
    assert versions(repository.store.published(), "press") == {1}


REFUSED: list[tuple[Stated, dict[str, Any], type[EdgeSLMError], str]] = [
    (Stated(model="valve"), {"version": 3}, BundleRefusedError, r"press 3 \(intent\), .* as valve"),
    (Stated(version=4), {"version": 3}, BundleRefusedError, "to be added as press 4"),
    (Stated(task="anomaly"), {"version": 3}, BundleRefusedError, r"as press 3 \(anomaly\)"),
    (Stated(), {"version": 2}, VersionTakenError, "A version never changes"),
    (Stated(), {"version": 2, "profiles": ["a", "generic-x86_64"]}, VersionTakenError, "there"),
    (Stated(), {"version": 1}, VersionOlderError, "--older"),
    (Stated(), {"version": 3, "task": "anomaly"}, BundleRefusedError, "its task is intent"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[3])
def test_what_cannot_be_added_is_refused(
    case: tuple[Stated, dict[str, Any], type[EdgeSLMError], str],
    repository: Repository,
    tmp_path: Path,
) -> None:
    stated, changed, error, says = case
    add(repository, [kit.bundle(tmp_path / "v2", version=2)], Stated())
    was = kit.published(repository)
    with pytest.raises(error, match=says):
        add(repository, [kit.bundle(tmp_path / "b", exporter="1", **changed)], stated)
    assert kit.published(repository) == was


def test_bundles_of_one_call_agree(repository: Repository, tmp_path: Path) -> None:
    one = kit.bundle(tmp_path / "one", profiles=["one"])
    with pytest.raises(BundleRefusedError, match="press 2"):
        add(repository, [one, kit.bundle(tmp_path / "v", version=2)], Stated())
    same = kit.bundle(tmp_path / "same", profiles=["one"], exporter="1")
    with pytest.raises(VersionTakenError, match="press 1 for one"):
        add(repository, [one, same], Stated())
    none = [kit.bundle(tmp_path / n, profiles=[], exporter=n) for n in "ab"]
    with pytest.raises(VersionTakenError, match="no profile"):
        add(repository, none, Stated())
    assert offered(repository) == []


def test_an_older_version_is_added_where_it_is_meant(
    repository: Repository, tmp_path: Path
) -> None:
    add(repository, [kit.bundle(tmp_path / "v2", version=2)], Stated())
    add(repository, [kit.bundle(tmp_path / "v1", version=1)], Stated(older=True))
    assert versions(repository.store.published(), "press") == {1, 2}


def _link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"another"), BundleTamperedError),
        (lambda folder: (folder / "model.onnx").unlink(), BundleTamperedError),
        (lambda folder: (folder / "more").write_bytes(b"x"), BundleTamperedError),
        (_link, BundleTamperedError),
        (shutil.rmtree, BundleMissingError),
    ],
)
def test_a_damaged_bundle_is_refused(
    damage: Callable[[Path], object],
    error: type[EdgeSLMError],
    repository: Repository,
    tmp_path: Path,
) -> None:
    folder = kit.bundle(tmp_path / "b")
    damage(folder)
    with pytest.raises(error):
        add(repository, [folder], Stated())
    assert list((repository.folder / "blobs").iterdir()) == []


def test_too_many_variants_for_one_offer_are_refused(
    repository: Repository, tmp_path: Path
) -> None:
    variants: dict[str | None, dict[str, Any]] = {f"v{n}": {} for n in range(65)}
    with pytest.raises(BundleRefusedError, match="variants"):
        add(repository, [kit.bundle(tmp_path / "b", variants=variants)], Stated())


def test_a_wrong_passphrase_copies_nothing(repository: Repository, tmp_path: Path) -> None:
    folder = kit.bundle(tmp_path / "b")
    wrong = Repository(repository.folder, Passphrases(variable="another one"), kit.Clock())
    with pytest.raises(PassphraseError):
        add(wrong, [folder], Stated())
    assert list((repository.folder / "blobs").iterdir()) == []
    add(repository, [folder], Stated())
    (repository.folder / "keys" / "model-press.pem").unlink()
    again = Repository(repository.folder, kit.passphrases(), kit.Clock())
    with pytest.raises(KeyMissingError, match=r"model-press\.pem"):
        add(again, [kit.bundle(tmp_path / "c", version=2)], Stated())


def test_a_models_later_versions_need_no_key_of_targets(
    repository: Repository, tmp_path: Path
) -> None:
    add(repository, [kit.bundle(tmp_path / "b")], Stated())
    for name in ("root-1", "root-2", "root-3", "targets"):
        (repository.folder / "keys" / f"{name}.pem").unlink()
    again = Repository(repository.folder, kit.passphrases(), kit.Clock())
    assert len(add(again, [kit.bundle(tmp_path / "c", version=2)], Stated())) == 1


def test_block_lists_are_compact(repository: Repository, tmp_path: Path) -> None:
    add(repository, [kit.bundle(tmp_path / "b", graph=b"x" * BLOCK_BYTES * 20)], Stated())
    listed = [
        raw
        for path in (repository.folder / "blobs").iterdir()
        if (raw := path.read_bytes()).startswith(b'{"bundle"')
    ]
    assert len(listed) == 1
    assert len(listed[0]) < 20 * 68 + 5 * 200
    BlockList.model_validate_json(listed[0])
    assert b" " not in json.dumps(json.loads(listed[0]), separators=(",", ":")).encode()
