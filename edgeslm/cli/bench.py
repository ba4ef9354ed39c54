"""`edgeslm bench BUNDLE`: measure a bundle on this machine, on texts of its own golden file."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypedDict

from edgeslm import __version__, providers
from edgeslm.adapters.fs import write_durably
from edgeslm.adapters.meters import EnergyMeter, cpu_mhz, energy_meter, temperature_c
from edgeslm.adapters.process import cores, pss_mb
from edgeslm.cli.text import duration, printable, whole
from edgeslm.contract.measurement import Climate, Energy, Latency, Measurement
from edgeslm.errors import UnavailableError
from edgeslm.ports import Request
from edgeslm.runtime.batches import TOGETHER
from edgeslm.runtime.coverage import coverage_state
from edgeslm.runtime.device import this_device
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.placement import proved
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.variants import ANY_LENGTH, fixed_length

_LENGTHS: Final = (8, 16, 32, 64, 128)  # tokens, where the graph takes any
_STARTS: Final = 3
_WARM_UP: Final = 10  # inferences
_EPILOG: Final = f"""\
Cold start and memory are those of a fresh `edgeslm infer` with as many callers. Nothing else should
run on the machine meanwhile. What the machine does not tell (memory, energy, clock, temperature) is
null. In batches is as the agent takes what waits: each caller hands over up to {TOGETHER} texts
at once; the agent does so, and it is measured, only where an answer does not depend on a text's
neighbours.

The figures are kept beside the bundle folder, as bench-HASH-DEVICE.json, where it can be written;
those of a --variant as bench-HASH-DEVICE+VARIANT.json.

exit status:
  0   measured
  65  the bundle cannot be used: says why
  75  a fresh process did not answer
  78  the device profile cannot be used
