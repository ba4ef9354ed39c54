"""Opens a bundle: everything in it is hostile until its manifest and hashes say otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from edgeslm.contract.base import SCHEMA_VERSION, UNKNOWN_KEY, parse_json
from edgeslm.contract.manifest import FEATURES, Artifact, Manifest, Role, Stage
from edgeslm.errors import InvalidFileError, RejectedError

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1024 * 1024
_SHOWN: Final = 3
_REMEDY: Final = "Copy the bundle again, or export it again."


class BundleMissingError(RejectedError):
    """There is no bundle at this path, or it cannot be read."""

    code = "bundle.missing"


class BundleInvalidError(InvalidFileError):
    """The manifest is not one: not JSON, a wrong field, too long."""

    code = "bundle.invalid"


class BundleForeignError(RejectedError):
    """The bundle is of a schema version, or needs a feature, that this build does not have."""

    code = "bundle.foreign"


class BundleTamperedError(RejectedError):
    """A file is not the one the manifest describes: missing, cut, changed, or not listed."""

    code = "bundle.tampered"


class BundleWrongError(RejectedError):
    """The bundle at this path is another than the one that should be there."""

    code = "bundle.wrong"


_Mark = tuple[tuple[int, int], int, int]  # device and inode; size; when it was written to, ns


class _Header(BaseModel):
    """What any schema version of a manifest begins with; the rest is read when this fits."""

    schema_version: int = SCHEMA_VERSION
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder whose manifest has been read.

    Args:
        path: the folder.
        manifest: what it says of itself.
        hash: sha256 of manifest.json, hex. It stands for the whole: the manifest has the hashes
            of all files.
        marks: of each file, which one was hashed and when it had been written to; none where
            nothing was verified. By paths that are made once: making one enters its parts among
            the interpreter's strings, a table that grows by what came and went there every second.
    """

    path: Path
    manifest: Manifest
    hash: str
    marks: Mapping[Path, _Mark] = field(default_factory=dict, compare=False, repr=False)

    def of(self, variant: str | None, stage: Stage | None = None) -> VariantFiles:
        """Return the files that serve one of the manifest's variants.

        Of a cascade, those of one stage, and what the stages share; None: all.
        """
        return VariantFiles(self.path, self.manifest.of(variant, stage))

    def overwritten(self) -> str | None:
        """Return a file that was written to, where it lies, since it was hashed; None: none was.

        Weights are mapped: whoever writes into their file changes what a running model says. A
        file that was put in the place of another changes nothing for who has that open.
        """
        for file, mark in self.marks.items():
            now = _mark(file)
            if now is not None and now[0] == mark[0] and now != mark:
                return file.relative_to(self.path).as_posix()
        return None


@dataclass(frozen=True, slots=True)
class VariantFiles:
    """What one variant of a bundle is made of.

    Args:
        path: the bundle's folder.
        files: those of the variant, and those that serve every variant.
    """

    path: Path
    files: tuple[Artifact, ...]

    def artifacts(self, role: Role) -> list[Artifact]:
        """All files of a role, in the manifest's order."""
        return [a for a in self.files if a.role == role]

    def read(self, role: Role) -> bytes:
        """Return the bytes of the first file of `role`, which must have one.

        Raises:
            BundleTamperedError: the file cannot be read, or is not of the size it should have.
        """
        artifact = self.artifacts(role)[0]
        try:
            with (self.path / artifact.path).open("rb") as file:
                data = file.read(artifact.size + 1)
        except OSError as err:
            raise _tampered(self.path, f"{artifact.path}: {err.strerror}") from None
        if len(data) != artifact.size:
            raise _tampered(self.path, f"{artifact.path}: not of {artifact.size} bytes")
        return data


