"""Models on their way to devices: how fast, how often sent, and what it costs the broker."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from benchmarks import bundles
from benchmarks.broker import Broker
from benchmarks.errors import RunFailedError
from benchmarks.fetching import GO
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import once, paired, repeated
from edgeslm.contract.fleet import BLOCK_BYTES, BlobFile, BlockList
from edgeslm.demo.processes import Child
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.deltas import make
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.fleet.store import BLOBS
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.updater.broker import DELTA_FROM_BYTES

_MODEL_BYTES: Final = 140_000_000
_FLEET_BYTES: Final = 25_000_000
_DEVICES: Final = 20
_PASSPHRASE: Final = "of no fleet that exists"  # noqa: S105
_LIMIT_S: Final = 300.0
_TOPIC: Final = "benchmarks/model"


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that is pushed.

    Args:
        file: as it lies in the repository.
        list: JSON of what devices must know of it.
        size: its bytes.
    """

    file: Path
    list: Path
    size: int


def push(setup: Setup) -> dict[str, Measured]:
    """Transfers in turns with the rival's; then many devices, in turns with one."""
    repository = init_repository(
        setup.work / "fleet", Passphrases(variable=_PASSPHRASE), FleetConfig()
    )
    (setup.work / "passphrase").write_text(_PASSPHRASE, "utf-8")
    found: dict[str, Measured] = {}
    if setup.wanted & {"push-transfer", "push-broker-memory"}:
        found |= _transfers(setup, repository)
    if "push-fleet" in setup.wanted:
        found["push-fleet"] = _fleet(setup, repository)
    return {name: measured for name, measured in found.items() if name in setup.wanted}


def push_head(setup: Setup) -> dict[str, Measured]:
    """What a device fetches when only the head has changed."""
    old, new = bundles.intent(setup, "clinc150"), bundles.revised(setup, "clinc150")
    setup.tell("making deltas")
    files = {path.relative_to(new).as_posix(): path for path in new.rglob("*") if path.is_file()}
    fetched = len(_listed(files))
    for name, path in files.items():
        base = old / name
        if base.is_file() and base.read_bytes() == path.read_bytes():
            continue
        size = path.stat().st_size
        short = size < DELTA_FROM_BYTES or not base.is_file()  # it comes whole
        fetched += size if short else _least(base, path, setup.work)
    whole = sum(path.stat().st_size for path in files.values())
    return {"push-head": once(100 * fetched / whole, 100.0)}


def _transfers(setup: Setup, repository: Repository) -> dict[str, Measured]:
    """A model to one device, and the same bytes by mosquitto's own clients."""
    blob = _blob(repository, _MODEL_BYTES)
    ours: list[float] = []
    theirs: list[float] = []
    peaks: list[float] = []
    their_peaks: list[float] = []
    for number in range(setup.rounds):
        setup.tell(f"round {number + 1} of {setup.rounds}: 140 MB")
        work = setup.work / f"round-{number}"
        with Broker(work / "broker") as broker:
            with serving(setup, repository, broker, work / "server.log"):
                ours += _fetch(broker, blob, work, devices=1)
            peaks.append(broker.peak_mb)
        with Broker(work / "rival", without=["max_packet_size"]) as broker:
            theirs.append(_pass_on(broker, blob, work / "passed-on"))
            their_peaks.append(broker.peak_mb)
        shutil.rmtree(work)
    worst = repeated(peaks, their_peaks)
    return {
        "push-transfer": paired(ours, theirs),
        "push-broker-memory": Measured(max(peaks), worst.rival_value, worst.spread),
    }


def _fleet(setup: Setup, repository: Repository) -> Measured:
    """Bytes sent to many devices that begin at once, and to one."""
    blob = _blob(repository, _FLEET_BYTES)
    many: list[float] = []
    one: list[float] = []
    for number in range(setup.rounds):
        for devices, sent in ((1, one), (_DEVICES, many)):
            setup.tell(f"round {number + 1} of {setup.rounds}: {devices} device(s)")
            work = setup.work / f"fleet-{number}-{devices}"
            log = work / "server.log"
            with Broker(work / "broker") as broker:
                with serving(setup, repository, broker, log):
                    _fetch(broker, blob, work, devices=devices)
                sent.append(_sent(log) / 1e6)
            shutil.rmtree(work)
    return paired(many, one)


def _blob(repository: Repository, size: int) -> Blob:
    """Put a file of so many random bytes into the repository."""
    data = random.Random(size).randbytes(size)  # noqa: S311 -- bytes like a model's
    blob = hashlib.sha256(data).hexdigest()
    file = repository.folder / BLOBS / blob
    file.write_bytes(data)
    pieces = (data[at : at + BLOCK_BYTES] for at in range(0, size, BLOCK_BYTES))
    blocks = [hashlib.sha256(piece).hexdigest() for piece in pieces]
    listed = repository.folder / f"{blob}.json"
    listed.write_text(json.dumps({"blob": blob, "size": size, "blocks": blocks}), "utf-8")
    return Blob(file, listed, size)


