"""Intel's OpenVINO, run here; Apple's Core ML, by what it documents."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks import bundles, cases
from benchmarks.errors import MissingToolError, RunFailedError
from benchmarks.figures import Measured
from benchmarks.machine import ROOT
from benchmarks.rivals.environments import openvino_environment
from benchmarks.setup import Setup
from benchmarks.stats import once, paired
from edgeslm.adapters.ort import hardware_problem, make_session
from edgeslm.contract.manifest import Artifact, Manifest
from edgeslm.demo.processes import clean_environment
from edgeslm.ports import Request
from edgeslm.providers import cpu
from edgeslm.providers import openvino as provider
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.coverage import share
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.data import sample
from exporters.documented import CORE_ML
from exporters.static_check import static_coverage

_CASE: Final = "banking77"
_PROFILE: Final = "generic-openvino"
_SMALL_CASE: Final = "snips"
_TEXTS: Final = 300
_QUICK_TEXTS: Final = 40
_TURN: Final = 20  # texts before the other's turn, as benchmarks/groups/int8.py says
_EMULATED_TEXTS: Final = 200
_QEMU: Final = "qemu-x86_64-static"
_INTEL: Final = "Skylake-Client"  # of 2015: without AVX-512, which qemu 7.2 does not know
_TIMEOUT_S: Final = 1200.0
_CPU_TIME: Final = "openvino-cpu"


def openvino(setup: Setup) -> dict[str, Measured]:
    """The bundle's static int8 on OpenVINO's processor device, beside its int8 on ours.

    Its plug-in takes Intel's processors alone. Where this is another's, qemu shows it one: what it
    takes and answers is then measured on a sample. No time, which would be qemu's: processor time
    is then that of the same OpenVINO by its own interface, which takes any.

    Raises:
        RunFailedError: it failed, or did not run what it should.
        MissingToolError: this is another's, and qemu is not installed.
    """
    if why := provider.problem():
        raise MissingToolError(why)
    if hardware_problem(provider.on("CPU")):
        found = _emulated(setup) if setup.wanted - {_CPU_TIME} else {}
        return found | (_native(setup) if _CPU_TIME in setup.wanted else {})
    bundle = bundles.intent(setup, _CASE, profile=_PROFILE)
    theirs, ours = _variants(bundle)
    report = bundles.quality(bundle)["variants"][theirs]
    small, large = (report[which]["accuracy"] for which in ("artifact", "fp32"))
    models = [load_model(bundle, variant=name, golden=False) for name in (theirs, ours)]
    texts = [row.text for row in cases.rows(setup, _CASE, "eval")]
    texts = texts[: _QUICK_TEXTS if setup.quick else _TEXTS]
    spent: list[list[float]] = [[], []]
    for number in range(setup.rounds):
        setup.tell(f"round {number + 1} of {setup.rounds}")
        totals = [0.0, 0.0]
        for start in range(0, len(texts), _TURN):
            for which, model in enumerate(models):
                totals[which] += _cpu_seconds(model, texts[start : start + _TURN])
        for took, total in zip(spent, totals, strict=True):
            took.append(1e3 * total / len(texts))
    return {
        "openvino-nodes": once(100 * models[0].node_share, 100.0),
        "openvino-accuracy": once(small, large),
        _CPU_TIME: paired(*spent),
    }


def _native(setup: Setup) -> dict[str, Measured]:
    """Processor time of the graphs alone, one thread each, on the same tokens in turns.

    It does not depend on what they were fitted on: a few texts of another case.

    Raises:
        MissingToolError: OpenVINO cannot be installed.
        RunFailedError: it ended early.
    """
    setup.tell("installing OpenVINO")
    python = openvino_environment(setup.cache.parent)
    bundle = bundles.small(setup, _SMALL_CASE, profile=_PROFILE)
    opened = open_bundle(bundle)
    theirs, ours = map(opened.of, _variants(bundle))
    [graph], [own] = theirs.artifacts("graph"), ours.artifacts("graph")
    session = make_session(bundle / own.path, options=cpu.options(own))
    tokenizer = Tokenizer(theirs.read("tokenizer"), max_tokens=opened.manifest.max_tokens)
    rows = cases.rows(setup, _CASE, "eval")[: _QUICK_TEXTS if setup.quick else _TEXTS]
    feeds = [tokenizer.encode(row.text)[0] for row in rows]
    command = [str(python), "-m", "benchmarks.rivals.openvino_native", str(bundle / graph.path)]
    spent: list[list[float]] = [[], []]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None  # noqa: S101 -- a pipe was asked for
        assert other.stdout is not None  # noqa: S101
        for number in range(-1, setup.rounds):  # the first warms both up
            setup.tell(f"round {max(number, 0) + 1} of {setup.rounds}")
            totals = [0.0, 0.0]
            for start in range(0, len(feeds), _TURN):
                turn = feeds[start : start + _TURN]
                other.stdin.write(json.dumps([f["input_ids"][0].tolist() for f in turn]) + "\n")
                other.stdin.flush()
                if not (said := other.stdout.readline()):
                    msg = f"OpenVINO ended with status {other.wait()}"
                    raise RunFailedError(msg)
                totals[0] += float(said)
                begun = time.process_time()
                for feed in turn:
                    session.run({name: feed[name] for name in session.inputs})
                totals[1] += time.process_time() - begun
            if number >= 0:
                for took, total in zip(spent, totals, strict=True):
                    took.append(1e3 * total / len(feeds))
        other.stdin.close()
    note = "by OpenVINO's own interface: its plug-in offers no device on this processor"
    return {_CPU_TIME: replace(paired(*spent), note=note)}


def _emulated(setup: Setup) -> dict[str, Measured]:
    """Nodes and accuracy by the device's own commands, on an Intel processor as qemu shows it."""
    qemu = shutil.which(_QEMU)
    if qemu is None or platform.machine() != "x86_64":
        msg = f"no Intel processor here, and no {_QEMU} (Debian's qemu-user-static) on x86-64"
        raise MissingToolError(msg)
    count = _QUICK_TEXTS if setup.quick else _EMULATED_TEXTS
    bundle = bundles.sampled(setup, _CASE, texts=count, profile=_PROFILE)
    rows = sample(cases.rows(setup, _CASE, "eval"), count)
    setup.tell("loading it on an emulated processor")
    found = json.loads(_as_intel(qemu, "bundle", "verify", str(bundle), "--json"))
    if found["provider"] != "openvino":
        msg = f"OpenVINO did not run: passed over {'; '.join(found['passed_over'])}"
        raise RunFailedError(msg)
    setup.tell(f"{len(rows)} texts on an emulated processor")
    asked = "".join(json.dumps({"text": row.text}) + "\n" for row in rows)
    said = _as_intel(qemu, "infer", str(bundle), stdin=asked).splitlines()
    labels = [json.loads(line)["label"] for line in said]
    right = [label == row.label for label, row in zip(labels, rows, strict=True)]
    large = bundles.quality(bundle)["fp32"]["accuracy"]
    note = f"emulated: {_INTEL}"
    accuracy = once(100 * sum(right) / len(right), large)
    return {
        "openvino-nodes": replace(once(100 * found["node_share"], 100.0), note=note),
        "openvino-accuracy": replace(accuracy, note=f"{note}, {len(rows)} texts"),
    }


