"""What an exporter said of a bundle comes along with it, and is of that bundle or nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.reports import MAX_BYTES, Report, report_of
from tests.fleet import kit


def exported(folder: Path, **quality: object) -> Path:
    """Write a bundle with reports beside it, as the exporter leaves them."""
    bundle = kit.bundle(folder / "bundle")
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    found = {"bundle": digest, "fp32": {"accuracy": 99.0, "passed": True}, "cautions": ["few rows"]}
    found["variants"] = {"cpu-int8": {"artifact": {"accuracy": 98.5, "note": "x"}}}
    (folder / "quality.json").write_text(json.dumps({**found, **quality}))
    (folder / "report.html").write_text("<title>report</title>")
    return bundle


def test_reports_are_kept_with_the_bundle(tmp_path: Path) -> None:
    repository = kit.make(tmp_path / "fleet")
    [offer] = add(repository, [exported(tmp_path / "export")], Stated())
    found = report_of(repository.folder, offer.bundle)
    assert found.page is not None
    assert found.page.read_text() == "<title>report</title>"
    assert found.metrics == {"cpu-int8": {"accuracy": 98.5}}
    assert found.fp32 == {"accuracy": 99.0}
    assert found.cautions == ("few rows",)


def test_they_are_kept_too_where_the_bundle_was_there_already(tmp_path: Path) -> None:
    repository = kit.make(tmp_path / "fleet")
    bundle = exported(tmp_path / "export")
    other = tmp_path / "elsewhere" / "bundle"
    shutil.copytree(bundle, other)
    [offer] = add(repository, [other], Stated())
    assert report_of(repository.folder, offer.bundle) == Report()
    assert add(repository, [bundle], Stated()) == []
    assert report_of(repository.folder, offer.bundle).page is not None


def test_reports_of_another_bundle_are_left_where_they_are(tmp_path: Path) -> None:
    repository = kit.make(tmp_path / "fleet")
    bundle = exported(tmp_path / "export", bundle="0" * 64)
    [offer] = add(repository, [bundle], Stated())
    assert report_of(repository.folder, offer.bundle) == Report()


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"bundle": 1}', b"[" * 100_000, b"x" * (MAX_BYTES + 1)]
)
def test_what_cannot_be_read_is_as_if_it_were_missing(tmp_path: Path, raw: bytes) -> None:
    folder = tmp_path / "reports" / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / "quality.json").write_bytes(raw)
    assert report_of(tmp_path, "a" * 64) == Report()


@pytest.mark.parametrize("digest", ["..", "../../etc", "", "A" * 64])
def test_what_is_no_hash_leads_nowhere(tmp_path: Path, digest: str) -> None:
    assert report_of(tmp_path, digest) == Report()