@contextmanager
def serving(setup: Setup, repository: Repository, broker: Broker, log: Path) -> Iterator[None]:
    """Run `edgeslm fleet publish`, until it has published what is retained."""
    argv = [sys.executable, "-m", "edgeslm", "fleet", "publish"]
    argv += ["--repository", str(repository.folder), "--broker", f"127.0.0.1:{broker.port}"]
    argv += ["--passphrase-file", str(setup.work / "passphrase")]
    with Child("fleet publish", argv, log=log) as server:
        until = time.monotonic() + _LIMIT_S
        while not any(line.get("event") == "published" for line in _lines(log)):
            if server.status is not None or time.monotonic() > until:
                msg = f"fleet publish: {server.last_words()}"
                raise RunFailedError(msg)
            time.sleep(0.05)
        yield


def _fetch(broker: Broker, blob: Blob, work: Path, *, devices: int) -> list[float]:
    """Have so many devices fetch a blob at once; return each one's seconds."""
    argv = [sys.executable, "-m", "benchmarks.fetching", "--port", str(broker.port)]
    argv += ["--folder", str(work / "devices"), "--blob", str(blob.list)]
    with ExitStack() as stack:
        running = []
        for number in range(devices):
            process = stack.enter_context(
                subprocess.Popen(
                    [*argv, "--name", f"device-{number}"], stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None  # noqa: S101 -- it is a pipe
            running.append(process.stdout)
        for out in running:
            _expect(out, "ready")
        broker.publish(GO, "go")
        return [float(json.loads(_expect(out, "{"))["seconds"]) for out in running]


def _expect(out: IO[str], begins: str) -> str:
    line = out.readline()
    if not line.startswith(begins):
        msg = f"a device that fetches ended early: {line!r}"
        raise RunFailedError(msg)
    return line


def _pass_on(broker: Broker, blob: Blob, to: Path) -> float:
    """Send a file as one message to a subscriber who writes it into a file; return the seconds."""
    at = ("-h", "127.0.0.1", "-p", str(broker.port), "-t", _TOPIC)
    counting = ("mosquitto_sub", *at, "-C", "2", "-N")
    with to.open("wb") as taken, subprocess.Popen(counting, stdout=taken) as subscriber:
        try:
            until = time.monotonic() + _LIMIT_S
            while not to.stat().st_size:  # it is subscribed once something comes
                broker.publish(_TOPIC, "x")
                if time.monotonic() > until:
                    msg = "mosquitto_sub heard nothing"
                    raise RunFailedError(msg)
            begun = time.perf_counter()
            subprocess.run(("mosquitto_pub", *at, "-f", str(blob.file)), check=True)
            subscriber.wait(_LIMIT_S)
            took_s = time.perf_counter() - begun
        finally:
            subscriber.kill()
    if to.stat().st_size != blob.size + 1:
        msg = f"mosquitto_sub wrote {to.stat().st_size} bytes of {blob.size + 1}"
        raise RunFailedError(msg)
    return took_s


def _sent(log: Path) -> int:
    """Bytes of blocks that a server has sent by its own account."""
    told = [line["bytes"] for line in _lines(log) if line.get("event") == "served"]
    if not told:
        msg = f"{log}: the server says of nothing that it was served"
        raise RunFailedError(msg)
    return int(told[-1])


def _lines(log: Path) -> list[dict[str, Any]]:
    """What a server has logged so far; a line that is not whole yet is left out."""
    if not log.exists():
        return []
    whole = log.read_text("utf-8", "replace").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


def _listed(files: dict[str, Path]) -> bytes:
    """The block list of a bundle's files, as it is fetched."""
    rows = []
    for name, path in files.items():
        data = path.read_bytes()
        pieces = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
        blocks = [hashlib.sha256(piece).hexdigest() for piece in pieces]
        digest = hashlib.sha256(data).hexdigest()
        blocks = blocks if len(blocks) > 1 else []
        rows.append(BlobFile(path=name, size=len(data), sha256=digest, blocks=tuple(blocks)))
    bundle = next(row.sha256 for row in rows if row.path == MANIFEST)
    return BlockList(bundle=bundle, files=tuple(rows)).model_dump_json().encode()


def _least(base: Path, path: Path, work: Path) -> int:
    """Bytes of the delta between two files, or of the file where there is none."""
    with (work / "delta").open("wb") as to:
        algorithm = make(base, path, to)
        to.flush()
        return path.stat().st_size if algorithm is None else to.tell()
