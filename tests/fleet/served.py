"""A repository in memory, its blobs on disk, behind the server's port: no keys, no TUF."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Final

from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import BLOCK_BYTES, Index, TimeReply
from edgeslm.errors import UnavailableError
from edgeslm.fleet.publisher import Publications
from edgeslm.fleet.server import Served, Server
from edgeslm.ports import Letter

ROOT: Final = "edgeslm/v1"


class KeyGoneError(UnavailableError):
    """A key in a safe."""

    code = "key.missing"


class FakeServed:
    """Implements `edgeslm.fleet.server.Served`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.version = 1
        self.devices: dict[str, bytes] = {}
        self.refreshes = 0
        self.broken = False

    def add(self, data: bytes) -> str:
        """Store a blob; return its name."""
        blob = hashlib.sha256(data).hexdigest()
        (self.blobs / blob).write_bytes(data)
        return blob

    def stamp(self) -> object:
        return self.version, dict(self.devices), self.broken

    def publications(self) -> Publications:
        if self.broken:
            raise KeyGoneError
        v = self.version
        names = ["1.root.json", f"{v}.model-a.json", f"{v}.targets.json", f"{v}.snapshot.json"]
        files = {name: json.dumps([name, v]).encode() for name in [*names, "timestamp.json"]}
        return Publications(files, Index(schema=1, root=1, files=tuple(files)), dict(self.devices))

    def sign_time(self, device: str, nonce: str, now: float) -> bytes:
        if self.broken:
            raise KeyGoneError
        reply = TimeReply(schema=1, device=device, nonce=nonce, time=now)
        return reply.model_dump_json(by_alias=True).encode()

    def refresh(self) -> bool:
        self.refreshes += 1
        return False


class Running:
    """A server on a thread of a test's."""

    def __init__(self, served: Served, port: int, *, name: str = "fleet", **more: bool) -> None:
        config = LinkConfig(name, Broker(host="127.0.0.1", port=port))
        self.server = Server(
            served,
            lambda sink: MqttLink[Letter](config, sink),
            root=ROOT,
            clock=SystemClock(),
            **more,
        )
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.server.stop()  # may be said twice
        self._thread.join(10)
        assert not self._thread.is_alive()


def hashes(data: bytes) -> list[str]:
    """Of the blocks of a blob; none where it has one."""
    pieces = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    return [hashlib.sha256(piece).hexdigest() for piece in pieces] if len(pieces) > 1 else []
