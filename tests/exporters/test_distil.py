"""Students: cut out of a teacher, taught by it, and held against it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeslm.ports import Request
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from exporters import cli
from exporters.data import Row, read_rows
from exporters.export import Job, Tell, export, exported
from exporters.heads.base import Advance
from exporters.sources import open_source
from exporters.sources.base import ENCODER
from exporters.training.folder import Trained, read_trained
from exporters.tune.lock import LOCK
from exporters.workbench import Stage
from tests.exporters.conftest import DIM, Stages, many_orders, without_notes, write_lines

torch = pytest.importorskip("torch")

from exporters.training import distil, distillation, layers  # noqa: E402 -- after the skip
from exporters.training.batches import pad  # noqa: E402
from exporters.training.checkpoint import Judged, Progress  # noqa: E402
from exporters.training.loop import Bounds, Examples  # noqa: E402
from exporters.training.network import open_network  # noqa: E402
from exporters.training.train import Run  # noqa: E402


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache for all tests here: what a teacher is made of is made once."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESLM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def job(tiny_bert: Path, kept: Path) -> Job:
    """An export with `--train full`, made."""
    place = kept.parent / "exports"
    place.mkdir()
    made = Job(
        task="intent",
        model=str(tiny_bert),
        data=write_lines(place / "orders.jsonl", many_orders()),
        profile=detect_profile().name,
        name="toy",
        version=1,
        out=place / "teacher",
        share=0.05,
        allow_drop=True,
        train="full",
    )
    export(made, Stages())
    return made


@pytest.fixture(scope="module")
def teacher(job: Job) -> Trained:
    return read_trained(job.out)


@pytest.fixture(scope="module")
def wanted(job: Job, teacher: Trained) -> distil.StudentOrder:
    source = open_source(str(teacher.folder), tokenizer=None)
    rows = read_rows(job.data)
    return distil.StudentOrder(teacher, source, exported(source), rows, "layers=1", seed=0)


def student_of(job: Job, out: str, **more: Any) -> Job:
    changed: dict[str, Any] = {
        "train": "student",
        "teacher": job.out,
        "student": "layers=1",
        "model": "",
        **more,
    }
    return dataclasses.replace(job, out=job.out.parent / out, **changed)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_a_student_is_an_export_that_says_what_it_lost(job: Job) -> None:
    report = export(student_of(job, "student", prune_vocab=1, seed=0), Stages())
    taught, pruned = report["reductions"]
    assert taught["name"] == "student"
    assert taught["what"].startswith("1 of the teacher's 2 layers kept (")
    assert taught["what"].endswith("taught by it") == bool(report["training"]["best_after"])
    assert taught["parameters"]["after"] < taught["parameters"]["before"]
    assert taught["after"] == pruned["before"]
    assert pruned["after"] == report["fp32"]
    of_teacher = json.loads((job.out / "quality.json").read_text())["fp32"]
    assert taught["before"] == of_teacher, "held against the teacher as it was exported"
    assert report["training"]["tried"] == 2
    out = job.out.parent / "student"
    assert "1 of the teacher&#x27;s 2 layers kept" in (out / "report.html").read_text()
    model = load_model(out / "bundle")
    assert model.answer(Request("please stop the pump")).label == "stop"
    trained = read_trained(out)
    assert json.loads((trained.folder / "config.json").read_text())["num_hidden_layers"] == 1
    assert trained.facts.held_out == read_trained(job.out).facts.held_out
    assert trained.facts.base == read_trained(job.out).facts.base
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    assert manifest["base_model"]["source"] == "tiny-bert"
    lock = out / "lock.json"
    again = student_of(job, "again", prune_vocab=1, lock=lock)
    assert export(again, Stages())["bundle"] == report["bundle"]


@pytest.mark.parametrize(("best", "said"), [(0, "as they were: the texts"), (1, "taught by it")])
def test_a_student_that_teaching_made_no_better_is_not_called_taught(
    best: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = [Judged(step=step, accuracy=90.0 + (step == best), surprise=1.0) for step in (0, 1)]
    done = Progress(steps=1, step=1, judged=tuple(judged))
    monkeypatch.setattr(Run, "_train", lambda *_: (None, done))
    student = object.__new__(distil._Student)  # noqa: SLF001 -- what it says of a run, without one
    student.told = {"student": "1 layer kept"}
    student._train(Bounds())
    assert student.told["student"].startswith(f"1 layer kept, {said}")


def test_a_student_may_have_no_layers(job: Job) -> None:
    report = export(student_of(job, "static", prune_vocab=1, student="static"), Stages())
    [taught] = report["reductions"]
    assert taught["what"].endswith("in place of the teacher's 2 layers, taught by it")
    assert taught["after"] == report["fp32"]
    assert report["training"]["taught"] is True
    out = job.out.parent / "static"
    assert read_trained(out).facts.held_out == read_trained(job.out).facts.held_out
    assert load_model(out / "bundle").answer(Request("please stop the pump")).label == "stop"


@pytest.mark.parametrize(
    ("judged", "best"),
    [([(50.0, 1.0), (90.0, 2.0)], 1), ([(90.0, 1.0), (50.0, 2.0)], 0), ([(90.0, 2), (90.0, 1)], 1)],
)
def test_the_best_layers_are_found_by_trying_all(
    wanted: distil.StudentOrder,
    monkeypatch: pytest.MonkeyPatch,
    judged: list[tuple[float, float]],
    best: int,
) -> None:
    network = distillation.open_teacher(wanted.teacher)
    asked: list[int] = []

    def judge(student: Any, *_: object) -> tuple[float, float]:
        asked.append(len(layers.stack_of(student)))
        return judged[len(asked) - 1]

    monkeypatch.setattr(layers, "judge", judge)
    texts, labels = [np.array([1, 2])] * 3, np.array([0, 1, 2])
    steps: list[int] = []
    found = layers.choose(network, layers.choices(network, 1), texts, labels, steps.append)
    assert (asked, steps) == ([1, 1], [1, 1])
    assert found[0] == layers.Choice((best,), *judged[best])


def test_a_student_is_to_say_what_its_teacher_says(
    wanted: distil.StudentOrder, tmp_path: Path
) -> None:
    """Of one that says the same already, only the doubts of both are left to lose."""
    network = distillation.open_teacher(wanted.teacher)
    texts = [np.arange(1, n + 1) for n in (3, 1, 5, 3)]
    labels = np.array([0, 1, 2, 0])
    examples = Examples(texts, labels, np.arange(4), np.arange(4))
    known = distillation.ask(network, texts, tmp_path, lambda _: None)
    run = distillation.Distillation(
        network, known, examples, seed=0, bounds=Bounds(steps=1), folder=tmp_path
    )
    batch = np.array([2, 0])
    ids, mask = map(torch.from_numpy, pad([texts[i] for i in batch]))
    network.eval()
    logits = network(ids, mask)
    soft = (logits / 2).softmax(dim=1)
    doubt = -(soft * (logits / 2).log_softmax(dim=1)).sum()
    wrong = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]), reduction="sum")
    expected = (4 * doubt + 0.1 * wrong) / 32
    loss = run._loss(batch, ids, mask)  # noqa: SLF001 -- what it is made of
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    with torch.no_grad():
        network.encoder.encoder.layer[-1].output.LayerNorm.bias[0] += 1
    off = run._loss(batch, ids, mask).item()  # noqa: SLF001
    logits = network(ids, mask)
    soft_loss = -(soft * (logits / 2).log_softmax(dim=1)).sum()
    wrong = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]), reduction="sum")
    states = 1 / DIM * 2 / 32  # one of so many values is off by one, in two of 32 texts
    assert off == pytest.approx(((4 * soft_loss + 0.1 * wrong) / 32).item() + states, rel=1e-3)


def test_what_is_cut_has_the_layers_asked_for(wanted: distil.StudentOrder, tmp_path: Path) -> None:
    network = distillation.open_teacher(wanted.teacher)
    student = layers.cut(network, [1])
    assert len(layers.stack_of(student)) == 1
    assert len(layers.stack_of(network)) == 2, "the teacher is left as it is"
    old, new = layers.stack_of(network)[1], layers.stack_of(student)[0]
    pairs = zip(old.parameters(), new.parameters(), strict=True)
    assert all(torch.equal(one, other) and one is not other for one, other in pairs)
    student.encoder.save_pretrained(tmp_path)
    again = open_network(tmp_path, 3)
    ids = torch.tensor([[1, 2, 3]])
    student.eval()
    again.eval()
    assert torch.equal(student.embed(ids, torch.ones_like(ids)),
                       again.embed(ids, torch.ones_like(ids)))  # fmt: skip


@pytest.mark.parametrize("keep", [2, 3])
def test_a_student_has_fewer_layers(wanted: distil.StudentOrder, keep: int) -> None:
    network = distillation.open_teacher(wanted.teacher)
    with pytest.raises(layers.LayersError, match="the teacher has 2 layers; take 1 to 1"):
        layers.choices(network, keep)


def test_too_many_choices_are_refused(
    wanted: distil.StudentOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_MOST", 1)
    network = distillation.open_teacher(wanted.teacher)
    with pytest.raises(layers.LayersError, match="2 choices of 2 layers are too many"):
        layers.choices(network, 1)


def test_what_the_teacher_says_is_kept(
    wanted: distil.StudentOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = distillation.open_teacher(wanted.teacher)
    texts = [np.arange(1, n + 1) for n in (3, 1, 5, 3)]
    steps: list[int] = []
    known = distillation.ask(network, texts, tmp_path, steps.append)
    assert sum(steps) == len(texts)
    batch, lengths = np.array([2, 0]), [5, 3]
    logits, states = known.of(batch, lengths)
    network.eval()
    for row, text in enumerate(batch):
        ids = torch.from_numpy(texts[text])[None]
        mask = torch.ones_like(ids)
        hidden = network.hidden(ids, mask).detach()
        assert torch.allclose(states[row, : lengths[row]], hidden[0], atol=2e-3)
        assert not states[row, lengths[row] :].any()
        assert torch.allclose(logits[row], network(ids, mask)[0], atol=1e-5)

    def never(*_: object) -> Any:
        pytest.fail("the teacher is asked once")

    monkeypatch.setattr(network, "hidden", never)
    again = distillation.ask(network, texts, tmp_path, steps.append)
    assert np.array_equal(again.logits, known.logits)
    assert np.array_equal(again.hidden, known.hidden)


class Interrupting(Stages):
    """Ends the run after so many steps of one stage."""

    def __init__(self, name: str, after: int) -> None:
        super().__init__()
        self._name, self._after = name, after

    @contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
        with super().__call__(name, total) as advance:

            def step(steps: int) -> None:
                advance(steps)
                if name == self._name and self.steps[name] >= self._after:
                    raise KeyboardInterrupt

            yield step


def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(
    wanted: distil.StudentOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "one"))
    whole = distil.distil(wanted, Stages())
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "two"))
    doing = "teaching the student"
    for name, after in (("asking the teacher", 40), (doing, 10), (doing, 30)):
        with pytest.raises(KeyboardInterrupt):
            distil.distil(wanted, Interrupting(name, after))
    stages = Stages()
    resumed = distil.distil(wanted, stages)
    assert bytes_of(resumed.trained.folder) == bytes_of(whole.trained.folder)
    assert resumed.report == whole.report
    assert stages.steps[doing] == resumed.report["ended_after"], "what was done is shown as done"
    left = [p.name for p in (tmp_path / "two" / "training").rglob("*") if p.is_file()]
    assert sorted(left) == [".lock", "plan.json"]


def rows_without(rows: list[Row], what: str, teacher: Trained) -> list[Row]:
    if what == "a label":
        return [row for row in rows if row.label != "fault"]
    if what == "what was held out":
        unseen = teacher.unseen(row.text for row in rows)
        return [row for row, new in zip(rows, unseen, strict=True) if not new]
    return [*rows, Row("strange words", "unheard")]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a label", "no text is of the teacher's 'fault'"),
        ("what was held out", "held out 0 of the texts, and 20 must judge"),
        ("nothing", "the teacher does not know 'unheard'"),
    ],
)
def test_other_examples_are_refused(wanted: distil.StudentOrder, what: str, message: str) -> None:
    rows = rows_without(list(wanted.rows), what, wanted.teacher)
    with pytest.raises(distil.OtherDataError, match=f"{message}.*, and --eval if it had one"):
        distil.divided(wanted.teacher, rows)


@pytest.mark.parametrize("held_out", [7, 19])
def test_a_teacher_of_few_examples_is_named_as_such(
    wanted: distil.StudentOrder, held_out: int
) -> None:
    """No examples would help: it held out too few itself."""
    facts = wanted.teacher.facts.model_copy(
        update={"held_out": wanted.teacher.facts.held_out[:held_out]}
    )
    teacher = dataclasses.replace(wanted.teacher, facts=facts)
    with pytest.raises(
        distil.TeacherError, match=f"held out {held_out} .* of --train full"
    ) as told:
        distil.divided(teacher, wanted.rows)
    assert "--eval" not in str(told.value)


def flat(job: Job, **change: str) -> list[str]:
    given = {
        "--teacher": str(job.out),
        "--student": "layers=1",
        "--data": str(job.data),
        "--profile": job.profile,
        "--name": "toy",
        "--version": "1",
        "--out": str(job.out.parent / "said"),
    }
    given |= {f"--{name}": value for name, value in change.items()}
    return ["distil", *(word for pair in given.items() for word in pair)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"teacher": "/nowhere"}, "train.folder"),
        ({"student": "layers=2"}, "distil.layers"),
        ({"student": "layers=9999"}, "distil.layers"),
        ({"data": "/nowhere"}, "data.invalid"),
        ({"profile": "toaster"}, "profile.invalid"),
        ({"max-tokens": "65"}, "export.max_tokens"),
    ],
)
def test_a_refusal_is_one_line(
    job: Job, change: dict[str, str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(flat(job, **change)) in {65, 78}
    out, err = capsys.readouterr()
    assert out == ""
    assert without_notes(err).count("\n") == 1
    assert f"[{code}]" in err
    assert not (job.out.parent / "said").exists()


def test_a_static_model_is_no_teacher(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(job.out / "trained", tmp_path / "static")
    (tmp_path / "static" / ENCODER).touch()  # as in OUT/trained/ of --train static
    assert cli.main(flat(job, teacher=str(tmp_path / "static"))) == 65
    err = without_notes(capsys.readouterr().err)
    assert f"--teacher {tmp_path / 'static'}: a static model, without layers: take one" in err
    assert err.endswith("[distil.teacher]\n")


def test_an_export_that_trained_nothing_is_no_teacher(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    shutil.copy(job.out / LOCK, untrained)
    assert cli.main(flat(job, teacher=str(untrained))) == 65
    err = without_notes(capsys.readouterr().err)
    assert f"--teacher {untrained}: an export that trained no encoder: take one of --train" in err


def test_other_examples_are_refused_by_the_file_that_they_are_in(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in job.data.read_text().splitlines()]
    rows += [{"text": f"strange {word}", "label": "unheard"} for word in "abcdefgh"]
    other = write_lines(tmp_path / "other.jsonl", rows)
    assert cli.main(flat(job, data=str(other))) == 65
    err = without_notes(capsys.readouterr().err)
    assert err.startswith(f"edgeslm-export: {other}: the teacher does not know 'unheard'. Give the")


def test_what_one_may_want_to_stop_for_is_told_before_the_long_work(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_job: Job, _stage: Stage, tell: Tell) -> None:
        tell("labels are few")
        raise distil.OtherDataError("not these")  # noqa: EM101, TRY003

    monkeypatch.setattr("exporters.export.export", refused)
    assert cli.main(flat(job)) == 65
    assert capsys.readouterr().err.startswith("edgeslm-export: note: labels are few\n")


@pytest.mark.parametrize("student", ["3", "Static", "layers=0", "layers=", "layers=3x", "layers=٣"])
def test_an_unknown_student_is_wrong_usage(
    job: Job, student: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(flat(job, student=student))
    assert caught.value.code == 2
    assert "is neither static nor layers=N" in capsys.readouterr().err
