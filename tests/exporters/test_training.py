"""Full fine-tuning: the same weights from the same examples, whatever ends a run in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from edgeslm.contract.manifest import BaseModelInfo
from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from edgeslm.tasks.intent import IntentParameters
from exporters import cli
from exporters.cache import cache_folder
from exporters.data import DataError, Row, read_rows
from exporters.export import Job, export
from exporters.heads.base import Advance
from exporters.sources import open_source
from exporters.sources.base import TooLongError
from exporters.training.batches import SIZE, by_length, deal, most, pad
from exporters.training.checkpoint import CHECKPOINT, Judged, Progress, restore, save
from exporters.training.divide import TooFewError, Way, divide
from exporters.training.few import few
from exporters.training.folder import (
    FACTS,
    HEAD,
    Facts,
    TrainedError,
    fingerprint,
    read_trained,
    write_head,
)
from exporters.training.loop import copy
from exporters.training.network import open_network, optimiser
from exporters.training.plan import TrainingPlan
from exporters.training.train import NoWeightsError, Order, train
from exporters.tune.lock import LOCK, LockError
from exporters.workbench import Stage
from tests.exporters.conftest import DIM, Stages, many_orders, write_lines

_TIMEOUT_S: Final = 300
# Trains what it is told to, and is killed by itself after so many steps.
_PROGRAM: Final = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from exporters.data import read_rows
from exporters.sources import open_source
from exporters.training.train import Order, train

model, data, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

@contextmanager
def stage(name, total):
    done = 0
    def advance(steps):
        nonlocal done
        done += steps
        if name == "fine-tuning" and done == last:
            os.kill(os.getpid(), signal.SIGKILL)
    yield advance

train(Order(open_source(model, tokenizer=None), read_rows(data), 0, None), stage)
"""


# Trains in both ways, each in a process that kills itself after so many steps. They are forked from
# one, before anything has threads: what takes longest is to import all of this.
_BOTH: Final = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from exporters.data import read_rows
from exporters.sources import open_source
from exporters.training.few import few
from exporters.training.plan import TrainingPlan
from exporters.training.train import Order, train

model = open_source(sys.argv[1], tokenizer=None)
for way, data, steps, last in zip((train, few), sys.argv[2:4], sys.argv[4:6], sys.argv[6:8]):

    @contextmanager
    def stage(name, total):
        done = 0
        def advance(steps):
            nonlocal done
            done += steps
            if name in ("fine-tuning", "comparing texts") and done == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

    child = os.fork()
    if not child:
        plan = TrainingPlan(steps=int(steps))
        way(Order(model, read_rows(Path(data)), 0, None, plan=plan), stage)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


@pytest.fixture
def orders_file(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "orders.jsonl", many_orders())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def order(model: Path, data: Path, **more: Any) -> Order:
    source = open_source(str(model), tokenizer=None)
    made = Order(source, read_rows(data), seed=0, max_tokens=None)
    return replace(made, **more)


