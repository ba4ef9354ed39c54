"""What `--tune` finds for this CPU against what other tools make of the same encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np
import onnx
import onnxruntime

from benchmarks import bundles, cases
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.rivals import quantisers
from benchmarks.setup import Setup
from benchmarks.stats import once, paired
from edgeslm import providers
from edgeslm.adapters.ort import make_session
from edgeslm.demo.bundles import WEIGHTS_PACKAGE
from edgeslm.runtime.batches import MASK, stack
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.tokenizer import Tokenizer
from edgeslm.tasks.intent import IntentParameters
from exporters import recipes
from exporters.data import Row
from exporters.encode import make_embed
from exporters.heads.base import FittedHead
from exporters.sources import open_source
from exporters.sources.base import Encoder, read_encoder
from exporters.targets.base import Feeds
from exporters.tune.timing import Runner

_CASE: Final = "banking77"
_TOKENS: Final = range(16, 33)
_TEXTS: Final = 192
_QUICK_TEXTS: Final = 96
_TURN: Final = 8  # texts before the other's turn, one by one
_WAITING: Final = 32  # texts that a worker finds waiting, of which who can makes batches
_STREAM: Final = 3 * _WAITING  # texts before the other's turn, where they are counted by the second
_CALLERS: Final = 2
_MAX_TOKENS: Final = 128
_SHARE: Final = 0.05  # of `edgeslm-export intent`, which accuracy does not depend on
_ERRORS_ONLY: Final = 3

Run = Callable[[Feeds], object]


@dataclass(frozen=True, slots=True)
class _Way:
    """To answer many texts.

    Args:
        run: answers one text, or a padded batch.
        callers: how many at once.
        batched: texts that are alike in length go together, as the agent puts them.
        by_row: no answer depends on who else waits.
    """

    run: Run
    callers: int
    batched: bool = False
    by_row: bool = True

    def parts(self, texts: Sequence[Feeds]) -> list[list[Feeds]]:
        """Return what goes through the graph together."""
        return Runner(self.run, self.callers, True if self.batched else None).parts(texts)


@dataclass(frozen=True, slots=True)
class _Entrant:
    """Somebody's int8, head inside.

    Args:
        alone: answers with one thread.
        ways: to answer many; the best counts, where answers may depend on who waits, or not.
        accuracy: on the evaluation part, text by text, in per cent.
    """

    alone: Run
    ways: Sequence[_Way]
    accuracy: float


def tune(setup: Setup) -> dict[str, Measured]:
    """Against optimum's default int8."""

    def rival(encoder: onnx.ModelProto) -> onnx.ModelProto:
        setup.tell("quantising with optimum")
        return quantisers.optimum(encoder, setup.work / "optimum")

    ours, theirs, feeds = _entrants(setup, rival)
    latency, throughput, batched = _race(setup, ours, theirs, feeds)
    return {
        "tune-latency": latency,
        "tune-throughput": throughput,
        "tune-batched": batched,
        "tune-accuracy": once(ours.accuracy, theirs.accuracy),
    }


def olive(setup: Setup) -> dict[str, Measured]:
    """Against Olive's int8, in an environment of its own."""

    def rival(encoder: onnx.ModelProto) -> onnx.ModelProto:
        setup.tell("quantising with Olive")
        environment = setup.cache.parent / quantisers.OLIVE_PINS[0]
        return quantisers.olive(encoder, setup.work / "olive", environment)

    ours, theirs, feeds = _entrants(setup, rival)
    latency, throughput, batched = _race(setup, ours, theirs, feeds)
    return {
        "tune-olive-latency": latency,
        "tune-olive-throughput": throughput,
        "tune-olive-batched": batched,
        "tune-olive-accuracy": once(ours.accuracy, theirs.accuracy),
    }


