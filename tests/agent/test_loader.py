"""The thread that loads: sources in order, errors with codes, and nothing held back."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from edgeslm.agent import loader
from edgeslm.agent.desired import Source
from edgeslm.agent.loader import LetGo, Loader, News, RoomWanted, Wanted
from edgeslm.agent.responder import AbsentModel, Model
from edgeslm.runtime.bundle import BundleTamperedError

WAIT_S = 10.0
A, B, OWN = Source(Path("a"), "1" * 64, "a"), Source(Path("b"), "2" * 64, "b"), Source(Path("own"))


class Desk:
    """A loader whose bundles are what a test says."""

    def __init__(self) -> None:
        self.results: Queue[News] = Queue()
        self.narrow = False
        self.asked: list[dict[str, Any]] = []
        self.fails: dict[Source, BaseException] = {}
        self.loader = Loader(self._load, self.results.put)

    def _load(self, name: str, source: Source, **kwargs: Any) -> Model | None:
        self.asked.append({"source": source, **kwargs})
        if self.narrow:
            kwargs["make_room"](source.hash or "")
        if source in self.fails:
            raise self.fails[source]
        return None if kwargs["known"] else AbsentModel(name)

    def result(self) -> Any:
        return self.results.get(timeout=WAIT_S)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.loader.end()
    assert made.loader.join(WAIT_S)


def test_the_first_source_that_serves_is_taken_and_what_was_before_it_is_told(desk: Desk) -> None:
    desk.fails = {A: BundleTamperedError("cut"), B: MemoryError()}
    desk.loader.want(Wanted("m", (A, B, OWN), 7))
    loaded = desk.result()
    assert (loaded.source, loaded.model is None) == (OWN, False)
    assert [e["code"] for e in loaded.errors] == ["bundle.tampered", "model.memory"]
    assert [a["source"] for a in desk.asked] == [A, B, OWN]
    assert {(a["cache_entries"], a["anew"], a["known"]) for a in desk.asked} == {(7, False, None)}


def test_where_none_serves_all_errors_are_told(desk: Desk) -> None:
    desk.fails = {A: BundleTamperedError("cut"), OWN: RuntimeError("secret")}
    desk.loader.want(Wanted("m", (A, OWN), 7))
    loaded = desk.result()
    assert (loaded.source, loaded.model) == (None, None)
    assert [e["code"] for e in loaded.errors] == ["bundle.tampered", "internal"]
    assert loaded.errors[1]["message"] == "RuntimeError"


def test_what_serves_is_known_where_it_lies_and_nowhere_else(desk: Desk) -> None:
    serving = Source(A.path, "9" * 64, "a")
    desk.fails = {B: BundleTamperedError("cut")}
    desk.loader.want(Wanted("m", (B, A), 7, serving=serving))
    loaded = desk.result()
    assert [a["known"] for a in desk.asked] == [None, "9" * 64]
    assert (loaded.source, loaded.model) == (A, None)


def test_for_a_trial_it_is_loaded_and_replayed_whatever_is_known(desk: Desk) -> None:
    desk.loader.want(Wanted("m", (A,), 7, serving=A, on_trial=True))
    loaded = desk.result()
    assert loaded.model is not None
    assert [(a["known"], a["anew"]) for a in desk.asked] == [(None, True)]


def test_a_model_is_let_go_before_memory_is_given_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Queue[bool] = Queue()
    model = AbsentModel("m")
    gone = weakref.ref(model)
    monkeypatch.setattr(loader, "trim", lambda: seen.put(gone() is None))
    desk.loader.free(model)
    desk.loader.recheck("n", AbsentModel("n"))
    assert desk.results.empty(), "it waits for us"
    del model
    gc.collect()
    assert seen.get(timeout=WAIT_S)
    result = desk.result()
    assert (result.name, result.error["code"]) == ("n", "model.unavailable")
    monkeypatch.setattr(loader, "FREED_S", 0.05)
    held = AbsentModel("held")
    desk.loader.free(held)
    seen.get(timeout=WAIT_S)  # nobody lets go of it: that is no reason to stop
    desk.loader.recheck(held.ref["name"], held)
    assert desk.result().name == "held"


def test_the_thread_keeps_no_model(desk: Desk) -> None:
    model = AbsentModel("m")
    gone = weakref.ref(model)
    desk.loader.recheck("m", model)
    desk.result()
    desk.loader.want(Wanted("m", (A,), 7))
    loaded = weakref.ref(desk.result().model)
    del model
    for _ in range(200):
        if gone() is None and loaded() is None:
            break
        gc.collect()
    assert (gone(), loaded()) == (None, None)


SERVES = Source(OWN.path, "9" * 64)


def asked(desk: Desk, source: Source) -> RoomWanted:
    """What the loader asks for before it loads from `source`."""
    room = desk.result()
    assert isinstance(room, RoomWanted)
    assert (room.source, room.hash) == (source, source.hash or "")
    return room


def test_nothing_is_loaded_before_what_served_is_gone(desk: Desk) -> None:
    desk.narrow = True
    desk.loader.want(Wanted("m", (A,), 7))
    model = AbsentModel("m")
    asked(desk, A).answer(LetGo(weakref.ref(model), SERVES))
    with pytest.raises(Empty):
        desk.results.get(timeout=0.2)
    del model
    loaded = desk.result()
    assert (loaded.source, loaded.errors) == (A, ())


def test_what_was_let_go_is_loaded_again_where_nothing_else_can_be(desk: Desk) -> None:
    desk.narrow = True
    desk.fails = {A: BundleTamperedError("cut"), B: BundleTamperedError("cut")}
    desk.loader.want(Wanted("m", (A, B), 7, serving=SERVES))
    asked(desk, A).answer(LetGo(None, SERVES))
    for source in (B, SERVES):
        asked(desk, source).answer(LetGo())
    loaded = desk.result()
    assert (loaded.source, loaded.model is None, len(loaded.errors)) == (SERVES, False, 2)
    assert [a["known"] for a in desk.asked] == [None, None, None], "it serves no more"
    desk.fails[SERVES] = MemoryError()
    desk.loader.want(Wanted("m", (A,), 7))
    asked(desk, A).answer(LetGo(None, SERVES))
    asked(desk, SERVES).answer(LetGo())
    loaded = desk.result()
    assert (loaded.source, loaded.model, len(loaded.errors)) == (None, None, 2)


def test_what_is_not_wanted_any_more_is_not_loaded_and_nothing_is_said_of_it(desk: Desk) -> None:
    desk.narrow = True
    desk.loader.want(Wanted("m", (A,), 7))
    asked(desk, A).answer(None)
    desk.loader.recheck("n", AbsentModel("n"))
    assert desk.result().name == "n"


def test_a_model_that_is_not_let_go_of_serves_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "LET_GO_S", 0.05)
    desk.narrow = True
    held = AbsentModel("m")
    desk.loader.want(Wanted("m", (A, B), 7))
    asked(desk, A).answer(LetGo(weakref.ref(held), SERVES))
    loaded = desk.result()
    assert (loaded.source, loaded.model is held) == (SERVES, True)
    assert [e["code"] for e in loaded.errors] == ["memory.held"]


@pytest.mark.parametrize("answered", [True, False])
def test_an_end_does_not_wait_for_room(desk: Desk, answered: bool) -> None:  # noqa: FBT001 -- a case
    desk.narrow = True
    held = AbsentModel("m")
    desk.loader.want(Wanted("m", (A,), 7))
    room = asked(desk, A)
    if answered:
        room.answer(LetGo(weakref.ref(held), SERVES))
    desk.loader.end()
    assert desk.loader.join(2.0)
    assert desk.results.empty()


def test_one_that_is_at_a_model_for_too_long_or_has_ended_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[bool] = []
    results: Queue[News] = Queue()

    def load(name: str, source: Source, **_: Any) -> Model | None:
        del source
        told.append(at_work.hangs)
        return AbsentModel(name)

    at_work = Loader(load, results.put)
    for stuck_s in (60.0, 0.0):
        monkeypatch.setattr(loader, "STUCK_S", stuck_s)
        assert not at_work.hangs  # it has nothing to do
        at_work.want(Wanted("m", (A,), 7))
        results.get(timeout=WAIT_S)
        time.sleep(0.1)
    assert told == [False, True]
    at_work.end()
    assert at_work.join(WAIT_S)
    assert at_work.hangs