def killed(model: Path, data: Path, *, after: int) -> None:
    """Train in a process that is killed when so many steps are done."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(model), str(data), str(after)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == -9, done.stderr


@pytest.mark.timeout(900)  # of a machine that others use
def test_killed_by_either_way_training_goes_on_to_the_same_bytes(
    tiny_bert: Path, orders_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is of the end of an epoch: of several steps, or of one where texts are few."""
    texts = [row for row in many_orders() if row["label"] != "oos"][::7]
    given = {"full": orders_file, "few": write_lines(tmp_path / "few.jsonl", texts)}
    steps, last = {"full": 24, "few": 10}, {"full": 15, "few": 4}
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "killed"))
    words = [str(one) for part in (given, steps, last) for one in part.values()]
    done = subprocess.run(
        [sys.executable, "-c", _BOTH, str(tiny_bert), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "killed" / "training").glob("*/checkpoint.safetensors"))) == 2
    assert not list((tmp_path / "killed" / "trained").glob("*/trained.json")), "a whole one"
    for way, doing in (("full", "fine-tuning"), ("few", "comparing texts")):
        made, taken = {"full": train, "few": few}[way], Steps()
        wanted = order(tiny_bert, given[way], plan=TrainingPlan(steps=steps[way]))
        monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "killed"))
        again = made(wanted, taken)
        monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "whole"))
        straight = Stages()
        whole = made(wanted, straight)
        begun = taken.at_once[doing][0]
        told = f"going on from a checkpoint: {begun} of {steps[way]} steps done"
        assert (told in taken.totals, told in straight.totals) == (True, False)
        assert 0 < begun <= last[way] < again.report["ended_after"], "from where the checkpoint was"
        assert bytes_of(again.trained.folder) == bytes_of(whole.trained.folder), way
        assert again.report == whole.report


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(
    tiny_bert: Path, orders_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "killed"))
    killed(tiny_bert, orders_file, after=64)
    (checkpoint,) = (tmp_path / "killed" / "training").glob("*/checkpoint.safetensors")
    assert not (tmp_path / "killed" / "trained").exists()
    taken = Steps()
    again = train(order(tiny_bert, orders_file), taken)
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "whole"))
    whole = train(order(tiny_bert, orders_file), Stages())
    assert taken.at_once["fine-tuning"][0] in range(50, 65)  # where the checkpoint was
    assert bytes_of(again.trained.folder) == bytes_of(whole.trained.folder)
    assert again.report == whole.report
    assert not checkpoint.exists()


