"""From publishing a text to holding its result, at a fifth of the load that can be carried."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.contestants import TOPIC, agent, listening, running
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.groups.throughput import flow, write_load
from benchmarks.rivals.bare import Bare
from benchmarks.setup import Setup
from benchmarks.stats import above

_LOAD: Final = 0.2
_TO_SATURATE: Final = 1000
_A_ROUND: Final = 300
_LIMIT_S: Final = 30.0


def latency(setup: Setup) -> dict[str, Measured]:
    """Median over a round; the floor is tokenizer and model alone, same texts, same pace.

    The same pace, since a model that rests between two texts finds caches cold: an inference in a
    tight loop takes half as long.
    """
    bundle = bundles.intent(setup, "clinc150")
    texts = [row.text for row in cases.rows(setup, "clinc150", "eval")]
    # No text twice, so that every one costs an inference.
    load = write_load(setup, texts[:_TO_SATURATE])
    size = 50 if setup.quick else _A_ROUND
    bare = Bare(bundle)
    ours, floors = [], []
    with (
        Broker(setup.work / "broker") as broker,
        running(agent(bundle), broker, setup.work, probe="is anybody there") as run,
    ):
        setup.tell("finding out what it can carry")
        gap_s = 1.0 / (_LOAD * flow(broker, run.out, load))
        for number in range(setup.rounds):
            setup.tell(f"round {number + 1} of {setup.rounds}")
            here = texts[_TO_SATURATE + number * size :][:size]
            ours.append(_over_mqtt(broker, run.out, here, gap_s=gap_s))
            floors.append(_alone(bare, here, gap_s=gap_s))
    return {"latency": above(ours, floors)}


def _over_mqtt(broker: Broker, out: str, texts: Sequence[str], *, gap_s: float) -> float:
    """Median time from publishing to holding the result, ms.

    Args:
        broker: where.
        out: topic of the results, which come in the order of the texts.
        texts: one message each.
        gap_s: from one message to the next, in seconds.
    """
    sent = []
    with listening(broker, out) as (client, arrivals):
        for text in paced(texts, gap_s):
            sent.append(time.perf_counter())
            client.publish(TOPIC, text, qos=1)
        deadline = time.perf_counter() + _LIMIT_S
        while len(arrivals) < len(sent):
            if time.perf_counter() > deadline:
                msg = f"{len(arrivals)} of {len(sent)} results within {_LIMIT_S:.0f} s"
                raise RunFailedError(msg)
            time.sleep(0.005)
    return 1e3 * median(b - a for a, b in zip(sent, arrivals, strict=True))


def _alone(bare: Bare, texts: Sequence[str], *, gap_s: float) -> float:
    """Median time of one inference, its tokenizing included, ms."""
    taken = []
    for text in paced(texts, gap_s):
        begun = time.perf_counter()
        bare.answer(text)
        taken.append(time.perf_counter() - begun)
    return 1e3 * median(taken)


def paced(texts: Sequence[str], gap_s: float) -> Iterator[str]:
    """Yield the texts at even distances in time; one that is late does not delay the next."""
    begun = time.perf_counter()
    for number, text in enumerate(texts):
        time.sleep(max(0.0, begun + number * gap_s - time.perf_counter()))
        yield text