def _as_intel(qemu: str, *arguments: str, stdin: str = "") -> str:
    """Return what an `edgeslm` command prints there.

    Raises:
        RunFailedError: it failed; says what it printed last.
    """
    done = subprocess.run(
        [qemu, "-cpu", _INTEL, sys.executable, "-m", "edgeslm", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        msg = f"{arguments[0]}, emulated: status {done.returncode}: {done.stderr.strip()[-500:]}"
        raise RunFailedError(msg)
    return done.stdout


def coreml(setup: Setup) -> dict[str, Measured]:
    """Share of the nodes that Core ML takes as ML Program, of the variant that comes first.

    Beside it the other variant as it lies in its file: on a device it is unpacked first.
    """
    bundle = bundles.small(setup, _SMALL_CASE, profile="apple-silicon")
    shares = [
        min(share(static_coverage(bundle / graph.path, CORE_ML)) for graph in _graphs(bundle, name))
        for name in _variants(bundle)[:2]
    ]
    first, other = (100 * least for least in shares)
    return {"coreml-nodes": once(first, other)}


def _variants(bundle: Path) -> list[str]:
    return [name for name in _manifest(bundle).variants() if name is not None]


def _graphs(bundle: Path, variant: str) -> list[Artifact]:
    return [a for a in _manifest(bundle).artifacts if a.role == "graph" and a.variant == variant]


def _manifest(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / "manifest.json").read_bytes())


def _cpu_seconds(model: Model, texts: Sequence[str]) -> float:
    """Processor time of all threads, for texts answered one after another."""
    model.forget()
    begun = time.process_time()
    for text in texts:
        model.answer(Request(text))
    return time.process_time() - begun
