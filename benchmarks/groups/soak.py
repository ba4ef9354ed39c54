"""An hour near the most that an agent can carry: whether anything grows, and what is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from threading import Thread
from typing import IO, Final

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.contestants import TOPIC, agent, running, settled
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.groups.throughput import flow, write_load
from benchmarks.setup import Setup
from benchmarks.watch import descriptors, memory_mb
from edgeslm.core.growth import slope
from edgeslm.demo.processes import Child

_LOAD: Final = 0.8
_BURSTS: Final = 50  # a second
_BEHIND_S: Final = (
    5.0  # so much of the load may be on its way: what the machine did not carry waits
)
_LIMIT_S: Final = 120.0
_HOUR_S: Final = 3600.0
_TELL_S: Final = 20.0
_READY: Final = "benchmarks/ready"


@dataclass(frozen=True, slots=True)
class _Pace:
    """How long it takes, in seconds.

    Args:
        whole_s: all of it.
        settle_s: at its beginning, in which memory may grow as it will.
        look_s: between two readings.
        span_s: of readings of which the median counts.
    """

    whole_s: float
    settle_s: float
    look_s: float
    span_s: float


_WHOLE: Final = _Pace(whole_s=3600.0, settle_s=600.0, look_s=5.0, span_s=60.0)
_QUICK: Final = _Pace(whole_s=60.0, settle_s=20.0, look_s=0.5, span_s=4.0)


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    rss_mb: float
    pss_mb: float
    descriptors: int


def soak(setup: Setup) -> dict[str, Measured]:
    """The plant's traffic, over and over, at a share of what the same agent has just carried.

    Capacity is measured with the cache as warm as it is in the hour. What the machine does not
    carry, since others need it, is not sent later: the note says how much it was.
    """
    bundle = bundles.plant(setup)
    texts = [row.text for row in cases.rows(setup, "plant-traffic", "lines")]
    load = write_load(setup, texts)
    pace = _QUICK if setup.quick else _WHOLE
    with (
        Broker(setup.work / "broker") as broker,
        running(agent(bundle), broker, setup.work, probe=texts[0]) as run,
    ):
        setup.tell("finding out what it can carry")
        flow(broker, run.out, load)
        rate = _LOAD * flow(broker, run.out, load)
        with _counting(broker, run.out) as heard, _publisher(broker) as pipe:
            stream = _Stream(pipe, heard, texts, rate)
            readings = _hour(setup, run.child, stream, pace)
            sent = stream.sent
            pipe.close()
            until = time.monotonic() + _LIMIT_S
            while len(heard) < sent and time.monotonic() < until:
                time.sleep(0.1)
        if len(heard) >= sent:  # else what it counts cannot be told from what is lost
            settled(broker, run.out, answered=1 + 2 * len(texts) + sent)
    return _figures(readings, sent=sent, heard=len(heard), rate=rate, pace=pace)


class _Heard:
    """Counts the results that mosquitto_sub tells of, one line each."""

    def __init__(self) -> None:
        self._bytes = 0

    def __len__(self) -> int:
        return self._bytes // 2  # a mark and the end of its line

    def read(self, out: IO[bytes]) -> None:
        """Count to the end of it."""
        while data := out.read1(65_536):  # type: ignore[attr-defined] # it is buffered
            self._bytes += len(data)


class _Stream:
    """Texts at a rate, over and over, as long as they are answered about as fast.

    Args:
        pipe: takes a text a line.
        heard: counts results.
        texts: what is sent.
        rate: texts a second.

    Attributes:
        sent: how many so far.
    """

    def __init__(self, pipe: IO[bytes], heard: _Heard, texts: Sequence[str], rate: float) -> None:
        self.sent = 0
        self._pipe = pipe
        self._heard = heard
        self._lines = cycle([text.encode() + b"\n" for text in texts])
        self._rate = rate
        self._due = 0.0
        self._at = time.monotonic()

    def step(self) -> None:
        """Send what is due by now: what was due more than a second ago is not sent any more."""
        now = time.monotonic()
        self._due = min(self._due + self._rate * (now - self._at), self._rate)
        self._at = now
        count = int(self._due)
        if self.sent - len(self._heard) > _BEHIND_S * self._rate:
            return
        self._pipe.write(b"".join(islice(self._lines, count)))
        self._pipe.flush()
        self.sent += count
        self._due -= count


def _hour(setup: Setup, child: Child, stream: _Stream, pace: _Pace) -> list[_Reading]:
    """Send and read meanwhile; return what was read."""
    readings: list[_Reading] = []
    begun = time.monotonic()
    look_at, tell_at = 0.0, 0.0
    while (passed := time.monotonic() - begun) < pace.whole_s:
        stream.step()
        if passed >= look_at:
            readings.append(_Reading(passed, *memory_mb(child), descriptors(child)))
            look_at += pace.look_s
        if passed >= tell_at:
            tell_at += _TELL_S
            setup.tell(
                f"{passed / 60:.0f} of {pace.whole_s / 60:.0f} min: {stream.sent:,} texts, "
                f"{readings[-1].rss_mb:.1f} MB, {readings[-1].descriptors} descriptors"
            )
        time.sleep(max(0.0, begun + passed + 1 / _BURSTS - time.monotonic()))
    return readings


def _figures(
    readings: Sequence[_Reading], *, sent: int, heard: int, rate: float, pace: _Pace
) -> dict[str, Measured]:
    """Return the figures of what was read after the beginning."""
    spans: dict[int, list[_Reading]] = {}
    for each in readings:
        if each.at >= pace.settle_s:
            spans.setdefault(int(each.at / pace.span_s), []).append(each)
    at = [(number + 0.5) * pace.span_s for number in spans]
    weights = [median(each.rss_mb for each in span) for span in spans.values()]
    shares = [median(each.pss_mb for each in span) for span in spans.values()]
    growth, of_share = (_HOUR_S * slope(zip(at, each, strict=True)) for each in (weights, shares))
    open_ = [median(each.descriptors for each in span) for span in spans.values()]
    more = float(open_[-1] - open_[0])
    lost = float(sent - heard)
    carried = sent / pace.whole_s
    held = f"{min(weights):.1f} to {max(weights):.1f} MB, of PSS {of_share:.2f} MB/h"
    note = f"{carried:,.0f} texts/s, {100 * _LOAD * carried / rate:.0f} % of what it can carry"
    return {
        "soak-rss": Measured(growth, 0, (growth, growth), note=f"{held}; {note}"),
        "soak-lost": Measured(lost, 0, (lost, lost), note=f"of {sent:,}"),
        "soak-descriptors": Measured(
            more, 0, (min(open_) - open_[0], max(open_) - open_[0]), note=f"from {open_[0]:.0f}"
        ),
    }


@contextmanager
def _counting(broker: Broker, topic: str) -> Iterator[_Heard]:
    """Count what comes on a topic, from when it is subscribed."""
    at = ("-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", _READY, "-t", topic)
    heard = _Heard()
    with subprocess.Popen(("mosquitto_sub", *at, "-F", "x"), stdout=subprocess.PIPE) as client:
        assert client.stdout is not None  # noqa: S101 -- it is a pipe
        client.stdout.readline()  # what is retained there says that we are subscribed
        counts = Thread(target=heard.read, args=(client.stdout,))
        counts.start()
        try:
            yield heard
        finally:
            client.kill()
            counts.join()


@contextmanager
def _publisher(broker: Broker) -> Iterator[IO[bytes]]:
    """Publish each line that is written, at QoS 1; closed, the pipe lets the client end."""
    argv = (
        "mosquitto_pub",
        "-h",
        "127.0.0.1",
        "-p",
        str(broker.port),
        "-q",
        "1",
        "-t",
        TOPIC,
        "-l",
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as client:
        assert client.stdin is not None  # noqa: S101 -- it is a pipe
        try:
            yield client.stdin
            if client.wait(_LIMIT_S):
                msg = f"mosquitto_pub ended with status {client.returncode}"
                raise RunFailedError(msg)
        finally:
            client.kill()