def open_bundle(path: Path, *, verify: bool = True, expected: str | None = None) -> Bundle:
    """Read the manifest in folder `path`, and with `verify` hold every file against it.

    Args:
        path: the folder.
        verify: hold every file against the manifest.
        expected: the hash that the bundle must have; None: any.

    Raises:
        BundleWrongError: its hash is not the one expected.
        BundleMissingError: no folder, no manifest, or not readable.
        BundleInvalidError: the manifest is not one; names each field.
        BundleForeignError: another schema version, or an unknown feature.
        BundleTamperedError: a file is missing, cut, changed, not listed, or outside the folder.
    """
    raw = _read_manifest(path)
    file = str(path / MANIFEST)
    digest = hashlib.sha256(raw).hexdigest()
    if expected not in {None, digest}:
        msg = f"{path}: holds bundle {digest[:12]}, and {str(expected)[:12]} should be there"
        raise BundleWrongError(msg)
    header = parse_json(_Header, raw, file=file, remedy=_REMEDY, error=BundleInvalidError)
    if header.schema_version != SCHEMA_VERSION:
        msg = (
            f"{file}: schema version {header.schema_version}, this build reads {SCHEMA_VERSION}. "
            "Update edgeslm, or export the bundle for this version."
        )
        raise BundleForeignError(msg)
    if unknown := sorted(set(header.requires) - FEATURES):
        msg = (
            f"{file}: requires {', '.join(unknown)[:200]}, which this build lacks. Update edgeslm."
        )
        raise BundleForeignError(msg)
    try:
        manifest = parse_json(Manifest, raw, file=file, remedy=_REMEDY, error=BundleInvalidError)
    except BundleInvalidError as err:
        if strange := sorted({field for field, what in err.problems if what == UNKNOWN_KEY}):
            msg = (
                f"{file}: keys that this build does not know ({', '.join(strange[:_SHOWN])}): made "
                "by another version. Update edgeslm, or export the bundle with this one."
            )
            raise BundleForeignError(msg) from None
        raise
    if not verify:
        return Bundle(path, manifest, digest)
    # Before they are hashed, so that nothing is written to unseen.
    files = [path / artifact.path for artifact in manifest.artifacts]
    marks = {file: _mark(file) for file in files}
    bundle = Bundle(path, manifest, digest, {k: v for k, v in marks.items() if v is not None})
    _verify(bundle)
    return bundle


def _read_manifest(path: Path) -> bytes:
    file = path / MANIFEST
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would block for ever
            msg = f"{file}: not a file. {_REMEDY}"
            raise BundleMissingError(msg)
        with file.open("rb") as opened:
            raw = opened.read(MAX_MANIFEST_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        why = err.strerror if isinstance(err, OSError) else str(err)
        msg = f"{file}: {why}. {_where(path)}"
        raise BundleMissingError(msg) from None
    if len(raw) > MAX_MANIFEST_BYTES:
        what = f"longer than {MAX_MANIFEST_BYTES} bytes"
        raise BundleInvalidError(str(file), [("", what)], remedy=_REMEDY)
    return raw


def _where(path: Path) -> str:
    """Say what to give in place of `path`, which holds no manifest."""
    inner = path / "bundle"  # as an exporter's output folder has it
    if (inner / MANIFEST).is_file():
        return f"Give {inner}."
    if path.suffix == ".tar" and path.is_file():
        return f"Unpack it into an empty folder (tar -xf {path.name}), and give that."
    return f"Give the folder that holds {MANIFEST}."


def _verify(bundle: Bundle) -> None:
    """Hold every file against the manifest; nothing may lie there that it does not list.

    A graph may name any file beside it as its weights: one that is not listed has no hash.
    """
    try:
        root = _real(bundle.path)
        for artifact in bundle.manifest.artifacts:
            _verify_file(bundle.path, root, artifact)
        listed = {artifact.path for artifact in bundle.manifest.artifacts} | {MANIFEST}
        for folder, folders, files in os.walk(root):
            linked = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in files + linked:
                inside = (Path(folder) / name).relative_to(root).as_posix()
                if inside not in listed:
                    raise _tampered(bundle.path, f"{inside}: not listed in {MANIFEST}; remove it")
    except OSError as err:
        raise _tampered(bundle.path, f"{err.filename}: {err.strerror}") from None


def _verify_file(path: Path, root: Path, artifact: Artifact) -> None:
    file = _real(path / artifact.path)
    if not file.is_relative_to(root):
        raise _tampered(path, f"{artifact.path}: leads outside the bundle")
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _tampered(path, f"{artifact.path}: not a file")
    if status.st_size != artifact.size:
        what = f"{artifact.path}: {status.st_size} bytes, listed with {artifact.size}"
        raise _tampered(path, what)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != artifact.sha256:
        raise _tampered(path, f"{artifact.path}: its sha256 is not the one listed")


def _real(path: Path) -> Path:
    """Return `path` without links; `Path.resolve` has no OSError for a loop of them.

    Raises:
        OSError: it is not there, or leads nowhere.
    """
    return Path(os.path.realpath(path, strict=True))


def _mark(file: Path) -> _Mark | None:
    """Return what tells that a file was written to; None where it cannot be looked at."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns


def _tampered(path: Path, what: str) -> BundleTamperedError:
    return BundleTamperedError(f"{path}: {what}. {_REMEDY}")


def read_report(bundle: Bundle, name: str) -> dict[str, object] | None:
    """Return the report NAME.json that lies beside the bundle folder; None without one.

    Reports are not part of a bundle and no hash covers them. One that names another bundle's hash
    is none of this one's.

    Raises:
        BundleInvalidError: it is not a JSON object.
    """
    file = Path(os.path.realpath(bundle.path)).parent / f"{name}.json"
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_MANIFEST_BYTES + 1)
    except OSError:
        return None
    try:
        report = json.loads(raw)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise BundleInvalidError(str(file), [("", "not a JSON object")], remedy="Remove it.")
    return report if report.get("bundle", bundle.hash) == bundle.hash else None
