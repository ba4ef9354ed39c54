"""A bundle is what its manifest says, to the byte, or it is refused with a reason."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import EdgeSLMError
from edgeslm.runtime.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    BundleMissingError,
    open_bundle,
    read_report,
)
from tests.runtime import tiny


def test_opens_what_was_written(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.name == "tiny"
    assert len(opened.hash) == 64
    assert json.loads(opened.of(None).read("parameters")) == tiny.LABELS


def test_opens_through_a_linked_folder(bundle: Path, tmp_path: Path) -> None:
    """Slots are links to folders."""
    link = tmp_path / "current"
    link.symlink_to(bundle, target_is_directory=True)
    assert open_bundle(link).hash == open_bundle(bundle).hash


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return edit


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


def _remove_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _pipe_for_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx.data").write_bytes(data)


def _cut(folder: Path) -> None:
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[:-1])


def _link_outside(folder: Path) -> None:
    inside, outside = folder / "parameters.json", folder.parent / "elsewhere.json"
    inside.rename(outside)
    inside.symlink_to(outside)


def _link_folder_outside(folder: Path) -> None:
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (folder / "sub").symlink_to(outside, target_is_directory=True)


def _folder_for_file(folder: Path) -> None:
    (folder / "parameters.json").unlink()
    (folder / "parameters.json").mkdir()


def _pipe_for_file(folder: Path) -> None:
    (folder / "parameters.json").unlink()
    os.mkfifo(folder / "parameters.json")


def _loop(folder: Path) -> None:
    (folder / "parameters.json").unlink()
    (folder / "parameters.json").symlink_to("parameters.json")


HOSTILE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no folder": (_remove_all, "bundle.missing", "No such file"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "bundle.missing", MANIFEST),
    "manifest is a pipe": (_pipe_for_manifest, "bundle.missing", "not a file"),
    "empty": (_write(MANIFEST, b""), "bundle.invalid", "JSON"),
    "not JSON": (_write(MANIFEST, b"{"), "bundle.invalid", "JSON"),
    "not UTF-8": (_write(MANIFEST, b"\xff\xfe{}"), "bundle.invalid", "JSON"),
    "a list": (_write(MANIFEST, b"[]"), "bundle.invalid", "object"),
    "nested without end": (_write(MANIFEST, b"[" * 200_000), "bundle.invalid", "JSON"),
    "huge": (_write(MANIFEST, b" " * (MAX_MANIFEST_BYTES + 1)), "bundle.invalid", "longer than"),
    "unknown key": (_edit(lambda m: m.update(colour="red")), "bundle.foreign", "colour"),
    "wrong type": (_edit(lambda m: m.update(version="1")), "bundle.invalid", "version"),
    "no name": (_edit(lambda m: m.pop("name")), "bundle.invalid", "name"),
    "task with dots": (_edit(lambda m: m.update(task="os.path")), "bundle.invalid", "task"),
    "later schema": (_edit(lambda m: m.update(schema_version=2)), "bundle.foreign", "version 2"),
    "later schema, other fields": (
        _write(MANIFEST, b'{"schema_version": 2, "new": {}}'),
        "bundle.foreign",
        "Update edgeslm",
    ),
    "unknown feature": (_edit(lambda m: m.update(requires=["x"])), "bundle.foreign", "requires x"),
    "path upwards": (
        _edit(lambda m: m["artifacts"][0].update(path="../model.onnx")),
        "bundle.invalid",
        "artifacts.0.path",
    ),
    "absolute path": (
        _edit(lambda m: m["artifacts"][0].update(path="/etc/passwd")),
        "bundle.invalid",
        "artifacts.0.path",
    ),
    "no graph": (_edit(lambda m: m["artifacts"].pop(0)), "bundle.invalid", "graph"),
    "file missing": (lambda f: (f / "tokenizer.json").unlink(), "bundle.tampered", "tokenizer"),
    "bit flipped": (_flip, "bundle.tampered", "sha256"),
    "cut": (_cut, "bundle.tampered", "bytes"),
    "not listed": (_write("extra.data", b"x"), "bundle.tampered", "extra.data"),
    "link outside": (_link_outside, "bundle.tampered", "outside"),
    "folder linked outside": (_link_folder_outside, "bundle.tampered", "sub"),
    "folder for a file": (_folder_for_file, "bundle.tampered", "not a file"),
    "pipe for a file": (_pipe_for_file, "bundle.tampered", "not a file"),
    "link to itself": (_loop, "bundle.tampered", "parameters.json"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_with_a_reason(case: str, bundle: Path) -> None:
    spoil, code, says = HOSTILE[case]
    spoil(bundle)
    with pytest.raises(EdgeSLMError, match=says) as caught:
        open_bundle(bundle)
    assert caught.value.code == code


def test_a_path_with_nul_is_no_bundle() -> None:
    with pytest.raises(EdgeSLMError) as caught:
        open_bundle(Path("a\0b"))
    assert caught.value.code == "bundle.missing"


def test_a_file_that_changes_after_the_check_is_refused_when_read(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (bundle / "parameters.json").write_bytes(b"[]")
    with pytest.raises(EdgeSLMError) as caught:
        opened.of(None).read("parameters")
    assert caught.value.code == "bundle.tampered"


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(raw=st.binary(max_size=300) | documents.map(lambda d: json.dumps(d).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest_gives_a_bundle_or_a_typed_error(raw: bytes, bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(raw)
    with pytest.raises(EdgeSLMError):
        open_bundle(bundle)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_with_one_field_replaced_gives_a_bundle_or_a_typed_error(
    data: st.DataObject, bundle: Path
) -> None:
    original = (bundle / MANIFEST).read_bytes()
    manifest = json.loads(original)
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    place[key] = data.draw(documents)
    try:
        (bundle / MANIFEST).write_text(json.dumps(manifest))
        open_bundle(bundle)
    except EdgeSLMError:
        pass
    finally:
        (bundle / MANIFEST).write_bytes(original)


def test_knows_which_file_was_written_over(bundle: Path) -> None:
    opened = open_bundle(bundle)
    weights = bundle / "model.onnx.data"
    assert opened.overwritten() is None
    with weights.open("r+b") as file:
        file.write(b"\0")
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))  # clocks of disks are coarse
    assert opened.overwritten() == "model.onnx.data"
    assert open_bundle(bundle, verify=False).overwritten() is None, "nothing was hashed"


def test_a_file_in_the_place_of_another_is_none_that_was_written_over(bundle: Path) -> None:
    """Who has the old one open goes on reading that."""
    opened = open_bundle(bundle)
    weights = bundle / "model.onnx.data"
    fresh = bundle.parent / "fresh"
    fresh.write_bytes(b"other")
    fresh.replace(weights)
    assert opened.overwritten() is None
    weights.unlink()
    assert opened.overwritten() is None


def test_to_look_again_leaves_nothing_among_the_interpreters_strings(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second it would be a dozen, dead at once: in half an hour that table grows by 1 MB."""
    opened = open_bundle(bundle)
    with monkeypatch.context() as patched:
        interned = Mock(wraps=sys.intern)
        patched.setattr(sys, "intern", interned)
        assert opened.overwritten() is None
    assert opened.marks
    interned.assert_not_called()


def test_a_report_beside_the_bundle_is_read(bundle: Path) -> None:
    opened = open_bundle(bundle)
    beside = bundle.parent / "quality.json"
    assert read_report(opened, "quality") is None
    beside.write_text(json.dumps({"accuracy": 0.9}))
    assert read_report(opened, "quality") == {"accuracy": 0.9}
    beside.write_text(json.dumps({"bundle": "0" * 64}))
    assert read_report(opened, "quality") is None, "of another bundle"
    beside.write_text("[" * 100_000)
    with pytest.raises(EdgeSLMError):
        read_report(opened, "quality")


def test_the_folder_around_a_bundle_leads_to_it(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "bundle")
    with pytest.raises(BundleMissingError, match=re.escape(f"Give {tmp_path / 'bundle'}.")):
        open_bundle(tmp_path)


def test_a_packed_bundle_is_to_be_unpacked(tmp_path: Path) -> None:
    packed = tmp_path / "bundle.tar"
    packed.write_bytes(b"")
    with pytest.raises(BundleMissingError, match=r"tar -xf bundle\.tar"):
        open_bundle(packed)
