"""Qualcomm's NPU, emulated: what it takes of a bundle, and what the answers lose."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

from benchmarks import bundles, cases
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import above
from edgeslm.contract.manifest import Artifact
from edgeslm.demo.bundles import WEIGHTS_PACKAGE, Wanted, find, make
from edgeslm.runtime.bundle import MANIFEST, Bundle, open_bundle
from edgeslm.runtime.coverage import share
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.variants import fixed_length
from exporters import recipes
from exporters.data import Row, sample
from exporters.export import ALGEBRA_THREADS, Common, Job
from exporters.heads.base import Advance
from exporters.quality import request_of
from exporters.targets.qnn import QDQ

PROFILE: Final = "rb3-gen2"
_METRICS: Final = {"intent": "accuracy", "anomaly": "auroc"}  # in points
_BUCKET_TEXTS: Final = 25
_QUICK_BUCKET_TEXTS: Final = 3


def npu_intent(setup: Setup) -> dict[str, Measured]:
    """BANKING77, 77 intents: the exporter's own gate, on its stratified sample of 200."""
    train, unseen = (cases.rows(setup, "banking77", part) for part in ("train", "eval"))
    if setup.quick:
        train, unseen = train[::10], unseen[::60]
    return _measured(setup, "intent", "npu-banking77", train, unseen)


def npu_anomaly(setup: Setup) -> dict[str, Measured]:
    """Log lines of a supercomputer, the same way."""
    train, unseen = (cases.rows(setup, "bgl-random-seed0", part) for part in ("train", "eval"))
    if setup.quick:
        unseen = unseen[::15]
    return _measured(setup, "anomaly", "npu-bgl", train, unseen)


def _measured(
    setup: Setup, task: str, name: str, train: list[Row], unseen: list[Row]
) -> dict[str, Measured]:
    """Return the share of nodes on the NPU, of its least graph, and the points lost.

    Loading fails where a node is left to the CPU, so a bundle that was exported is whole there.
    Accuracy is that of the worse variant: the graphs that a device compiles, and the contexts.
    """
    setup.tell(f"exporting {name} for {PROFILE}, whose emulator takes a second for a text")
    wanted = Wanted(task, name, cases.to_jsonl(train), evaluation=cases.to_jsonl(unseen))
    profile = load_profile(PROFILE)
    bundle = find(wanted, setup.cache, profile) or make(wanted, setup.cache, profile, quiet=True)
    variants: dict[str, dict[str, Any]] = bundles.quality(bundle)["variants"]
    opened = open_bundle(bundle)
    graphs = [a for a in opened.manifest.artifacts if a.role == "graph" and a.provider == "qnn"]
    shares = [100 * share(graph.coverage) for graph in graphs if graph.coverage is not None]
    metric = _METRICS[task]
    worst = min(variants.values(), key=lambda v: v["artifact"][metric] - v["fp32"][metric])
    found = {
        f"npu-{task}-nodes": Measured(min(shares), 100.0, (min(shares), max(shares))),
        f"npu-{task}": above([worst["artifact"][metric]], [worst["fp32"][metric]]),
    }
    if (figure := f"npu-{task}-buckets") in setup.wanted:
        alike = _agreement(setup, opened, wanted, unseen)
        found[figure] = Measured(min(alike), 100.0, (min(alike), max(alike)))
    return found


def _agreement(setup: Setup, bundle: Bundle, wanted: Wanted, unseen: list[Row]) -> list[float]:
    """Return, bucket by bucket, how many answers are float32's, in per cent."""
    reference = _reference(setup, wanted)
    tokens = {row.text: reference.tokens(request_of(row)) for row in unseen}
    found = []
    shorter = 0
    for graph in sorted(bundle.of(QDQ).artifacts("graph"), key=fixed_length):
        length = fixed_length(graph)
        rows = _rows(unseen, tokens, shorter, length, setup)
        setup.tell(f"{len(rows)} texts in the bucket of {length} tokens, emulated")
        model = _alone(bundle, graph, setup.work / f"{wanted.name}-{length}")
        pairs = [(one.answer(request_of(r)).label for one in (model, reference)) for r in rows]
        found.append(100 * sum(ours == theirs for ours, theirs in pairs) / len(rows))
        shorter = length
    return found


def _rows(
    unseen: Sequence[Row], tokens: dict[str, int], shorter: int, length: int, setup: Setup
) -> list[Row]:
    """Return those that a device runs in a bucket, or where they are few the longest that fit."""
    count = _QUICK_BUCKET_TEXTS if setup.quick else _BUCKET_TEXTS
    fit = [row for row in unseen if 0 < tokens[row.text] <= length]
    own = [row for row in fit if tokens[row.text] > shorter]
    if len(own) < count:
        own = sorted(fit, key=lambda row: -tokens[row.text])[:count]
    return sample(own, count)


def _alone(bundle: Bundle, graph: Artifact, folder: Path) -> Model:
    """Load the variant with one of its graphs alone: every text is padded to its length."""
    kept = [a for a in bundle.of(QDQ).files if a.role != "graph" or a == graph]
    for file in kept:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle.path / file.path, folder / file.path)
    manifest = bundle.manifest.model_copy(update={"artifacts": tuple(kept)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return load_model(folder, golden=False)


def _reference(setup: Setup, wanted: Wanted) -> Model:
    """Return the float32 original that the exporter judged the bundle against, made again."""
    files = [setup.work / f"{part}.jsonl" for part in ("train", "eval")]
    for file, data in zip(files, (wanted.data, wanted.evaluation), strict=True):
        file.write_bytes(data)
    job = Job(
        task=wanted.task,
        model=f"package:{WEIGHTS_PACKAGE}",
        data=files[0],
        profile=PROFILE,
        name=wanted.name,
        version=1,
        out=setup.work / "never",
        share=recipes.load(wanted.task).DEFAULT_SHARE,
        evaluation=files[1],
    )

    @contextlib.contextmanager
    def stage(name: str, total: int | None) -> Iterator[Advance]:
        del total
        setup.tell(name)
        yield lambda _: None

    scratch = setup.work / "reference"
    scratch.mkdir()
    with threadpool_limits(limits=ALGEBRA_THREADS):  # as the exporter: the same sums
        return Common(job, scratch, stage).workbench(load_profile(PROFILE)).reference()
