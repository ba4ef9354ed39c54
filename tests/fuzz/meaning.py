"""What signed documents and archives mean, read by means that are none of ours.

Two inputs of the same meaning are no mutants of each other: white space in JSON, a letter in
hexadecimal that is a capital, what base64 skips, the padding of an archive.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import tarfile
from collections.abc import Callable, Collection
from typing import Any

import jsonschema

Meaning = tuple[Any, frozenset[tuple[str, bytes]]]
"""What is said, and the signatures under it."""


def differs_from(valid: bytes, meaning: Callable[[bytes], Meaning]) -> Callable[[bytes], bool]:
    """Return what says whether an input says something else, or lacks a signature of `valid`."""
    said, signed = meaning(valid)

    def differs(raw: bytes) -> bool:
        try:
            other, signatures = meaning(raw)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return True
        return other != said or not signatures >= signed

    return differs


def metadata(raw: bytes) -> Meaning:
    """Read TUF metadata: the canonical form of what is signed, and each signature."""
    held = json.loads(raw)
    found = {(each["keyid"], bytes.fromhex(each["sig"])) for each in held["signatures"]}
    return json.dumps(held["signed"], sort_keys=True), frozenset(found)


def envelope(raw: bytes) -> Meaning:
    """Read a DSSE envelope: its kind and the bytes in it, and each signature."""
    held = json.loads(raw)
    found = {(each["keyid"], _decoded(each["sig"])) for each in held["signatures"]}
    return (held["payloadType"], _decoded(held["payload"])), frozenset(found)


def _decoded(text: str) -> bytes:
    raw = text.encode()
    try:
        return base64.b64decode(raw)
    except binascii.Error:
        return base64.b64decode(raw, b"-_")


def files_of(raw: bytes) -> dict[str, bytes]:
    """Read a tar.

    Raises:
        ValueError: it is none, or one that another reader does not take.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            opened = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            return {name: file.read() for name, file in opened.items() if file is not None}
    except Exception as err:  # noqa: BLE001 -- it was not made for hostile archives
        raise ValueError(str(err)) from None


def tar_of(files: dict[str, bytes]) -> bytes:
    """Write a tar."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def stick_differs(valid: bytes, unread: Collection[str]) -> Callable[[bytes], bool]:
    """Return what says whether a file of a stick differs, apart from those that nobody reads."""
    checks = {
        name: _differs(name, data) for name, data in files_of(valid).items() if name not in unread
    }

    def differs(raw: bytes) -> bool:
        try:
            files = files_of(raw)
        except ValueError:
            return True
        return any(name not in files or check(files[name]) for name, check in checks.items())

    return differs


def _differs(name: str, data: bytes) -> Callable[[bytes], bool]:
    if name.startswith("metadata/"):
        return differs_from(data, metadata)
    if name.startswith("assignments/"):
        return differs_from(data, envelope)
    return lambda raw: raw != data


def refused_by(schema: dict[str, Any]) -> Callable[[bytes], bool]:
    """Return what says whether no line of an input is a document that a JSON schema allows."""
    validator = jsonschema.Draft202012Validator(schema)

    def allowed(line: bytes) -> bool:
        try:
            return bool(validator.is_valid(json.loads(line)))
        except (ValueError, RecursionError):
            return False

    return lambda raw: not any(allowed(line) for line in raw.split(b"\n"))
