"""A model exchanged while it serves: what is lost, what it costs those who wait, what it leaves."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import paho.mqtt.client as paho

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.contestants import MODEL, TOPIC, agent, listening, running
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.groups.throughput import flow, write_load
from benchmarks.setup import Setup
from benchmarks.stats import once, paired
from edgeslm.adapters.process import pss_mb
from edgeslm.contract.control import Commit, Recheck, Try
from edgeslm.contract.slots import BUNDLES, SLOTS_FILE, ModelSlots, Slot, SlotName, SlotTable
from edgeslm.runtime.bundle import MANIFEST, open_bundle
from edgeslm.updater.control import SOCKET, Control

_LOAD: Final = 0.25
_TO_SATURATE: Final = 1000
_SWAPS: Final = 4  # a round
_QUICK_SWAPS: Final = 1
_TRIAL_S: Final = 1.0
_AFTER_S: Final = 1.0  # what an exchange stirs up has settled by then
_LIMIT_S: Final = 60.0


def swap(setup: Setup) -> dict[str, Measured]:
    """Two versions of one bundle in turn: loaded, replayed, swapped, replayed again, committed.

    Texts go on all the while at an even pace. What is held against that is the same pace for as
    long while nothing is exchanged, right after.
    """
    bundle = bundles.intent(setup, "clinc150")
    texts = [row.text for row in cases.rows(setup, "clinc150", "eval")]
    slots, runtime = setup.work / "updater", setup.work / "runtime"
    hashes = _fill(slots, bundle)
    enter = agent(bundle, updates=(slots, runtime))
    during: list[float] = []
    steady: list[float] = []
    with (
        Broker(setup.work / "broker") as broker,
        running(enter, broker, setup.work, probe="is anybody there") as run,
    ):
        setup.tell("finding out what it can carry")
        load = write_load(setup, texts[:_TO_SATURATE])
        gap_s = 1.0 / (_LOAD * flow(broker, run.out, load))
        control = Control(runtime / SOCKET)
        before = _weight(run.child.pid)
        turn: cycle[SlotName] = cycle(("b", "a"))
        with listening(broker, run.out) as (client, arrivals):
            stream = _Stream(client, arrivals, texts[_TO_SATURATE:], gap_s=gap_s)
            for number in range(setup.rounds):
                exchanged: list[float] = []
                quiet: list[float] = []
                for slot in islice(turn, _QUICK_SWAPS if setup.quick else _SWAPS):
                    setup.tell(f"round {number + 1} of {setup.rounds}: to slot {slot}")
                    began = time.perf_counter()
                    exchanged += stream.while_(partial(_exchange, control, slot, hashes[slot]))
                    quiet += stream.while_(partial(time.sleep, time.perf_counter() - began))
                during.append(_p99(exchanged))
                steady.append(_p99(quiet))
        after = _weight(run.child.pid)
        (served,) = control.report().models
        control.close()
    failed = stream.lost + served.errors
    return {
        "swap-failed": once(failed, 0),
        "swap-p99": paired(during, steady),
        "swap-pss": Measured(after, before, (after / before, after / before)),
    }


class _Stream:
    """Texts at an even pace, and how long each took: results come in the order of the texts.

    Args:
        client: publishes.
        arrivals: times at which results came, perf_counter.
        texts: one message each; again from the first where they end.
        gap_s: from one message to the next, in seconds.

    Attributes:
        lost: texts without a result.
    """

    def __init__(
        self, client: paho.Client, arrivals: list[float], texts: Sequence[str], *, gap_s: float
    ) -> None:
        self.lost = 0
        self._client = client
        self._arrivals = arrivals
        self._texts = cycle(texts)
        self._gap_s = gap_s

    def while_(self, work: Callable[[], object]) -> list[float]:
        """Publish as long as `work` goes on in a thread of its own; return what each took, ms.

        Raises:
            EdgeSLMError: whatever `work` raises.
        """
        begun, first = time.perf_counter(), len(self._arrivals)
        sent: list[float] = []
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(work)
            while not going.done():
                time.sleep(max(0.0, begun + len(sent) * self._gap_s - time.perf_counter()))
                sent.append(time.perf_counter())
                self._client.publish(TOPIC, next(self._texts), qos=1)
            going.result()
        deadline = time.perf_counter() + _LIMIT_S
        while len(self._arrivals) < first + len(sent) and time.perf_counter() < deadline:
            time.sleep(0.005)
        came = self._arrivals[first:]
        self.lost += len(sent) - len(came)
        return [1e3 * (b - a) for a, b in zip(sent, came, strict=False)]


def _exchange(control: Control, slot: SlotName, bundle: str) -> None:
    """All that an update asks of an agent, with a short trial.

    Raises:
        EdgeSLMError: the agent could not.
    """
    control.order(Try(model=MODEL, slot=slot, bundle=bundle), timeout_s=_LIMIT_S)
    time.sleep(_TRIAL_S)
    control.order(Recheck(model=MODEL), timeout_s=_LIMIT_S)
    control.order(Commit(model=MODEL), timeout_s=_LIMIT_S)
    time.sleep(_AFTER_S)


def _p99(taken: Sequence[float]) -> float:
    return sorted(taken)[int(0.99 * len(taken))]


def _weight(pid: int) -> float:
    if (found := pss_mb(pid)) is None:
        msg = "this system tells of no process what it weighs"
        raise RunFailedError(msg)
    return found


def _fill(folder: Path, bundle: Path) -> dict[str, str]:
    """Make an updater's directory of a bundle, in both slots under two versions; return hashes."""
    hashes: dict[str, str] = {}
    held: dict[str, Slot] = {}
    for version, slot in enumerate(("a", "b"), 1):
        into = folder / BUNDLES / MODEL / slot
        shutil.copytree(bundle, into)
        manifest = json.loads((into / MANIFEST).read_bytes())
        (into / MANIFEST).write_text(json.dumps({**manifest, "version": version}), "utf-8")
        hashes[slot] = open_bundle(into).hash
        held[slot] = Slot(bundle=hashes[slot], version=version, whole=True)
    table = SlotTable(models={MODEL: ModelSlots(active="a", a=held["a"], b=held["b"])})
    (folder / SLOTS_FILE).write_text(table.model_dump_json(), "utf-8")
    return hashes