class Steps(Stages):
    """Records by how much each stage advances, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: dict[str, list[int]] = {}

    @contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
        self.at_once[name] = []
        with super().__call__(name, total) as advance:

            def noted(steps: int) -> None:
                self.at_once[name].append(steps)
                advance(steps)

            yield noted


@pytest.mark.usefixtures("own_cache")
class TestTrain:
    def test_what_was_learnt_holds_for_what_was_held_out(
        self, tiny_bert: Path, orders_file: Path
    ) -> None:
        outcome = train(order(tiny_bert, orders_file), Stages())
        first, *_, last = outcome.report["judged"]
        assert outcome.report["best_after"] > 0
        assert last["surprise"] < first["surprise"]
        facts = outcome.trained.facts
        assert facts.labels == ("fault", "start", "stop")
        assert facts.base.source == "tiny-bert"
        learn, held_out = outcome.division.learn, outcome.division.held_out
        assert not any(outcome.trained.unseen(row.text for row in learn))
        assert all(outcome.trained.unseen(row.text for row in held_out))
        assert {row.label for row in outcome.division.outside} == {"oos"}

    def test_head_and_folder_say_what_the_network_said(
        self, tiny_bert: Path, orders_file: Path
    ) -> None:
        """Read again by other code, the held-out texts are judged as training judged them."""
        outcome = train(order(tiny_bert, orders_file), Stages())
        trained = read_trained(outcome.trained.folder)
        model = AutoModel.from_pretrained(trained.folder).eval()
        native = tokenizers.Tokenizer.from_file(str(trained.folder / "tokenizer.json"))
        right = 0
        for row in outcome.division.held_out:
            ids = torch.tensor([native.encode(row.text).ids])
            with torch.no_grad():
                mean = model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
            logits = mean / np.linalg.norm(mean) @ trained.weight + trained.bias
            right += trained.facts.labels[int(logits.argmax())] == row.label
        best = max(one["accuracy"] for one in outcome.report["judged"])
        assert 100 * right / len(outcome.division.held_out) == pytest.approx(best)

    def test_a_second_call_trains_nothing(self, tiny_bert: Path, orders_file: Path) -> None:
        one = train(order(tiny_bert, orders_file), Stages())
        stages = Stages()
        other = train(order(tiny_bert, orders_file, plan=one.plan), stages)
        assert "fine-tuning" not in stages.totals
        assert other.trained.folder == one.trained.folder

    def test_minutes_end_it_and_a_plan_repeats_it_without_a_clock(
        self,
        tiny_bert: Path,
        orders_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        hasty = train(order(tiny_bert, orders_file, minutes=0.002), Stages())
        whole = train(order(tiny_bert, orders_file), Stages())
        assert 0 < hasty.report["ended_after"] < whole.report["ended_after"]
        monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "elsewhere"))
        again = train(order(tiny_bert, orders_file, plan=hasty.plan), Stages())
        assert bytes_of(again.trained.folder) == bytes_of(hasty.trained.folder)

    def test_an_interrupted_run_leaves_a_checkpoint_and_no_model(
        self, tiny_bert: Path, orders_file: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(order(tiny_bert, orders_file), interrupting_stage(after=40))
        assert list((cache_folder() / "training").glob("*/checkpoint.safetensors"))
        assert not (cache_folder() / "trained").exists()

    def test_a_checkpoint_that_lacks_something_is_none(
        self, tiny_bert: Path, tmp_path: Path
    ) -> None:
        network = open_network(tiny_bert, 3)
        moved = optimiser(network, 0.001)
        network.head(torch.ones(1, DIM)).sum().backward()
        moved.step()
        progress = Progress(steps=2, step=1, judged=(Judged(step=0, accuracy=1, surprise=1),))
        save(tmp_path, progress, network, moved, copy(network))
        file = tmp_path / CHECKPOINT
        tensors, state = load_file(file), {"state": progress.model_dump_json()}

        def restored(changed: dict[str, torch.Tensor]) -> object:
            save_file(changed, file, metadata=state)
            return restore(tmp_path, network, optimiser(network, 0.001))

        for name in ("best/head.weight", "now/head.bias", "exp_avg_sq/head.weight"):
            assert restored({k: v for k, v in tensors.items() if k != name}) is None, name
        assert restored({**tensors, "now/head.bias": torch.zeros(4)}) is None, "of four labels"
        assert restored(tensors) is not None

    def test_a_damaged_checkpoint_is_none(self, tiny_bert: Path, orders_file: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(order(tiny_bert, orders_file), interrupting_stage(after=40))
        (checkpoint,) = (cache_folder() / "training").glob("*/checkpoint.safetensors")
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
        stages = Stages()
        train(order(tiny_bert, orders_file), stages)
        assert stages.steps["fine-tuning"] == stages.totals["fine-tuning"]

    def test_texts_of_any_length_are_cut_and_trained_on(
        self, tiny_bert: Path, tmp_path: Path
    ) -> None:
        long = "pump " * 13_000  # 65,000 characters
        rows = [{**row, "text": f"{row['text']} {long}"} for row in many_orders()[:8]]
        rows += many_orders()[8:]
        outcome = train(order(tiny_bert, write_lines(tmp_path / "long.jsonl", rows)), Stages())
        assert outcome.trained.facts.max_tokens == 64  # the model's own end

    def test_texts_beyond_what_a_device_reads_are_refused(
        self, tiny_bert: Path, tmp_path: Path
    ) -> None:
        del tiny_bert
        rows = many_orders()
        rows.append({"text": "pump " * 20_000, "label": "stop"})
        with pytest.raises(DataError, match="text: 100000 characters, more than the 65536"):
            read_rows(write_lines(tmp_path / "huge.jsonl", rows))

    def test_more_tokens_than_the_model_takes_are_refused_first(
        self, tiny_bert: Path, orders_file: Path
    ) -> None:
        stages = Stages()
        with pytest.raises(TooLongError, match="--max-tokens 65: this model takes up to 64"):
            train(order(tiny_bert, orders_file, max_tokens=65), stages)
        assert stages.totals == {}

    def test_a_graph_cannot_be_trained(self, toy_model: Path, orders_file: Path) -> None:
        with pytest.raises(NoWeightsError, match=r"toy\.onnx is a graph.*Hugging Face folder"):
            train(order(toy_model, orders_file), Stages())


def interrupting_stage(*, after: int) -> Stage:
    @contextmanager
    def stage(name: str, total: int | None) -> Iterator[Advance]:
        del total
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if name == "fine-tuning" and done >= after:
                raise KeyboardInterrupt

        yield advance

    return stage


@pytest.mark.usefixtures("own_cache")
@pytest.mark.filterwarnings("ignore")  # of the libraries that export, about each other
def test_a_trained_export_is_a_bundle_that_answers(
    tiny_bert: Path, orders_file: Path, tmp_path: Path
) -> None:
    job = Job(
        task="intent",
        model=str(tiny_bert),
        data=orders_file,
        profile=detect_profile().name,
        name="toy",
        version=1,
        out=tmp_path / "out",
        share=0.05,
        allow_drop=True,
        train="full",
    )
    report = export(job, Stages())
    bundle = open_bundle(job.out / "bundle")
    manifest = bundle.manifest
    assert manifest.base_model.source == "tiny-bert"
    trained = read_trained(job.out)
    assert manifest.base_model == trained.facts.base
    files = bundle.of(manifest.variants()[0])
    parameters = IntentParameters.model_validate_json(files.read("parameters"))
    assert parameters.labels == trained.facts.labels
    outputs = [spec.name for spec in files.artifacts("graph")[0].outputs]
    assert outputs == (["logits", "distance"] if parameters.needs_distance else ["logits"])
    assert manifest.requires == (() if parameters.scorer == "energy" else ("intent-scorer",))
    model = load_model(job.out / "bundle")
    assert model.answer(Request("please stop the pump")).label == "stop"
    assert report["training"]["held_out"] == len(trained.facts.held_out)
    assert json.loads((job.out / "measurements.json").read_bytes())["training"]["cpu_s"] > 0
    lock = json.loads((job.out / LOCK).read_bytes())
    plan = TrainingPlan.model_validate(lock["training"])
    assert plan.steps == report["training"]["steps"]
    (job.out / LOCK).rename(tmp_path / "lock.json")
    wrong = replace(job, lock=tmp_path / "lock.json", seed=1)
    with pytest.raises(LockError, match="seed was 0, and is 1"):
        export(wrong, Stages())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "3"], "--minutes goes with --tune, or with --train full"),
        (["--train", "half"], "invalid choice: 'half'"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--model", "x", "--data", "y", "--profile", "z", "--name", "n", "--version", "1"]
    with pytest.raises(SystemExit):
        cli.main(["intent", *needed, "--out", "o", *arguments])
    assert said in capsys.readouterr().err


def rows_of(**labels: int) -> list[Row]:
    return [Row(f"{label} {i}", label) for label, n in labels.items() for i in range(n)]


def test_examples_are_dealt_by_label_and_text() -> None:
    rows = [*rows_of(start=200, stop=100, oos=30), Row("start 3", "start")]
    division = divide(rows, seed=0)
    assert len(division.held_out) in {30, 31}
    assert {row.label for row in division.held_out} == {"start", "stop"}
    assert not {row.text for row in division.learn} & {row.text for row in division.held_out}
    assert len(division.outside) == 30
    assert division.cautions == []


def test_a_label_of_three_examples_is_learnt_and_told_of() -> None:
    division = divide(rows_of(start=150, stop=100, rare=3), seed=0)
    assert division.labels == ("rare", "start", "stop")
    assert sum(row.label == "rare" for row in division.learn) == 3
    [caution] = division.cautions
    assert "labels with fewer than 10 different texts: 1 ('rare')" in caution


def test_few_examples_of_each_give_a_larger_share() -> None:
    division = divide(rows_of(**{f"label{i}": 8 for i in range(20)}), seed=0)
    assert len(division.held_out) == 20
    assert division.cautions == []


@pytest.mark.parametrize(
    ("way", "instead"), [("full", "few or head"), ("few", "head"), ("static", "head")]
)
def test_too_few_to_judge_by_are_refused_in_the_words_of_what_was_asked_for(
    way: Way, instead: str
) -> None:
    rows = rows_of(**{f"label{i}": 2 for i in range(120)})
    said = rf"^--train {way}: 240 different texts .* leave 0 .*or take --train {instead}\.$"
    with pytest.raises(TooFewError, match=said):
        divide(rows, seed=0, way=way)


@pytest.mark.parametrize(("way", "stops"), [("full", True), ("few", False), ("static", False)])
def test_a_caution_says_of_stopping_only_where_held_out_texts_tell_when(
    way: Way, *, stops: bool
) -> None:
    [caution] = divide(rows_of(start=150, stop=100, rare=3), seed=0, way=way).cautions
    assert ("when it stops" in caution) == stops
    assert "calibrated" in caution


lengths = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(lengths, st.integers(0, 5))
def test_a_batch_has_texts_of_one_length_and_each_text_one_batch(
    lengths: list[int], seed: int
) -> None:
    batches = deal(lengths, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= most(longest) <= SIZE
    mixed = [batch for batch in batches if len({lengths[i] for i in batch}) > 1]
    alone = len(lengths) - sum(len(batch) for batch in mixed)
    whole = sum(n // most(length) * most(length) for length, n in counted(lengths))
    assert alone >= whole
    assert len(batches) == len(deal(lengths, np.random.default_rng(seed + 1)))


def counted(lengths: list[int]) -> list[tuple[int, int]]:
    return [(length, lengths.count(length)) for length in sorted(set(lengths))]


def test_what_is_left_over_is_padded_by_little() -> None:
    batches = by_length(range(6), [9, 2, 9, 3, 2, 10])
    assert [sorted(batch.tolist()) for batch in batches] == [[0, 1, 2, 3, 4, 5]]
    ids, mask = pad([np.array([4, 5]), np.array([6])])
    assert ids.tolist() == [[4, 5], [6, 0]]
    assert mask.tolist() == [[1, 1], [1, 0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    facts = Facts(
        labels=("a", "b"),
        max_tokens=64,
        seed=0,
        base=BaseModelInfo(source="x", sha256="0" * 64),
        held_out=(fingerprint("one"),),
    )
    write_head(tmp_path, facts, np.ones((4, 2), np.float32), np.zeros(2, np.float32))
    return tmp_path


def test_a_folder_is_read_as_it_was_written(folder: Path) -> None:
    trained = read_trained(folder)
    assert trained.weight.tolist() == [[1.0, 1.0]] * 4
    assert trained.unseen(["one", "two"]) == [True, False]
    first = (folder / HEAD).read_bytes()
    write_head(folder, trained.facts, trained.weight, trained.bias)
    assert (folder / HEAD).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (FACTS, None, "No such file.*folder of a trained export"),
        (FACTS, b"[]", "trained.json"),
        (FACTS, b'{"labels": ["a"]}', "labels"),
        (HEAD, None, "No such file"),
        (HEAD, b"PK\x03\x04", "not a head"),
        (HEAD, b"", "not a head"),
    ],
)
def test_a_folder_that_is_none_is_named(
    folder: Path, name: str, value: bytes | None, said: str
) -> None:
    (folder / name).unlink()
    if value is not None:
        (folder / name).write_bytes(value)
    with pytest.raises(TrainedError, match=said):
        read_trained(folder)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (np.ones((4, 3), np.float32), np.zeros(3, np.float32)),
        (np.ones((4, 2), np.float64), np.zeros(2, np.float32)),
        (np.full((4, 2), np.nan, np.float32), np.zeros(2, np.float32)),
        (np.ones(2, np.float32), np.zeros(2, np.float32)),
    ],
)
def test_a_head_that_does_not_go_with_its_facts_is_refused(
    folder: Path, weight: np.ndarray, bias: np.ndarray
) -> None:
    write_head(folder, read_trained(folder).facts, weight, bias)
    with pytest.raises(TrainedError, match=r"head.npz: weight, bias"):
        read_trained(folder)


@settings(deadline=None)  # each writes a file
@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_any_bytes_are_a_head_or_an_error_of_ours(junk: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / HEAD
        facts = Facts(
            labels=("a", "b"), max_tokens=64, seed=0,
            base=BaseModelInfo(source="x", sha256="0" * 64), held_out=(),
        )  # fmt: skip
        write_head(Path(name), facts, np.ones((4, 2), np.float32), np.zeros(2, np.float32))
        raw = file.read_bytes()
        file.write_bytes(raw[: at % len(raw)] + junk)
        with suppress(TrainedError):
            read_trained(file.parent)
