"""What a device does with bundles, metadata, blocks and deltas, and how to see that it took one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import bsdiff4
import zstandard

from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.delta import patch
from edgeslm.adapters.tuf import METADATA
from edgeslm.contract.fleet import BLOCK_BYTES, Algorithm, BlobFile
from edgeslm.contract.settings import UpdateSettings, load_settings
from edgeslm.contract.topics import FleetTopics, Topics
from edgeslm.core import block as codec
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.fleet import director
from edgeslm.ports import Received
from edgeslm.updater.download import Fetcher
from edgeslm.updater.install import fill, verify
from edgeslm.updater.mailbox import Mailbox
from edgeslm.updater.wiring import opened
from tests.adapters import hostile
from tests.blocks import block_list
from tests.fleet import kit
from tests.fuzz import meaning
from tests.fuzz.counting import Case, Verdict, mutated
from tests.updater import whole
from tests.updater.scripted import ScriptedAgent

UNREAD: Final = frozenset({"index.json", "metadata/1.root.json"})
"""Of a stick: a device lists nothing there, and has the first root by itself."""
ROLES: Final = ("root", "timestamp", "snapshot", "targets", hostile.MODEL)
OLD: Final = random.Random(1).randbytes(3000)  # noqa: S311 -- bytes like a model's
NEW: Final = OLD[:1000] + b"a new head, as long" + OLD[1019:]


@contextlib.contextmanager
def bundles(folder: Path) -> Iterator[list[Case]]:
    """Through a whole install from a stick, and file by file into a slot."""
    fleet = whole.Fleet(folder / "fleet")
    fleet.offer(1, kit.bundle(folder / "b1", name=whole.MODEL))
    fleet.assign(1)
    stick = fleet.stick("stick.tar")
    valid = stick.read_bytes()
    files = meaning.files_of(valid)
    settings = load_settings(fleet.configure(folder / "device"))
    update = settings.update
    assert update is not None

    def take(raw: bytes) -> Verdict:
        shutil.rmtree(update.dir, ignore_errors=True)
        stick.write_bytes(raw)
        with opened(settings, update, online=False) as updater:
            failed = updater.take(stick, trust_clock=True)
            table = updater.store.read()
        for models in table.models.values():
            if any(slot is not None and slot.whole for slot in (models.a, models.b)):
                return "accepted"
        if failed:
            raise failed[0]
        return "refused"

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        """Damage the archive, or a file in it whose header is then right; or leave one out."""
        if rng.random() < 1 / 3:
            return mutated(rng, seeds)
        changed = dict(files)
        name = rng.choice(sorted(changed))
        if rng.random() < 1 / 20:
            del changed[name]
        else:
            changed[name] = mutated(rng, [changed[name], *files.values()])
        return meaning.tar_of(changed)

    differs = meaning.stick_differs(valid, UNREAD)
    slot = _slot(kit.bundle(folder / "b2", version=2), folder / "slot")
    with ScriptedAgent(settings.runtime_dir / "control.sock"):
        whole_stick = Case(
            name="bundle on a stick", seeds=[valid], differs=differs, take=take, mutate=mutate
        )
        yield [whole_stick, *slot]


def _slot(bundle: Path, into: Path) -> list[Case]:
    """A file of a bundle that is brought to a slot, that lies in it, or in the other one."""
    blocks = block_list(bundle)
    valid = {file.path: (bundle / file.path).read_bytes() for file in blocks.files}
    other = into.with_name("other")

    def parts(raw: bytes) -> tuple[str, bytes]:
        path, _, data = raw.partition(b"\0")
        return path.decode(), data

    def bringing(files: dict[str, bytes]) -> Callable[[BlobFile, Path], None]:
        return lambda file, to: _written(to, files[file.path])

    def installed() -> bool:
        files = ((into / path, data) for path, data in valid.items())
        return all(path.is_file() and path.read_bytes() == data for path, data in files)

    def brought(raw: bytes) -> Verdict:
        path, data = parts(raw)
        shutil.rmtree(into, ignore_errors=True)
        fill(blocks, into, near=(), bring=bringing({**valid, path: data}))
        verify(blocks, into)
        return "accepted"

    def lying(raw: bytes) -> Verdict:
        path, data = parts(raw)
        if not installed():
            fill(blocks, into, near=(), bring=bringing(valid))
        (into / path).write_bytes(data)
        try:
            verify(blocks, into)
        finally:
            (into / path).write_bytes(valid[path])
        return "accepted"

    def nearby(raw: bytes) -> Verdict:
        path, data = parts(raw)
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(bundle, other, dirs_exist_ok=True)
        (other / path).write_bytes(data)
        fill(blocks, into, near=[other], bring=bringing(valid))
        verify(blocks, into)
        # What is damaged there is brought instead.
        return "refused" if installed() and raw not in seeds else "accepted"

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        path, data = parts(rng.choice(seeds))
        return path.encode() + b"\0" + mutated(rng, [data, *valid.values()])

    seeds = [path.encode() + b"\0" + data for path, data in valid.items()]
    ways = {"brought to": brought, "lying in": lying, "beside": nearby}
    return [
        Case(
            name=f"file {name} a slot",
            seeds=seeds,
            differs=lambda raw: raw not in seeds,
            take=take,
            mutate=mutate,
        )
        for name, take in ways.items()
    ]


def _written(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@contextlib.contextmanager
def metadata(folder: Path) -> Iterator[list[Case]]:
    """Each role of the repository, an assignment, and a time."""
    fleet = hostile.make_fleet(folder / "fleet")
    yield [*(_role(role, fleet, folder / role) for role in ROLES), *_envelopes(fleet, folder / "e")]


def _role(role: str, fleet: hostile.Fleet, folder: Path) -> Case:
    trust, shelf = fleet.device(folder)
    held = folder / METADATA
    name = max(f for f in fleet.newest if f == f"{role}.json" or f.endswith(f".{role}.json"))
    valid = fleet.newest[name]
    seen: list[bytes] = []

    def take(raw: bytes) -> Verdict:
        # What it has cached it does not fetch.
        (held / f"{role}.json").unlink(missing_ok=True)
        shutil.rmtree(held / "root_history", ignore_errors=True)
        shelf.files[name] = raw
        try:
            trust.walk_roots()
            trust.refresh(fleet.clock())
            trust.offers("press")
        except EdgeSLMError:
            # Nor may anything of it be remembered.
            if hostile.floors(folder) != seen[0]:
                return "accepted"
            raise
        seen[:] = seen or [hostile.floors(folder)]
        return "accepted"

    differs = meaning.differs_from(valid, meaning.metadata)
    return Case(name=f"metadata of {role}", seeds=[valid], differs=differs, take=take)


def _envelopes(fleet: hostile.Fleet, folder: Path) -> list[Case]:
    trust, _ = fleet.device(folder)
    trust.refresh(fleet.clock())
    now, signers = fleet.clock(), director.time_signers(fleet.repository)
    asked = {"device": hostile.DEVICE, "nonce": hostile.NONCE}
    assignment = kit.envelope(fleet.repository, hostile.DEVICE)
    assert assignment is not None

    def assigned(raw: bytes) -> Verdict:
        trust.assignment(raw, device=hostile.DEVICE, now=now)
        return "accepted"

    def told(raw: bytes) -> Verdict:
        trust.time_of(raw, **asked)
        return "accepted"

    ways = {
        "assignment": (assignment, assigned),
        "time reply": (director.time_reply(signers, now=now, **asked), told),
    }
    return [
        Case(
            name=name,
            seeds=[valid],
            differs=meaning.differs_from(valid, meaning.envelope),
            take=take,
            mutate=_mutated_envelope,
        )
        for name, (valid, take) in ways.items()
    ]


def _mutated_envelope(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Damage an envelope, or what it holds."""
    if rng.random() < 0.5:
        return mutated(rng, seeds)
    held: dict[str, Any] = json.loads(rng.choice(seeds))
    payload = mutated(rng, [base64.b64decode(held["payload"])])
    return hostile.compact({**held, "payload": base64.b64encode(payload).decode()})


