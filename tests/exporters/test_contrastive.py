"""Few examples: texts are held against each other, and each of them counts in the head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeslm.ports import Request
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from exporters.data import Row, read_rows
from exporters.export import Job, export
from exporters.heads.linear import Layer
from exporters.heads.names import named
from exporters.heads.trained import TrainedFitter
from exporters.sources import open_source
from exporters.training import contrastive
from exporters.training.checkpoint import Judged
from exporters.training.contrastive import Comparison, Pairs, contrast, share_taken
from exporters.training.divide import TooFewError, divide
from exporters.training.few import MOST, NotFewError, few
from exporters.training.folder import read_trained
from exporters.training.loop import Bounds
from exporters.training.network import open_network
from exporters.training.train import NoWeightsError, Order
from exporters.tune.lock import LOCK
from tests.exporters.conftest import Stages, many_orders, write_lines
from tests.exporters.test_intent_head import LABELS, Clusters

pytestmark = pytest.mark.usefixtures("own_cache")


def few_orders(each: int = 10) -> list[dict[str, object]]:
    """So many texts of each of three labels, spread over all that there are."""
    rows = [row for row in many_orders() if row["label"] != "oos"]
    return [
        row
        for label in ("start", "stop", "fault")
        for row in [row for row in rows if row["label"] == label][:: 72 // each][:each]
    ]


def order(model: Path, data: Path, **more: Any) -> Order:
    source = open_source(str(model), tokenizer=None)
    return replace(Order(source, read_rows(data), seed=0, max_tokens=None), **more)


def test_texts_are_drawn_to_those_of_their_label_and_away_from_all_others() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    crossed = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    assert float(contrast(apart, labels)) < 0.001
    assert float(contrast(crossed, labels)) == pytest.approx(10, abs=0.001)
    same = torch.nn.functional.normalize(torch.ones(4, 2))
    assert float(contrast(same, labels)) == pytest.approx(np.log(3)), "three neighbours, alike"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), min_size=1, max_size=120))
def test_each_text_is_dealt_with_another_of_its_label(texts: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in texts])
    totals = Counter(labels.tolist())
    if max(totals.values()) < 2:
        return
    every = np.arange(len(texts))
    examples = Pairs([np.ones(n, np.int64) for _, n in texts], labels, every, every[:0])
    batches = examples.epoch(1, seed=0)
    dealt = np.concatenate(batches)
    assert set(dealt.tolist()) == {i for i in every.tolist() if totals[labels[i]] > 1}
    assert len(dealt) == sum(n + n % 2 for n in totals.values() if n > 1)
    for batch in batches:
        assert 2 <= len(batch) < 64
        assert len(batch) >= 32 or len(batches) == 1
        assert min(Counter(labels[batch].tolist()).values()) >= 2


def test_few_examples_train_an_encoder_and_a_head(tiny_bert: Path, tmp_path: Path) -> None:
    """The same each time, and kept; better on texts that it has not seen than the head alone."""
    data = write_lines(tmp_path / "few.jsonl", few_orders())
    stages = Stages()
    outcome = few(order(tiny_bert, data), stages)
    assert stages.steps["comparing texts"] == stages.totals["comparing texts"]
    assert outcome.plan.steps == stages.totals["comparing texts"]
    assert outcome.plan.stop is None
    assert (outcome.report["texts"], outcome.report["held_out"]) == (24, 6)
    assert len(outcome.report["judged"]) == 3, "at the start, half of the way and all of it"
    assert outcome.report["share_taken"] in {0.5, 1.0}
    again = Stages()
    assert few(order(tiny_bert, data), again).trained.folder == outcome.trained.folder
    assert again.totals == {}, "it was kept"
    assert few(order(tiny_bert, data, seed=1), again).trained.folder != outcome.trained.folder
    found = read_trained(outcome.trained.folder)
    assert found.facts.labels == ("fault", "start", "stop")
    assert len(found.facts.held_out) == 6


@pytest.mark.filterwarnings("ignore")  # of the libraries that export, about each other
def test_an_export_from_few_examples_answers(tiny_bert: Path, tmp_path: Path) -> None:
    rows = few_orders()
    data = write_lines(tmp_path / "few.jsonl", rows)
    job = Job(
        task="intent",
        model=str(tiny_bert),
        data=data,
        evaluation=data,
        profile=detect_profile().name,
        name="toy",
        version=1,
        out=tmp_path / "out",
        share=0.05,
        allow_drop=True,
        train="few",
    )
    told: list[str] = []
    stages = Stages()
    report = export(job, stages, told.append)
    assert list(stages.totals).index("judging fp32") < list(stages.totals).index("comparing texts")
    assert any("those that are learnt from too: 30" in note for note in told)
    assert report["fp32"]["accuracy"] > 90
    model = load_model(job.out / "bundle", golden=False)
    assert model.answer(Request("please stop oven now")).label == "stop"
    assert read_trained(job.out).facts.labels == ("fault", "start", "stop")
    lock = (job.out / LOCK).read_text()
    assert '"few"' in lock


def rows_of(**labels: int) -> list[Row]:
    return [Row(f"{label} {n}", label) for label, count in labels.items() for n in range(count)]


def test_what_is_held_out_of_few_is_a_fifth_and_no_fewer_than_five() -> None:
    division = divide(rows_of(a=8, b=8, c=8, d=8, e=8), seed=0, way="few")
    assert (len(division.learn), len(division.held_out)) == (35, 5)
    with pytest.raises(TooFewError, match=r"--train full: .* take --train few or head"):
        divide(rows_of(a=8, b=8, c=8, d=8, e=8), seed=0)


def test_what_cannot_be_trained_so_is_refused(
    tiny_bert: Path, toy_model: Path, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "few.jsonl", few_orders())
    with pytest.raises(NoWeightsError, match=r"toy\.onnx is a graph"):
        few(order(toy_model, data), Stages())
    many = write_lines(
        tmp_path / "many.jsonl",
        [{"text": f"start {n}", "label": "ab"[n % 2]} for n in range(MOST * 10 // 8)],
    )
    with pytest.raises(NotFewError, match=r"texts are not few\. Take --train full"):
        few(order(tiny_bert, many), Stages())


class Called(Clusters):
    """Names of labels are texts without a number: in the midst of what they mean."""

    def __init__(self, meant: dict[str, str]) -> None:
        super().__init__(noise=1.0)
        self._meant = meant

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        points = [
            super(Called, self).embed([text])[0] if "/" in text else self._unit(self._meant[text])
            for text in texts
        ]
        return np.array(points, np.float32)

    def _unit(self, label: str) -> NDArray[np.float64]:
        point = 1 + self._centres[label]
        return np.asarray(point / np.linalg.norm(point), np.float64)


@pytest.mark.parametrize("true", [True, False], ids=["names", "names of others"])
def test_in_the_end_each_text_counts_and_calibration_stays(*, true: bool) -> None:
    """Temperature and threshold are of texts that the layer had not seen; the layer is of all.

    So it is of the names of the labels, but not where they mislead.
    """
    labels = sorted(LABELS)
    clusters = Called(dict(zip(labels, labels if true else labels[1:] + labels[:1], strict=True)))
    learn, held_out = clusters.rows(8), clusters.rows(5)
    number = {label: i for i, label in enumerate(labels)}
    zero = np.zeros((24, 4), np.float32)

    def fitted(*, whole: bool) -> Any:
        fitter = TrainedFitter(learn, held_out, [], labels, zero, zero[0], whole=whole)
        done: list[int] = []
        head = fitter.fit([], clusters.embed, share=0.1, seed=0, advance=done.append)
        assert sum(done) == fitter.steps([])
        return head

    part, whole = fitted(whole=False), fitted(whole=True)
    assert (part.settings == whole.settings) is not true
    every = [*learn, *([Row(label, label) for label in labels] if true else []), *held_out]
    x = clusters.embed([row.text for row in every])
    y = np.array([number[str(row.label)] for row in every])
    fits = [Layer(4).fit(x, y, strength).weight for strength in (0.03, 0.3)]
    ours = whole.weight * whole.settings.temperature
    assert min(np.abs(ours - fit).max() for fit in fits) < 1e-4
    assert np.abs(ours - part.weight * part.settings.temperature).max() > 1e-3


def test_a_name_is_read_as_words() -> None:
    labels = ["card_arrival", "PlayMusic", "pump.stop", "E17", "__", "Start"]
    names = named(labels, [Row("start", "Start"), Row("no name", "E17")])
    assert [(row.text, row.label) for row in names] == [
        ("card arrival", "card_arrival"),
        ("play music", "PlayMusic"),
        ("pump stop", "pump.stop"),
        ("e17", "E17"),
    ], "of the one it has no words, the other is a text of theirs"


def test_of_the_way_that_surprises_least_is_taken(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Judged(step=0, accuracy=100, surprise=0.1)
    half = Judged(step=9, accuracy=80, surprise=0.5)
    whole = Judged(step=9, accuracy=90, surprise=0.6)
    assert share_taken([start, half, whole]) == 0.5
    assert share_taken([start, whole, half]) == 1.0

    texts = [np.array([2, n, 3]) for n in range(10, 18)]
    every = np.arange(8)
    pairs = Pairs(texts, every % 2, every[:6], every[6:])

    def went(share: float) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(contrastive, "_SHARES", (share,))
        run = Comparison(
            open_network(tiny_bert, 2), pairs, seed=0, bounds=Bounds(), folder=tmp_path / str(share)
        )
        run.run(lambda _: None)
        assert [one.step for one in run.progress.judged] == [0, 10]
        return {name: p.detach() for name, p in run.network.encoder.named_parameters()}

    for share in (0.5, 1.0):
        (tmp_path / str(share)).mkdir()
    half_way, last = went(0.5), went(1.0)
    first = dict(open_network(tiny_bert, 2).encoder.named_parameters())
    assert any(not torch.equal(first[name], last[name]) for name in last)
    for name, parameter in half_way.items():
        torch.testing.assert_close(parameter, (first[name] + last[name]).detach() / 2)