def _entrants(
    setup: Setup, rival: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> tuple[_Entrant, _Entrant, list[Feeds]]:
    """Return us, the rival, and the texts to time, tokenised."""
    bundle = bundles.tuned(setup, _CASE)
    judged = cases.rows(setup, _CASE, "eval")
    setup.tell("exporting fp32")
    folder = setup.work / "fp32"
    folder.mkdir()
    open_source(f"package:{WEIGHTS_PACKAGE}", tokenizer=None).export(folder)
    encoder = read_encoder(folder)
    tokenizer = Tokenizer(encoder.tokenizer, max_tokens=_MAX_TOKENS)
    encoded = {row.text: tokenizer.encode(row.text)[0] for row in judged}
    feeds: list[Feeds] = [f for f in encoded.values() if f["input_ids"].shape[1] in _TOKENS]
    feeds = feeds[: _QUICK_TEXTS if setup.quick else _TEXTS]
    feeds = feeds[: len(feeds) - len(feeds) % _STREAM]
    if not feeds:
        msg = f"fewer than {_STREAM} texts of {_TOKENS[0]} to {_TOKENS[-1]} tokens"
        raise RunFailedError(msg)
    small = rival(encoder.model)
    setup.tell("fitting the rival's head")
    head = _head(setup, encoder, small)
    return _ours(bundle, judged, encoded), _theirs(head, small, judged, encoded), feeds


def _ours(bundle: Path, judged: Sequence[Row], encoded: Mapping[str, Feeds]) -> _Entrant:
    """Open our graph as a device does."""
    opened = open_bundle(bundle)
    files = opened.of(opened.manifest.variants()[0])
    [graph] = files.artifacts("graph")
    provider = providers.load("cpu")
    assert provider is not None  # noqa: S101 -- every build has it
    session = make_session(bundle / graph.path, options=provider.options(graph))
    labels = IntentParameters.model_validate_json(files.read("parameters")).labels

    def run(feed: Feeds) -> dict[str, np.ndarray]:
        return session.run({name: feed[name] for name in session.inputs})

    accuracy = _accuracy(lambda feed: run(feed)["logits"], labels, judged, encoded)
    ways = [_Way(run, _CALLERS)]
    if graph.batch_invariant and MASK in session.inputs:
        ways.append(_Way(run, _CALLERS, batched=True))
    return _Entrant(run, ways, accuracy)


def _head(setup: Setup, encoder: Encoder, small: onnx.ModelProto) -> FittedHead:
    """Fit our kind of head on the rival's encoder, on the rows that ours is fitted on."""
    task = recipes.load("intent")
    data = setup.work / "train.jsonl"
    data.write_bytes(cases.to_jsonl(bundles.train_rows(setup, _CASE)))
    rows = task.split(data, None, share=_SHARE, seed=0).train
    embed = make_embed(small, encoder, max_tokens=_MAX_TOKENS)
    return task.fit(rows, embed, share=_SHARE, seed=0, advance=lambda _: None)


def _theirs(
    head: FittedHead, small: onnx.ModelProto, judged: Sequence[Row], encoded: Mapping[str, Feeds]
) -> _Entrant:
    """Put the head into the rival's graph.

    ONNX Runtime's defaults: it rewrites the graph as far as it can when it is loaded. Many texts
    it may answer in the usual ways: one caller and as many threads as there are cores, or a caller
    for each core and one thread. In batches its answers depend on who is in them: that counts
    apart, and its accuracy is that of text by text.
    """
    labels = IntentParameters.model_validate_json(head.parameters).labels
    model = head.attach(small).SerializeToString()
    one, many = _session(model, threads=1), _session(model, threads=0)
    accuracy = _accuracy(lambda feed: one(feed)[0], labels, judged, encoded)
    ways = [
        _Way(run, callers, batched=batched, by_row=not batched)
        for run, callers in ((many, 1), (one, _CALLERS))
        for batched in (False, True)
    ]
    return _Entrant(one, ways, accuracy)


def _session(model: bytes, *, threads: int) -> Callable[[Feeds], list[np.ndarray]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_inputs()]

    def run(feed: Feeds) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, {name: feed[name] for name in names})
        return found

    return run


def _accuracy(
    logits: Callable[[Feeds], np.ndarray],
    labels: Sequence[str],
    judged: Sequence[Row],
    encoded: Mapping[str, Feeds],
) -> float:
    """Share of texts whose best label is right, in per cent."""
    with ThreadPoolExecutor(_CALLERS) as pool:
        best = pool.map(lambda row: labels[int(logits(encoded[row.text])[0].argmax())], judged)
        right = sum(said == row.label for said, row in zip(best, judged, strict=True))
    return 100 * right / len(judged)


def _race(
    setup: Setup, ours: _Entrant, theirs: _Entrant, feeds: list[Feeds]
) -> tuple[Measured, Measured, Measured]:
    """Return latency (ms), and throughput (texts/s) with independent answers and in any way.

    A few texts of each in turn.
    """
    both = (ours, theirs)
    for entrant in both:
        for way in entrant.ways:
            _seconds(way, feeds[:_WAITING])
    latencies: tuple[list[float], list[float]] = ([], [])
    rates: tuple[list[float], list[float]] = ([], [])
    any_rates: tuple[list[float], list[float]] = ([], [])
    for number in range(setup.rounds):
        setup.tell(f"round {number + 1} of {setup.rounds}")
        alone: list[list[float]] = [[] for _ in both]
        many: list[list[list[float]]] = [[[] for _ in entrant.ways] for entrant in both]
        for start in range(0, len(feeds), _TURN):
            for seconds, entrant in zip(alone, both, strict=True):
                way = _Way(entrant.alone, 1)
                seconds += [_seconds(way, [feed]) for feed in feeds[start : start + _TURN]]
        for start in range(0, len(feeds), _STREAM):
            for ways, entrant in zip(many, both, strict=True):
                for seconds, way in zip(ways, entrant.ways, strict=True):
                    seconds.append(_seconds(way, feeds[start : start + _STREAM]))
        # Medians: what interrupts one text, or one turn, is not of the model.
        for i, (entrant, seconds, ways) in enumerate(zip(both, alone, many, strict=True)):
            latencies[i].append(1e3 * median(seconds))
            found = list(zip(entrant.ways, map(median, ways), strict=True))
            rates[i].append(_STREAM / min(took for way, took in found if way.by_row))
            any_rates[i].append(_STREAM / min(took for _, took in found))
    return paired(*latencies), paired(*rates), paired(*any_rates)


def _seconds(way: _Way, texts: Sequence[Feeds]) -> float:
    parts = way.parts(texts)

    def answer(rows: Sequence[Feeds]) -> object:
        return way.run(rows[0] if len(rows) == 1 else stack(rows))

    if way.callers == 1:
        begun = perf_counter()
        for rows in parts:
            answer(rows)
        return perf_counter() - begun
    with ThreadPoolExecutor(way.callers) as pool:
        list(pool.map(answer, parts[: way.callers]))  # so that its threads are there
        begun = perf_counter()
        list(pool.map(answer, parts))
        return perf_counter() - begun
