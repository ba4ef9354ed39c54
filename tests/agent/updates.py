"""What an updater does to an agent, in a test's hands: slots on disk, orders over the socket."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgeslm.contract.control import NEWS, Done, Failed, News, Order, Query, Report, ServingModel
from edgeslm.contract.slots import ModelSlots, Slot, SlotName, SlotTable
from edgeslm.runtime.bundle import open_bundle
from tests.agent.kit import WAIT_S, poll


class Slots:
    """An updater's directory, with as much of a table as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, model: str, slot: SlotName) -> Path:
        return self.folder / "bundles" / model / slot

    def put(self, model: str, slot: SlotName, bundle: Path) -> str:
        """Copy a bundle into a slot; return its hash."""
        into = self.path(model, slot)
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(bundle, into)
        return open_bundle(into, verify=False).hash

    def held(self, model: str, slot: SlotName) -> Slot:
        opened = open_bundle(self.path(model, slot), verify=False)
        return Slot(bundle=opened.hash, version=opened.manifest.version, whole=True)

    def commit(self, model: str, active: SlotName, *, other: bool = False, **table: Any) -> None:
        """Write the table: this slot is active; with `other` the other one is whole too."""
        a = self.held(model, "a") if other or active == "a" else None
        b = self.held(model, "b") if other or active == "b" else None
        held = ModelSlots(active=active, a=a, b=b)
        self.write(SlotTable(models={model: held}, **table))

    def write(self, table: BaseModel | bytes) -> None:
        raw = table if isinstance(table, bytes) else table.model_dump_json().encode()
        (self.folder / "slots.json").write_bytes(raw)


class Orders:
    """A connection to an agent's control socket."""

    def __init__(self, runtime_dir: Path) -> None:
        self.path = runtime_dir / "control.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT_S)
        poll(self.path.exists, f"{self.path}")
        self.socket.connect(str(self.path))
        self._lines = self.socket.makefile("rb")

    def begin(self) -> Report:
        """What the agent says to whoever comes."""
        report = self.next()
        assert isinstance(report, Report), report
        return report

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def next(self) -> News | None:
        """What it says next; None where it says no more."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            return None
        return NEWS.validate_json(line) if line else None

    def order(self, order: Order) -> Done | Failed:
        """Have it carried out, or not."""
        self.send(order.model_dump_json().encode() + b"\n")
        news = self.next()
        assert isinstance(news, Done | Failed), news
        assert news.do == order.do
        return news

    def do(self, order: Order) -> Done:
        done = self.order(order)
        assert isinstance(done, Done), done
        return done

    def fails(self, order: Order) -> str:
        """The code that it fails with."""
        failed = self.order(order)
        assert isinstance(failed, Failed), failed
        assert failed.error["message"]
        return failed.error["code"]

    def report(self) -> Report:
        self.send(Query().model_dump_json().encode() + b"\n")
        return self.begin()

    def model(self, name: str = "m") -> ServingModel:
        (found,) = [m for m in self.report().models if m.model == name]
        return found

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def dumped(fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"