"""


class BenchFailedError(UnavailableError):
    """A fresh `edgeslm infer` did not answer."""

    code = "bench.failed"


class _Start(TypedDict):
    """A fresh process."""

    cold_start_ms: float
    pss_mb: float | None


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgeslm bench",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--profile", help="device profile, by name or .toml file")
    parser.add_argument(
        "--variant", help="which of the bundle's (default: the first that this device can run)"
    )
    parser.add_argument(
        "--device", default=platform.node() or "local", help="its name (default: the host's)"
    )
    parser.add_argument("--callers", type=whole(1, 64), default=cores(), help="default: cores")
    parser.add_argument(
        "--seconds", type=duration, default=2.0, help="for each figure (default: 2)"
    )
    parser.add_argument("--print-only", action="store_true", help="do not keep the figures")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    args = parser.parse_args(argv)
    measured = measure(
        args.bundle,
        profile=args.profile,
        variant=args.variant,
        device=args.device,
        callers=args.callers,
        seconds=args.seconds,
    )
    if args.json:
        sys.stdout.write(json.dumps(measured) + "\n")
    else:
        sys.stdout.write(printable("\n".join(_lines(measured)) + "\n"))
    if args.print_only:
        return 0
    file = kept_as(args.bundle, measured, variant=args.variant)
    try:
        write_durably(file, (json.dumps(measured, indent=1) + "\n").encode())
    except OSError as err:
        why = f"{file} is not written: {err.strerror}"
    else:
        why = f"kept as {file}"
    sys.stderr.write(printable(f"edgeslm bench: note: {why}\n"))
    return 0


def kept_as(bundle: Path, measured: Measurement, *, variant: str | None = None) -> Path:
    """Return where figures of a bundle on a device are kept: beside its folder.

    Those of a `variant` that was asked for leave alone what the device runs by itself.
    """
    device = re.sub(r"[^A-Za-z0-9._-]+", "-", measured["device"]).strip(".-") or "local"
    name = f"bench-{measured['hash'][:12]}-{device[:64]}"
    if variant is not None:
        name += f"+{variant}"
    return Path(os.path.realpath(bundle)).parent / f"{name}.json"


def measure(  # noqa: PLR0913 -- by name
    bundle: Path,
    *,
    profile: str | None,
    device: str,
    callers: int,
    seconds: float,
    variant: str | None = None,
) -> Measurement:
    """Measure the bundle in folder `bundle`, for `seconds` a figure.

    Raises:
        Whatever `load_profile` and `load_model` raise.
        BenchFailedError: a fresh process did not answer.
    """
    before = _climate()  # nothing of ours has warmed the machine yet
    asked = load_profile(profile) if profile else None
    options = [] if profile is None else [f"--profile={profile}"]
    options += [] if variant is None else [f"--variant={variant}"]
    load = functools.partial(load_model, bundle, profile=asked, variant=variant)
    # Measured as it is after its golden file, which shows whether batches change answers here.
    with_golden_ms, model = _timed(lambda: load(cache_entries=0))
    load_ms, _ = _timed(lambda: load(cache_entries=0, golden=False))
    requests = [
        Request(case.request.text, case.request.source)
        for case in parse_golden(model.files.read("golden"))
    ]
    memory = model.memory()
    warming = itertools.islice(itertools.cycle(requests), max(_WARM_UP, len(requests)))
    answers = [model.answer(request, memory) for request in warming][: len(requests)]
    starts = [_start(bundle, requests, options, callers=callers) for _ in range(_STARTS)]
    pss_mb = [start["pss_mb"] for start in starts if start["pss_mb"] is not None]
    cached = load(golden=False)
    for request in requests:
        cached.answer(request)
    here, provider = this_device(), providers.load(model.provider)
    per_second = functools.partial(_per_second, requests=requests, seconds=seconds)
    measured: Measurement = {
        "schema": 1,
        "device": device,
        "time": time.time(),
        "edgeslm": __version__,
        "machine": here.cpu_model,
        "arch": here.arch,
        "cores": cores(),
        "model": model.ref["name"],
        "version": model.ref["version"],
        "hash": model.ref["hash"],
        "task": model.task,
        "variant": model.variant,
        "provider": model.provider,
        "runtime": provider.runtime() if provider is not None else "",
        "verified": model.verified,
        "node_share": model.node_share,
        "coverage": coverage_state(model.provider, model.coverage),
        "passed_over": list(model.passed_over),
        "load_ms": load_ms,
        "load_with_golden_ms": with_golden_ms,
        "cold_start_ms": statistics.median(start["cold_start_ms"] for start in starts),
        "pss_mb": statistics.median(pss_mb) if pss_mb else None,
        "latency": list(_latencies(model, requests, seconds)),
        "one_caller_per_s": per_second(model, callers=1),
        "callers": callers,
        "all_callers_per_s": per_second(model, callers=callers),
        "batched_per_s": (
            per_second(model, callers=callers, together=model.together)
            if model.together > 1
            else None
        ),
        "cached_us": 1e6 / per_second(cached, callers=1),
        "energy": energy(energy_meter(), model, requests, seconds),
        "before": before,
        "after": _climate(),
    }
    if model.handed_over is not None:
        handed = sum(answer.stage == "second" for answer in answers)
        measured["handed_over"] = handed / len(answers)
    return measured


def _climate() -> Climate:
    return {"cpu_mhz": cpu_mhz(), "temperature_c": temperature_c()}


def energy(
    meter: EnergyMeter | None, model: Model, requests: Sequence[Request], seconds: float
) -> Energy | None:
    """Return what inference draws by `meter`; None where there is none, or it falls silent."""
    if meter is None:
        return None
    count = 0
    memory = model.memory()

    def work() -> None:
        nonlocal count
        end = time.perf_counter() + seconds
        for request in itertools.cycle(requests):
            model.answer(request, memory)
            count += 1
            if time.perf_counter() >= end:
                return

    try:
        idle_w = meter.joules(lambda: time.sleep(seconds)) / seconds
        start = time.perf_counter()
        joules = meter.joules(work)
        took_s = time.perf_counter() - start
    except OSError:
        return None
    return {
        "counter": meter.name,
        "idle_w": idle_w,
        "busy_w": joules / took_s,
        "inferences": count,
        "mj_per_inference": 1e3 * joules / count,
    }


def _latencies(model: Model, requests: list[Request], seconds: float) -> Iterator[Latency]:
    """Measure the longest text that each graph takes, or several lengths where one takes any."""
    words = " ".join(request.text for request in requests).split()
    graphs = model.files.artifacts("graph")
    fixed = sorted({fixed_length(graph) for graph in graphs} - {ANY_LENGTH})
    longest = model.bundle.manifest.max_tokens
    for tokens in fixed or (*(n for n in _LENGTHS if n < longest), longest):
        request = _of_length(model, words, tokens)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < _WARM_UP:
            start = time.perf_counter()
            answer = model.answer(request)
            taken.append((time.perf_counter() - start) * 1e3)
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        found: Latency = {
            "tokens": model.tokens(request),
            "bucket": tokens if fixed else None,
            "inferences": len(taken),
            "p50_ms": cuts[49],
            "p95_ms": cuts[94],
            "p99_ms": cuts[98],
        }
        if answer.stage is not None:
            found["stage"] = answer.stage
        yield found


def _of_length(model: Model, words: Sequence[str], tokens: int) -> Request:
    """Return a text of these words that has `tokens` tokens, or as near below as they allow."""
    text = ""
    for word in itertools.islice(itertools.cycle(words), 4 * tokens):
        longer = f"{text} {word}".strip()
        found = model.tokens(Request(longer))
        if found <= tokens or not text:
            text = longer
        if found == tokens:
            break
    return Request(text)


def _per_second(
    model: Model, *, requests: list[Request], callers: int, seconds: float, together: int = 1
) -> float:
    """Return the answers a second of `callers` threads that ask for `together` texts at a time."""
    end = time.perf_counter() + seconds

    def call(caller: int) -> int:
        texts = itertools.cycle(requests[caller % len(requests) :] + requests)
        memory = model.memory()  # a caller's own, since only the agent keeps callers in order
        count = 0
        while not count or time.perf_counter() < end:
            if together == 1:
                model.answer(next(texts), memory)
            else:
                for answer in model.answer_all([*itertools.islice(texts, together)], memory):
                    if isinstance(answer, Exception):
                        raise answer
            count += together
        return count

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        answered = sum(threads.map(call, range(callers)))
    return answered / (time.perf_counter() - start)


def _start(
    bundle: Path, requests: list[Request], options: Sequence[str], *, callers: int
) -> _Start:
    """Start `edgeslm infer`, wait for its first result, then for all, and look at its memory."""
    lines = [json.dumps({"text": r.text, "source": r.source}).encode() + b"\n" for r in requests]
    command = [sys.executable, "-m", "edgeslm", "infer", str(bundle), "--format", "json", *options]
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 -- ourselves
        [*command, "--threads", str(callers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it would say again what `_lines` says
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


def _lines(measured: Measurement) -> Iterator[str]:
    yield f"{measured['model']} {measured['version']} on {measured['machine']}"
    form = f" {measured['variant']}" if measured["variant"] is not None else ""
    on = f"{measured['provider']} {measured['runtime']}"
    yield f"  provider      {on},{form} {measured['node_share']:.1%} of the nodes"
    for one in measured["coverage"]["fallen"]:
        yield f"                {one['count']} {one['operator']}: {one['why']}"
    for reason in measured["passed_over"]:
        yield f"                passed over {reason}"
    yield f"  verified      {proved(measured['verified'])}, by its exporter"
    yield (
        f"  load          {measured['load_ms']:.0f} ms; "
        f"{measured['load_with_golden_ms']:.0f} ms with the golden file"
    )
    yield f"  cold start    {measured['cold_start_ms']:.0f} ms to the first result"
    memory = measured["pss_mb"]
    yield f"  memory        {'not told here' if memory is None else f'{memory:.0f} MB (PSS)'}"
    for row in measured["latency"]:
        at = f"{row['tokens']} tokens"
        yield (
            f"  {at:<12}  p50 {row['p50_ms']:.2f} ms, p95 {row['p95_ms']:.2f} ms, "
            f"p99 {row['p99_ms']:.2f} ms{_by(row)}"
        )
    if (handed := measured.get("handed_over")) is not None:
        yield f"  handed over   {handed:.0%} of its golden file's texts, to the second stage"
    yield f"  1 caller      {measured['one_caller_per_s']:.0f} answers/s"
    callers = f"{measured['callers']} callers"
    yield f"  {callers:<12}  {measured['all_callers_per_s']:.0f} answers/s"
    batched = measured["batched_per_s"]
    if batched is None:
        yield "  in batches    never: an answer would depend on its neighbours"
    else:
        yield f"  in batches    {batched:.0f} answers/s, as many texts at a time as the agent takes"
    yield f"  from cache    {measured['cached_us']:.1f} us"
    spent = measured["energy"]
    if spent is None:
        yield "  energy        no counter that we may read"
    else:
        each = f"{spent['mj_per_inference']:.3g} mJ an inference"
        watts = f"{spent['busy_w']:.3g} W, idle {spent['idle_w']:.3g} W"
        yield f"  energy        {each} ({spent['counter']}: {watts})"
    for when, climate in (("before", measured["before"]), ("after", measured["after"])):
        mhz, heat = climate["cpu_mhz"], climate["temperature_c"]
        clock = "unknown clock" if mhz is None else f"{mhz:.0f} MHz"
        degrees = "unknown temperature" if heat is None else f"{heat:.1f} C"
        yield f"  {when:<12}  {clock}, {degrees}"


def _by(row: Latency) -> str:
    return f", by the {row['stage']} stage" if "stage" in row else ""
