"""`edgeslm bench BUNDLE`: measure a bundle on this machine, on texts of its own golden file."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypedDict

from edgeslm.adapters.process import pss_mb
from edgeslm.cli.text import duration, whole
from edgeslm.errors import UnavailableError
from edgeslm.ports import Request
from edgeslm.runtime.device import this_device
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import Model, load_model

_LENGTHS: Final = (8, 16, 32, 64, 128)  # tokens
_STARTS: Final = 3
_WARM_UP: Final = 10  # inferences
_EPILOG: Final = """\
Cold start and memory are those of a fresh `edgeslm infer` with as many callers. Nothing else should
run on the machine meanwhile.

exit status:
  0   measured
  65  the bundle cannot be used: says why
  75  a fresh process did not answer
"""


class BenchFailedError(UnavailableError):
    """A fresh `edgeslm infer` did not answer."""

    code = "bench.failed"


class Latency(TypedDict):
    """Of single inferences, one after another, without cache."""

    tokens: int
    p50_ms: float
    p99_ms: float


class Start(TypedDict):
    """A fresh process, medians over several."""

    cold_start_ms: float
    pss_mb: float


class Measured(TypedDict):
    """Everything `edgeslm bench` says."""

    model: str
    version: int
    hash: str
    provider: str
    node_share: float
    cpu: str
    callers: int
    load_ms: float
    load_with_golden_ms: float
    cold_start_ms: float
    pss_mb: float
    latency: list[Latency]
    one_caller_per_s: float
    all_callers_per_s: float
    cached_us: float


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgeslm bench",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument(
        "--callers", type=whole(1, 64), default=os.cpu_count() or 1, help="default: cores"
    )
    parser.add_argument(
        "--seconds", type=duration, default=2.0, help="for each figure (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    args = parser.parse_args(argv)
    measured = measure(args.bundle, callers=args.callers, seconds=args.seconds)
    if args.json:
        sys.stdout.write(json.dumps(measured) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(measured)) + "\n")
    return 0


def measure(bundle: Path, *, callers: int, seconds: float) -> Measured:
    """Measure the bundle in folder `bundle`, for `seconds` a figure.

    Raises:
        Whatever `load_model` raises.
        BenchFailedError: a fresh process did not answer.
    """
    with_golden_ms, _ = _timed(lambda: load_model(bundle, cache_entries=0))
    load_ms, model = _timed(lambda: load_model(bundle, cache_entries=0, golden=False))
    requests = [
        Request(case.request.text, case.request.source)
        for case in parse_golden(model.files.read("golden"))
    ]
    for request in itertools.islice(itertools.cycle(requests), _WARM_UP):
        model.answer(request)
    starts = [_start(bundle, requests, callers=callers) for _ in range(_STARTS)]
    cached = load_model(bundle, golden=False)
    for request in requests:
        cached.answer(request)
    return {
        "model": model.ref["name"],
        "version": model.ref["version"],
        "hash": model.ref["hash"],
        "provider": model.provider,
        "node_share": model.node_share,
        "cpu": this_device().cpu_model,
        "callers": callers,
        "load_ms": load_ms,
        "load_with_golden_ms": with_golden_ms,
        "cold_start_ms": statistics.median(start["cold_start_ms"] for start in starts),
        "pss_mb": statistics.median(start["pss_mb"] for start in starts),
        "latency": list(_latencies(model, requests, seconds)),
        "one_caller_per_s": _per_second(model, requests, callers=1, seconds=seconds),
        "all_callers_per_s": _per_second(model, requests, callers=callers, seconds=seconds),
        "cached_us": 1e6 / _per_second(cached, requests, callers=1, seconds=seconds),
    }


def _latencies(model: Model, requests: list[Request], seconds: float) -> Iterator[Latency]:
    """Measure texts of several lengths, as far as the model reads."""
    words = " ".join(request.text for request in requests).split()
    longest = model.bundle.manifest.max_tokens
    for tokens in (*(n for n in _LENGTHS if n < longest), longest):
        request = _of_length(model, words, tokens)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < _WARM_UP:
            start = time.perf_counter()
            model.answer(request)
            taken.append((time.perf_counter() - start) * 1e3)
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        yield {"tokens": model.tokens(request), "p50_ms": cuts[49], "p99_ms": cuts[98]}


def _of_length(model: Model, words: Sequence[str], tokens: int) -> Request:
    """Return a text of these words that has `tokens` tokens, or as near above as they allow."""
    text = ""
    for word in itertools.islice(itertools.cycle(words), 4 * tokens):
        text = f"{text} {word}".strip()
        if model.tokens(Request(text)) >= tokens:
            break
    return Request(text)


def _per_second(model: Model, requests: list[Request], *, callers: int, seconds: float) -> float:
    """Return the answers a second of `callers` threads that ask one after another."""
    counts = [0] * callers
    end = time.perf_counter() + seconds

    def call(caller: int) -> None:
        for request in itertools.cycle(requests[caller % len(requests) :] + requests):
            model.answer(request)
            counts[caller] += 1
            if time.perf_counter() >= end:
                return

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def _start(bundle: Path, requests: list[Request], *, callers: int) -> Start:
    """Start `edgeslm infer`, wait for its first result, then for all, and look at its memory."""
    lines = [json.dumps({"text": r.text, "source": r.source}).encode() + b"\n" for r in requests]
    command = [sys.executable, "-m", "edgeslm", "infer", str(bundle), "--format", "json"]
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 -- ourselves
        [*command, "--threads", str(callers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdin is None or process.stdout is None:  # never: both are pipes
            raise BenchFailedError
        try:
            for number, line in enumerate(lines):
                process.stdin.write(line)
                process.stdin.flush()
                if not process.stdout.readline():
                    raise BrokenPipeError
                if number == 0:
                    cold_start_ms = (time.perf_counter() - started) * 1e3
            memory = pss_mb(process.pid)
        except OSError:
            msg = "a fresh `edgeslm infer` did not answer; try it by hand"
            raise BenchFailedError(msg) from None
        finally:
            with contextlib.suppress(OSError):  # it may be gone
                process.stdin.close()
    return {"cold_start_ms": cold_start_ms, "pss_mb": memory}


def _timed(load: Callable[[], Model]) -> tuple[float, Model]:
    start = time.perf_counter()
    model = load()
    return (time.perf_counter() - start) * 1e3, model


def _lines(measured: Measured) -> Iterator[str]:
    yield f"{measured['model']} {measured['version']} on {measured['cpu']}"
    yield f"  provider      {measured['provider']}, {measured['node_share']:.1%} of the nodes"
    yield (
        f"  load          {measured['load_ms']:.0f} ms; "
        f"{measured['load_with_golden_ms']:.0f} ms with the golden file"
    )
    yield f"  cold start    {measured['cold_start_ms']:.0f} ms to the first result"
    yield f"  memory        {measured['pss_mb']:.0f} MB (PSS)"
    for row in measured["latency"]:
        at = f"{row['tokens']} tokens"
        yield f"  {at:<12}  p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms"
    yield f"  1 caller      {measured['one_caller_per_s']:.0f} answers/s"
    callers = f"{measured['callers']} callers"
    yield f"  {callers:<12}  {measured['all_callers_per_s']:.0f} answers/s"
    yield f"  from cache    {measured['cached_us']:.1f} us"
