"""A whole fleet in a temporary folder: repository, bundles, and what devices fetch from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from edgeslm.contract.fleet import Assignment
from edgeslm.fleet import director, rotation, stick
from edgeslm.fleet.config import FleetConfig, database_url
from edgeslm.fleet.database import assignments
from edgeslm.fleet.database.engine import open_database, reading
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.ports import NotThereError

PASSPHRASE: Final = "a passphrase of the tests"  # noqa: S105
START: Final = 1_800_000_000.0
DAY_S: Final = 86_400.0
_TOLERANCE: Final = {"score": 1e-4, "confidence": 1e-4, "verified": "measured"}


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += days * DAY_S


def passphrases() -> Passphrases:
    return Passphrases(variable=PASSPHRASE)


def make(folder: Path, clock: Clock | None = None, **more: Any) -> Repository:
    """Make a repository; `more` is for `init_repository`."""
    config = more.pop("config", FleetConfig())
    return init_repository(folder, passphrases(), config, clock=clock or Clock(), **more)


def bundle(
    folder: Path,
    *,
    graph: bytes = b"a graph",
    variants: Mapping[str | None, Mapping[str, Any]] | None = None,
    **manifest: Any,
) -> Path:
    """Write a bundle whose files are only bytes: nothing here runs them.

    `variants`: by name, what the graph's row of the manifest says besides.
    """
    contents: dict[str, tuple[str, bytes, dict[str, Any]]] = {
        "tokenizer.json": ("tokenizer", b"{}", {}),
        "parameters.json": ("parameters", b'["a", "b"]', {}),
        "golden.jsonl": ("golden", b"{}\n", {"tolerance": _TOLERANCE}),
    }
    for name, row in (variants or {None: {}}).items():
        path = f"{name or 'model'}.onnx"
        contents[path] = ("graph", graph, {"provider": "cpu", "variant": name, **row})
    artifacts = []
    for path, (role, data, more) in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        artifacts.append({"role": role, "path": path, "size": len(data), "sha256": digest, **more})
    whole = {
        "schema_version": 1,
        "name": "press",
        "version": 1,
        "task": "intent",
        "profiles": ["generic-x86_64"],
        "base_model": {"source": "none", "sha256": "0" * 64},
        "max_tokens": 16,
        "artifacts": artifacts,
        "exporter": "0",
        **manifest,
    }
    (folder / "manifest.json").write_text(json.dumps(whole))
    return folder


class Shelf:
    """Files that a device fetches, by name; a test puts others there. Counts what is taken."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.taken: list[tuple[str, int]] = []
        self.limits: list[int] = []

    def __call__(self, file: str, max_bytes: int) -> bytes:
        self.limits.append(max_bytes)
        if file not in self.files:
            msg = f"{file}: not there"
            raise NotThereError(msg)
        raw = self.files[file][: max_bytes + 1]
        self.taken.append((file, len(raw)))
        return raw


def published(repository: Repository) -> dict[str, bytes]:
    """Return the metadata that devices can fetch, by file name."""
    return {file: repository.store.read(file) for file in repository.store.current()}


@contextlib.contextmanager
def database(repository: Repository) -> Iterator[Engine]:
    """Open the repository's database, and close it: what is in it is then in its one file."""
    engine = open_database(database_url(repository.config, repository.folder))
    try:
        yield engine
    finally:
        engine.dispose()


def assign(repository: Repository, device: str, wish: director.Wish) -> Assignment:
    """Give the command once."""
    with database(repository) as engine:
        return director.assign(repository, engine, device, wish)


def assigned(repository: Repository) -> dict[str, Assignment]:
    """Return the newest assignment of each device."""
    with database(repository) as engine:
        return director.assigned(engine)


def envelope(repository: Repository, device: str) -> bytes | None:
    """Return a device's newest assignment, signed."""
    with database(repository) as engine, reading(engine) as conn:
        return assignments.envelopes(conn, [device]).get(device)


def write_stick(repository: Repository, to: Path, devices: Collection[str] = ()) -> stick.Written:
    """Give the command once."""
    with database(repository) as engine:
        return stick.write_stick(repository, engine, to, devices)


def replace_key(repository: Repository, name: str, **more: Any) -> str:
    """Give the command once; `more` is for `rotation.replace_key`."""
    with contextlib.ExitStack() as stack:

        def opened() -> Engine:
            return stack.enter_context(database(repository))

        return rotation.replace_key(repository, name, database=opened, **more)