class NothingMoreError(UnavailableError):
    """All that a test sends was taken or ignored."""

    code = "fetch.stalled"  # what a device says of it, after some time


class ScriptedMailbox:
    """What a fetch needs of a mailbox; hands over what a test gives, and then ends the fetch."""

    connected = True
    epoch = 1
    trouble = None

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.coming: list[Received] = []

    @property
    def held(self) -> frozenset[str]:
        return self.wanted

    def subscribe(self, filters: frozenset[str]) -> None:
        self.wanted = filters

    def send(self, topic: str, payload: bytes, *, keep: bool) -> None:
        """Nobody hears it."""

    def wait(self, timeout_s: float) -> list[Received]:
        del timeout_s
        if not self.coming:
            msg = "nothing more comes"
            raise NothingMoreError(msg)
        return [self.coming.pop(0)]


class Device:
    """Fetches blobs by a script."""

    def __init__(self, folder: Path) -> None:
        self.mailbox = ScriptedMailbox()
        self.store = FileBlockStore(folder)
        self.topics = Topics("edgeslm/v1", "d1")
        settings = UpdateSettings()
        self.fetcher = Fetcher(
            cast("Mailbox", self.mailbox),  # as much of one as it needs
            self.store,
            self.topics,
            settings=settings,
            clock=SystemClock(),
        )

    def fetch(
        self, data: bytes, listed: Sequence[str], coming: Sequence[bytes]
    ) -> tuple[bytes | None, int]:
        """Return the blob, None where it did not come, and how many bytes were taken for it."""
        blob = hashlib.sha256(data).hexdigest()
        topic = FleetTopics(self.topics.root).blob(blob)
        self.mailbox.coming = [
            Received(topic, raw, 0, 0, dup=False, retain=False, epoch=1, received_at=0.0)
            for raw in coming
        ]
        counts: list[int] = []
        try:
            path = self.fetcher.fetch(blob, len(data), listed, advance=counts.append)
            return path.read_bytes(), max(counts) - counts[0]
        except NothingMoreError:
            return None, max(counts) - counts[0]


