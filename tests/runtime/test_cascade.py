"""A cascade is one model: the first stage answers what it is sure of, the second all else."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.adapters.ort import InferenceError
from edgeslm.contract import manifest as contract
from edgeslm.core.overlay import Lesson
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Answer, Prepared, Request
from edgeslm.runtime import bundle as bundles
from edgeslm.runtime.batches import TOGETHER
from edgeslm.runtime.bundle import MANIFEST, open_bundle
from edgeslm.runtime.cascade import Bounds, is_sure
from edgeslm.runtime.golden import GoldenFailedError
from edgeslm.runtime.model import Model, load_model
from edgeslm.tasks.intent import Intent
from tests.runtime import cascades, tiny
from tests.runtime.cascades import CONFIDENCE, TEXTS

ASKED = [Request(text) for text in TEXTS]


@pytest.fixture
def both(tmp_path: Path) -> Path:
    return cascades.write_cascade(tmp_path / "both")


def expected(both: Path, to: Path) -> list[Answer]:
    """What two models by themselves come to."""
    first, second = (
        load_model(cascades.alone(both, stage, to / stage), golden=False)
        for stage in ("first", "second")
    )
    answers = []
    for request in ASKED:
        said = first.answer(request)
        if said.accepted and said.confidence > CONFIDENCE:
            answers.append(said._replace(stage="first"))
        else:
            answers.append(second.answer(request)._replace(stage="second"))
    return answers


def test_who_is_sure_answers(both: Path, tmp_path: Path) -> None:
    model = load_model(both)
    answers = [model.answer(request) for request in ASKED]
    assert answers == expected(both, tmp_path)
    counted = cascades.stages(answers)
    assert counted["first"] > 3, "else the test says nothing"
    assert counted["second"] > 3
    assert model.handed_over == pytest.approx(counted["second"] / len(ASKED))


def test_what_the_first_rejects_the_second_judges(tmp_path: Path) -> None:
    """However sure the first is of its label: out of scope is said by the second alone."""
    both = cascades.write_cascade(tmp_path / "both", rejects=-100.0)
    model = load_model(both)
    answers = [model.answer(request) for request in ASKED]
    assert cascades.stages(answers) == {"second": len(ASKED)}
    assert all(answer.accepted for answer in answers)


def test_what_is_far_enough_out_of_scope_the_first_rejects_for_good(tmp_path: Path) -> None:
    far = -1.2  # of the scores that the first would reject, about half are above it
    own = {"confidence": CONFIDENCE, "rejects_above": far, "lose_points": 0.3}
    both = cascades.write_cascade(
        tmp_path / "both", rejects=-100.0, settings=json.dumps(own).encode()
    )
    model = load_model(both, golden=False)
    first = load_model(cascades.alone(both, "first", tmp_path / "first"), golden=False)
    met = set()
    for request in ASKED:
        said, answer = first.answer(request), model.answer(request)
        kept = said.score > far
        assert (answer.stage, answer.accepted) == (("first", False) if kept else ("second", True))
        assert model.answer_anew(request) == answer
        met.add(kept)
    assert met == {True, False}, "else the test says nothing"


def test_by_its_p_value_an_answer_counts_less(tmp_path: Path) -> None:
    plain = {"confidence": CONFIDENCE, "lose_points": 0.3}
    handed = []
    for name, more in (("plain", {}), ("less", {"p_exponent": 1.0})):
        settings = json.dumps({**plain, **more}).encode()
        both = cascades.write_cascade(tmp_path / name, settings=settings)
        model = load_model(both, golden=False)
        answers = [model.answer(request) for request in ASKED]
        handed.append({i for i, answer in enumerate(answers) if answer.stage == "second"})
    assert handed[0] < handed[1], "the first's p-values are 1/3, 2/3 or 1"


@pytest.mark.parametrize(("confidence", "stage"), [(0.0, "first"), (1.0, "second")])
def test_the_threshold_decides(confidence: float, stage: str, tmp_path: Path) -> None:
    both = cascades.write_cascade(tmp_path / "both", confidence=confidence, rejects=10.0)
    model = load_model(both)
    assert {model.answer(request).stage for request in ASKED} == {stage}


@given(
    confidence=st.floats(0, 1),
    least=st.floats(0, 1),
    accepted=st.sampled_from([None, False, True]),
    above=st.none() | st.floats(-9, 9),
    exponent=st.none() | st.floats(0.01, 1),
    p_value=st.none() | st.floats(0.001, 1),
)
def test_of_a_rejection_the_score_decides_and_else_the_confidence(  # noqa: PLR0913
    confidence: float,
    least: float,
    above: float | None,
    exponent: float | None,
    p_value: float | None,
    *,
    accepted: bool | None,
) -> None:
    answer = Answer("a", confidence, 0.0, accepted=accepted, p_value=p_value)
    bounds = Bounds(least, above, exponent)
    if accepted is False:
        assert is_sure(answer, bounds) == (above is not None and above < 0)
    elif exponent is None or p_value is None:
        assert is_sure(answer, bounds) == (confidence > least)
    else:
        assert is_sure(answer, bounds) == (confidence * p_value**exponent > least)
    assert not is_sure(InferenceError("no"), bounds)


@pytest.mark.parametrize("batched", [False, True])
def test_alone_together_cached_or_not_to_the_last_bit(*, batched: bool, tmp_path: Path) -> None:
    both = cascades.write_cascade(tmp_path / "both", batched=batched)
    cached, uncached = load_model(both), load_model(both, cache_entries=0)
    assert cached.batch_invariant == batched
    alone = [uncached.answer(request) for request in ASKED]
    assert cached.answer_all(ASKED) == alone
    assert cached.answer_all(ASKED) == alone
    assert [cached.answer_anew(request) for request in ASKED] == alone
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(cached.answer, ASKED)) == alone


def test_a_second_stage_that_runs_one_at_a_time_leaves_the_first_its_batches(
    both: Path, tmp_path: Path
) -> None:
    ones = load_model(both)
    alone = [ones.answer(request) for request in ASKED]
    marked = {"first": True, "second": False}

    def mark(manifest: dict[str, Any]) -> None:
        for artifact in manifest["artifacts"]:
            if artifact["role"] == "graph":
                artifact["batch_invariant"] = marked[artifact["stage"]]

    _edit(mark)(both)
    model = load_model(both)
    assert not model.batch_invariant
    assert (ones.together, model.together) == (1, 8)
    assert model.answer_all(ASKED) == alone
    assert load_model(cascades.write_cascade(tmp_path / "b", batched=True)).together == TOGETHER


def test_what_the_first_has_said_is_not_judged_again(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    finish = Intent.finish

    def spy(self: Intent, prepared: Prepared, *args: Any, **kwargs: Any) -> Answer:
        judged.append(prepared.request.text)
        return finish(self, prepared, *args, **kwargs)

    monkeypatch.setattr(Intent, "finish", spy)
    model = load_model(both, golden=False)
    model.answer_all(ASKED)
    assert len(judged) == round(len(ASKED) * (1 + (model.handed_over or 0.0)))
    asked, memory = ASKED[:1], model.memory()
    assert memory is not None
    memory.overlay.learn(Lesson(1, "intent", asked[0].text, label=tiny.LABELS[0]))
    [answer] = model.answer_all(asked, memory)
    assert isinstance(answer, Answer)
    assert answer.lesson == 1, "but where it was taught since"


def test_counts_both_caches(both: Path) -> None:
    model = load_model(both)
    before = model.handed_over
    assert before is None, "the golden file leaves no trace"
    model.answer_all(ASKED)
    model.answer_all(ASKED)
    handed = round((model.handed_over or 0.0) * len(ASKED))
    ran = len(ASKED) + handed
    assert (model.cache_misses, model.cache_hits) == (ran, ran)
    model.resize(0)
    model.answer_all(ASKED)
    assert (model.cache_misses, model.cache_hits) == (2 * ran, ran)
    model.forget()
    assert (model.cache_misses, model.handed_over) == (0, None)


def test_says_what_it_is(both: Path) -> None:
    model = load_model(both)
    assert (model.task, model.provider, model.node_share) == ("intent", "cpu", 1.0)
    assert sorted(model.coverages) == ["first/model.onnx", "second/model.onnx"]


def test_is_proved_no_better_than_the_worse_of_its_stages(both: Path) -> None:
    manifest = json.loads((both / MANIFEST).read_text())
    graphs = {a["stage"]: a for a in manifest["artifacts"] if a["role"] == "graph"}
    for first, second, whole in (
        ("silicon", "emulated", "emulated"),
        ("none", "silicon", "none"),
        ("silicon", "silicon", "silicon"),
    ):
        graphs["first"]["verified"], graphs["second"]["verified"] = first, second
        (both / MANIFEST).write_text(json.dumps(manifest))
        assert load_model(both).verified == whole


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_stage_that_was_damaged_before_it_was_listed_fails_the_golden_file(
    stage: str, both: Path
) -> None:
    """As when a graph is exported, or packed, from a disk that lies."""
    data = both / stage / "model.onnx.data"
    data.write_bytes(data.read_bytes()[::-1])
    cascades.seal(both)
    with pytest.raises(GoldenFailedError):
        load_model(both)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_stage_that_is_damaged_after_its_hash_was_checked_is_refused(
    stage: str, both: Path, tmp_path: Path
) -> None:
    """Though it is remembered that this very bundle has passed its golden file."""
    kept = tmp_path / "verdicts"
    load_model(both, verdict_dir=kept)

    def damage(found: str) -> None:
        del found
        with (both / stage / "model.onnx.data").open("r+b") as file:
            file.write(bytes(64))

    with pytest.raises(EdgeSLMError, match=f"{stage}/model.onnx.data: was written to") as caught:
        load_model(both, verdict_dir=kept, make_room=damage)
    assert caught.value.code == "bundle.tampered"


def test_replays_its_golden_file_while_it_serves(both: Path) -> None:
    model = load_model(both)
    model.answer_all(ASKED)
    before = model.cache_hits, model.cache_misses, model.handed_over
    model.replay_golden()
    assert (model.cache_hits, model.cache_misses, model.handed_over) == before


def test_another_hand_over_than_the_exporters_is_no_match(tmp_path: Path) -> None:
    """The golden file says who answers."""
    both = cascades.write_cascade(tmp_path / "both")
    (both / "cascade.json").write_text('{"confidence": 0.99, "lose_points": 0.3}')
    cascades.seal(both)
    with pytest.raises(GoldenFailedError, match="stage second, expected first"):
        load_model(both)


def test_what_operators_say_counts_whichever_stage_answers(both: Path) -> None:
    model = load_model(both)
    memory = model.memory()
    assert memory is not None
    met = set()
    for number, request in enumerate(ASKED, 1):
        before = model.answer(request, memory)
        other = next(label for label in tiny.LABELS if label != before.label)
        memory.overlay.learn(Lesson(number, "intent", request.text, label=other))
        after = model.answer(request, memory)
        assert (after.label, after.lesson, after.stage) == (other, number, before.stage)
        memory.overlay.unlearn(number)
        assert model.answer(request, memory) == before
        met.add(before.stage)
    assert met == {"first", "second"}


def test_where_the_first_fails_the_second_answers(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(both)
    plain = Model.answer_all

    def fail(self: Model, requests: Any, memory: Any = None) -> Any:
        if self is model:
            return plain(self, requests, memory)
        return [InferenceError("no")] * len(requests)

    monkeypatch.setattr(Model, "answer_all", fail)
    assert model.answer(ASKED[0]).stage == "second"


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return edit


def _without(stage: str | None, role: str) -> Callable[[Path], None]:
    def drop(manifest: dict[str, Any]) -> None:
        kept = [a for a in manifest["artifacts"] if (a.get("stage"), a["role"]) != (stage, role)]
        manifest["artifacts"] = kept

    return _edit(drop)


def _flip(path: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        data = bytearray((folder / path).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / path).write_bytes(data)

    return flip


def _settings(raw: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "cascade.json").write_bytes(raw)
        cascades.seal(folder)

    return write


HOSTILE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "second stage is gone": (
        lambda f: (f / "second" / "model.onnx").unlink(), "bundle.tampered", "second/model.onnx",
    ),
    "second stage tampered": (_flip("second/model.onnx.data"), "bundle.tampered", "second/"),
    "first stage tampered": (_flip("first/model.onnx.data"), "bundle.tampered", "first/"),
    "second not listed": (_without("second", "graph"), "bundle.invalid", "of the second stage"),
    "first not listed": (_without("first", "parameters"), "bundle.invalid", "of the first stage"),
    "no settings listed": (_without(None, "cascade"), "bundle.invalid", "cascade"),
    "requires nothing": (_edit(lambda m: m.update(requires=[])), "bundle.invalid", "requires"),
    "golden of a stage": (
        _edit(lambda m: m["artifacts"][-1].update(stage="first")), "bundle.invalid", "as a whole",
    ),
    "a third stage": (
        _edit(lambda m: m["artifacts"][0].update(stage="third")), "bundle.invalid", "stage",
    ),
    "settings are none": (_settings(b"[]"), "file.invalid", "cascade.json"),
    "a confidence of 2": (
        _settings(b'{"confidence": 2, "lose_points": 0}'), "file.invalid", "confidence",
    ),
    "a p-value that counts for more": (
        _settings(b'{"confidence": 0.5, "lose_points": 0, "p_exponent": -1}'),
        "file.invalid", "p_exponent",
    ),
    "a score that is no number": (
        _settings(b'{"confidence": 0.5, "lose_points": 0, "rejects_above": NaN}'),
        "file.invalid", "cascade.json",
    ),
    "settings of another kind": (
        _settings(b'{"confidence": 0.5, "lose_points": 0, "margin": 1}'), "file.invalid", "margin",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_cascade_that_is_not_whole_is_refused(case: str, both: Path) -> None:
    spoil, code, said = HOSTILE[case]
    spoil(both)
    with pytest.raises(EdgeSLMError, match=said) as caught:
        load_model(both)
    assert caught.value.code == code


def test_a_task_that_remembers_is_no_cascade(tmp_path: Path) -> None:
    """Its answers would depend on who answered before."""
    both = cascades.write_cascade(tmp_path / "both", task="recalls")
    with pytest.raises(EdgeSLMError, match="depend on earlier texts") as caught:
        load_model(both, golden=False)
    assert caught.value.code == "cascade.unfit"


def test_a_reader_of_before_refuses_it_by_what_it_requires(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "FEATURES", frozenset())
    with pytest.raises(EdgeSLMError, match="requires cascade, which this build lacks") as caught:
        open_bundle(both)
    assert caught.value.code == "bundle.foreign"


def test_what_is_no_cascade_loads_as_before(tmp_path: Path) -> None:
    folder = tiny.write_bundle(tmp_path / "plain")
    assert contract.CASCADE not in open_bundle(folder).manifest.requires
    model = load_model(folder)
    assert (model.handed_over, model.answer(ASKED[0]).stage) == (None, None)