@contextlib.contextmanager
def blocks(folder: Path) -> Iterator[list[Case]]:
    """A block of a blob whose list is signed, one that is all of a blob, and one without a list."""
    rng = random.Random(2)  # noqa: S311 -- bytes like a model's
    yield [
        _listed("block of a list", rng.randbytes(2 * BLOCK_BYTES + 300), folder / "listed"),
        _listed("block that is a blob", rng.randbytes(600), folder / "whole"),
        _unlisted(rng.randbytes(BLOCK_BYTES + 300), folder / "unlisted"),
    ]


def _sliced(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def _listed(name: str, data: bytes, folder: Path) -> Case:
    device, pieces = Device(folder), _sliced(data)
    listed = [hashlib.sha256(piece).hexdigest() for piece in pieces] if len(pieces) > 1 else []
    valid = [codec.pack(number, len(data), piece) for number, piece in enumerate(pieces)]

    def take(raw: bytes) -> Verdict:
        _, taken = device.fetch(data, listed, [raw])
        if not taken:
            return "refused"
        device.store.sweep()
        return "accepted"

    return Case(name=name, seeds=valid, differs=lambda raw: raw not in valid, take=take)


def _unlisted(data: bytes, folder: Path) -> Case:
    """Of such a blob only the whole can be held against anything, so its other block comes too."""
    device = Device(folder)
    valid = [codec.pack(number, len(data), piece) for number, piece in enumerate(_sliced(data))]

    def take(raw: bytes) -> Verdict:
        for other in valid:
            # Twice: it is fetched once more where it was damaged.
            fetched, _ = device.fetch(data, (), [raw, other, raw, other])
            device.store.sweep()
            if fetched is not None:
                return "accepted"
        return "refused"

    return Case(
        name="block without a list", seeds=valid, differs=lambda raw: raw not in valid, take=take
    )


@contextlib.contextmanager
def deltas(folder: Path) -> Iterator[list[Case]]:
    """What makes a file of another: as a difference of bytes, and as a patch."""
    change = bytes((b - a) % 256 for a, b in zip(OLD, NEW, strict=True))
    folder.mkdir(exist_ok=True)
    yield [
        _delta("bytes-zstd", zstandard.compress(change), folder),
        _delta("bsdiff", bsdiff4.diff(OLD, NEW), folder),
    ]


def _delta(algorithm: Algorithm, valid: bytes, folder: Path) -> Case:
    old, delta, new = (folder / f"{algorithm}.{name}" for name in ("old", "delta", "new"))
    old.write_bytes(OLD)
    sha256 = hashlib.sha256(NEW).hexdigest()

    def take(raw: bytes) -> Verdict:
        new.unlink(missing_ok=True)
        delta.write_bytes(raw)
        try:
            patch(algorithm, old, delta, new, size=len(NEW), sha256=sha256)
        except EdgeSLMError:
            if new.exists():
                return "accepted"
            raise
        return "same" if new.read_bytes() == NEW else "accepted"

    return Case(
        name=f"delta, {algorithm}", seeds=[valid], differs=lambda raw: raw != valid, take=take
    )
