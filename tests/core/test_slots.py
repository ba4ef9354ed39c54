"""Whatever the steps: what was committed is whole, the spare alone is emptied, bad stays bad."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from edgeslm.contract.fleet import DeviceConfig
from edgeslm.contract.messages import Phase
from edgeslm.contract.slots import MAX_BAD, Bad, ModelSlots, Operation, Slot, SlotName, SlotTable
from edgeslm.core.slots import (
    IllegalStepError,
    KnownBadError,
    NothingBadError,
    begin,
    begin_trial,
    candidates,
    commit,
    emptied,
    end,
    filling,
    forgotten,
    known_bad,
    moved,
    problem,
    rebuilt,
    remember_bad,
    revert,
    slot,
    slots_of,
    spare,
    uncounted,
    whole,
)

MODELS = ("press", "valve")


def digest(number: int) -> str:
    return f"{number:064x}"


def bad(number: int, message: str = "it fails") -> Bad:
    return Bad(hash=digest(number), version=number, error={"code": "trial.x", "message": message})


def operation(model: str | None = "press", **more: Any) -> Operation:
    return Operation(**{"model": model, "seq": 1, "phase": "resolving", **more})


def staged(table: SlotTable, number: int, model: str = "press") -> SlotTable:
    table = begin(table, operation(model, version=number))
    table = filling(table, bundle=digest(number), version=number, blocks=None)
    return whole(moved(table, "verifying"))


def installed(table: SlotTable, number: int, model: str = "press") -> SlotTable:
    return commit(begin_trial(staged(table, number, model), boot="b", agent="i"))


def test_the_first_bundle_goes_into_a_and_the_next_into_the_other_one() -> None:
    table = installed(SlotTable(), 1)
    assert slots_of(table, "press").active == "a"
    table = installed(table, 2)
    assert slots_of(table, "press").active == "b"
    assert slot(slots_of(table, "press"), "a") == Slot(bundle=digest(1), version=1, whole=True)
    assert slots_of(installed(table, 3), "press").active == "a"
    assert table.operation is None


def test_active_changes_at_the_commit_and_not_before() -> None:
    table = begin_trial(staged(installed(SlotTable(), 1), 2), boot="b", agent="i")
    assert slots_of(table, "press").active == "a"
    assert slots_of(revert(table), "press").active == "a"
    assert slots_of(commit(table), "press").active == "b"


def test_what_is_filled_is_not_whole_until_it_was_verified() -> None:
    table = installed(installed(SlotTable(), 1), 2)
    table = filling(begin(table, operation()), bundle=digest(1), version=1, blocks=digest(9))
    assert slot(slots_of(table, "press"), "a") == Slot(bundle=digest(1), version=1)
    with pytest.raises(IllegalStepError, match="verifying"):
        whole(table)
    with pytest.raises(IllegalStepError, match="not whole"):
        moved(table, "staged")
    held = slot(slots_of(whole(moved(table, "verifying")), "press"), "a")
    assert held is not None
    assert held.whole


def test_an_agent_loads_the_active_slot_and_then_the_other_whole_one() -> None:
    assert candidates(ModelSlots()) == ()
    first = staged(SlotTable(), 1)
    assert candidates(slots_of(first, "press")) == (), "before the first commit: by order alone"
    table = installed(SlotTable(), 1)
    assert candidates(slots_of(table, "press")) == ("a",)
    table = installed(table, 2)
    assert candidates(slots_of(table, "press")) == ("b", "a")
    filled = filling(begin(table, operation()), bundle=digest(3), version=3, blocks=None)
    assert candidates(slots_of(filled, "press")) == ("b",)


def test_a_bad_bundle_is_neither_begun_nor_filled_nor_tried_nor_loaded() -> None:
    table = remember_bad(
        begin_trial(staged(installed(SlotTable(), 1), 2), boot="b", agent="i"), "press", bad(2)
    )
    assert candidates(slots_of(table, "press")) == ("a",)
    table = end(revert(table))
    with pytest.raises(
        KnownBadError, match=r"version 2 .*with trial\.x: it fails\. Assign another; .*--forget-bad"
    ):
        begin(table, operation(bundle=digest(2)))
    with pytest.raises(KnownBadError) as caught:
        filling(begin(table, operation()), bundle=digest(2), version=2, blocks=None)
    assert caught.value.bad == bad(2)
    with pytest.raises(KnownBadError):
        begin_trial(remember_bad_of_staged(), boot="b", agent="i")
    assert known_bad(table, "valve", digest(2)) is None, "of another model it may be good"


def test_what_is_bad_may_be_forgotten_of_one_model_or_of_the_configuration() -> None:
    table = SlotTable(
        models={name: ModelSlots(bad=(bad(2),)) for name in MODELS}, bad_config=(bad(5),)
    )
    less = forgotten(table, "press")
    assert known_bad(less, "press", digest(2)) is None
    assert known_bad(less, "valve", digest(2)) == bad(2)
    assert known_bad(less, None, digest(5)) == bad(5)
    assert not forgotten(less, None).bad_config
    with pytest.raises(NothingBadError, match=r"press: nothing .* of models: valve"):
        forgotten(less, "press")


def remember_bad_of_staged() -> SlotTable:
    """A table that only a flipped bit leads to: bad, and whole all the same."""
    table = staged(SlotTable(), 2)
    slots = slots_of(table, "press").model_copy(update={"bad": (bad(2),)})
    return table.model_copy(update={"models": {"press": slots}})


def test_of_too_many_bad_ones_the_oldest_is_forgotten() -> None:
    table = SlotTable()
    for number in range(1, MAX_BAD + 3):
        table = remember_bad(table, "press", bad(number))
    table = remember_bad(table, "press", bad(5, "x" * 10_000))
    held = slots_of(table, "press").bad
    assert [each.version for each in held] == [3, 4, *range(6, MAX_BAD + 3), 5]
    assert len(held[-1].error["message"]) == 300
    table = remember_bad(table, None, bad(7))
    assert [each.version for each in table.bad_config] == [7]


def test_a_commit_forgets_nothing_bad() -> None:
    table = installed(remember_bad(SlotTable(), "press", bad(9)), 1)
    assert known_bad(table, "press", digest(9)) == bad(9)


def test_what_was_committed_cannot_become_bad() -> None:
    with pytest.raises(IllegalStepError, match="committed"):
        remember_bad(installed(SlotTable(), 1), "press", bad(1))


def test_a_trial_is_counted_before_it_begins_and_an_operators_restart_takes_it_back() -> None:
    table = begin_trial(staged(SlotTable(), 1), boot="b", agent="i")
    assert table.operation is not None
    assert (table.operation.attempts, table.operation.boot, table.operation.agent) == (1, "b", "i")
    table = begin_trial(moved(table, "staged"), boot="c", agent="j")
    assert table.operation is not None
    assert (table.operation.attempts, table.operation.boot, table.operation.agent) == (2, "c", "j")
    table = uncounted(table)
    assert table.operation is not None
    assert (table.operation.attempts, table.operation.phase) == (1, "staged")


def test_a_configuration_is_tried_without_a_slot() -> None:
    config = DeviceConfig(state_interval_s=60.0)
    table = begin(SlotTable(), operation(None, seq=7, bundle=digest(1), config=config))
    table = begin_trial(moved(table, "staged"), boot="b", agent="i")
    assert (table.config, table.config_seq) == (None, 0)
    kept = commit(table)
    assert (kept.config, kept.config_seq, kept.operation) == (config, 7, None)
    table = end(revert(remember_bad(table, None, bad(1))))
    with pytest.raises(KnownBadError, match="version 1"):
        begin(table, operation(None, bundle=digest(1)))
    with pytest.raises(IllegalStepError, match="no slot"):
        filling(begin(SlotTable(), operation(None)), bundle=digest(1), version=1, blocks=None)


def test_there_is_one_change_at_a_time() -> None:
    table = begin(SlotTable(), operation())
    with pytest.raises(IllegalStepError, match="under way"):
        begin(table, operation("valve"))
    assert begin(end(table), operation("valve")).operation == operation("valve")


@pytest.mark.parametrize("phase", ["trial", "reverting"])
def test_some_phases_begin_with_a_step_of_their_own(phase: Phase) -> None:
    with pytest.raises(IllegalStepError, match="of its own"):
        moved(staged(SlotTable(), 1), phase)
    with pytest.raises(IllegalStepError, match="no change"):
        moved(SlotTable(), phase)


def test_the_spare_slot_is_emptied_to_make_room_but_not_while_it_is_changed() -> None:
    table = installed(installed(SlotTable(), 1), 2)
    assert slots_of(emptied(table, "press"), "press").a is None
    assert slots_of(emptied(table, "press"), "press").active == "b"
    with pytest.raises(IllegalStepError, match="being changed"):
        emptied(begin(table, operation()), "press")
    assert slots_of(emptied(begin(table, operation("valve")), "press"), "press").a is None


def test_of_two_whole_bundles_the_one_written_first_is_taken_as_committed() -> None:
    one, two = (Slot(bundle=digest(n), version=n, whole=True) for n in (1, 2))
    table = rebuilt({"press": {"a": (two, 20.0), "b": (one, 10.0)}, "valve": {"b": (two, 5.0)}})
    assert candidates(slots_of(table, "press")) == ("b", "a")
    assert candidates(slots_of(table, "valve")) == ("b",)
    same = rebuilt({"press": {"a": (two, 0.0), "b": (one, 0.0)}})
    assert slots_of(same, "press").active == "b", "a clock that stood still: the lower version"
    assert rebuilt({}) == SlotTable()


CHANGED = Slot(bundle=digest(2), version=2)
WHOLE = Slot(bundle=digest(1), version=1, whole=True)


@pytest.mark.parametrize(
    ("why", "slots", "change"),
    [
        ("no slot", ModelSlots(), {"model": None, "phase": "fetching"}),
        ("no slot", ModelSlots(), {"model": None, "slot": "a"}),
        ("not the one", ModelSlots(), {"phase": "fetching", "slot": "a"}),
        ("not the one", ModelSlots(), {"phase": "fetching"}),
        (
            "not the one",
            ModelSlots(active="a", a=WHOLE, b=CHANGED),
            {"phase": "verifying", "slot": "a", "bundle": WHOLE.bundle},
        ),
        (
            "not the one",
            ModelSlots(b=CHANGED, active="a", a=WHOLE),
            {"phase": "verifying", "slot": "b", "bundle": digest(3)},
        ),
        (
            "nothing whole",
            ModelSlots(a=CHANGED),
            {"phase": "trial", "slot": "a", "bundle": CHANGED.bundle, "attempts": 1},
        ),
        ("not counted", ModelSlots(), {"model": None, "phase": "trial"}),
        ("known to be bad", ModelSlots(), {"model": None, "phase": "staged", "bundle": digest(9)}),
        ("known to be bad", ModelSlots(bad=(bad(9),)), {"bundle": digest(9)}),
    ],
)
def test_a_table_that_no_step_leads_to_is_told(
    why: str, slots: ModelSlots, change: dict[str, Any]
) -> None:
    given = operation(**change)
    table = SlotTable(models={"press": slots}, operation=given, bad_config=(bad(9),))
    assert why in str(problem(table))


def test_an_active_slot_that_is_not_whole_is_no_table() -> None:
    with pytest.raises(ValidationError, match="nothing whole"):
        ModelSlots(active="a", a=CHANGED)


numbers = st.integers(1, 6)
models = st.sampled_from(MODELS)


class Slots(RuleBasedStateMachine):
    """Any function with any arguments at any time; what is refused changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable()
        self.committed: dict[str, tuple[SlotName, Slot]] = {}
        self.remembered: set[tuple[str | None, str]] = set()

    def take(self, table: SlotTable) -> None:
        """The new table: it may be written, and no slot that was active has lost anything."""
        assert SlotTable.model_validate_json(table.model_dump_json()) == table
        assert problem(table) is None
        for model, (name, held) in self.committed.items():
            assert slot(slots_of(table, model), name) == held, "the spare alone changes"
        self.table = table

    @rule(model=st.none() | models, number=numbers)
    def begins(self, model: str | None, number: int) -> None:
        under_way = self.table.operation is not None
        given = {"bundle": digest(number)} if model is None else {"version": number}
        try:
            self.take(begin(self.table, operation(model, **given)))
        except IllegalStepError:
            assert under_way
        except KnownBadError:
            assert (model, digest(number)) in self.remembered
        else:
            assert not under_way

    @precondition(lambda self: self.table.operation is not None)
    @rule(number=numbers)
    def fills(self, number: int) -> None:
        try:
            self.take(filling(self.table, bundle=digest(number), version=number, blocks=None))
        except IllegalStepError:
            return
        except KnownBadError:
            assert self.table.operation is not None
            assert (self.table.operation.model, digest(number)) in self.remembered

    @precondition(lambda self: self.table.operation is not None)
    @rule(phase=st.sampled_from(["fetching", "verifying", "staged", "trial"]))
    def moves(self, phase: Phase) -> None:
        now = self.table.operation
        assert now is not None
        # As core/update.py has it; whoever goes elsewhere has a fault of another kind.
        legal = {
            ("fetching", "verifying"),
            ("trial", "staged"),
            *([("resolving", "staged")] if now.model is None else []),
        }
        if (now.phase, phase) in legal:
            self.take(moved(self.table, phase))

    @rule()
    def is_whole(self) -> None:
        try:
            self.take(whole(self.table))
        except IllegalStepError:
            assert self.table.operation is None or self.table.operation.phase != "verifying"

    @rule()
    def tries(self) -> None:
        try:
            self.take(begin_trial(self.table, boot="b", agent="i"))
        except (IllegalStepError, KnownBadError):
            return
        now = self.table.operation
        assert now is not None
        assert (now.model, now.bundle) not in self.remembered, "what is bad is never tried again"

    @rule()
    def takes_back_the_count(self) -> None:
        try:
            self.take(uncounted(self.table))
        except IllegalStepError:
            assert self.table.operation is None or self.table.operation.phase != "trial"

    @rule()
    def commits(self) -> None:
        now = self.table.operation
        try:
            table = commit(self.table)
        except IllegalStepError:
            assert now is None or now.phase != "trial" or self.is_bad(now)
            return
        assert now is not None
        if now.model is not None:
            slots = slots_of(table, now.model)
            assert now.slot is not None
            assert slots.active == now.slot
            held = slot(slots, now.slot)
            assert held is not None
            self.committed[now.model] = (now.slot, held)
        self.take(table)

    def is_bad(self, now: Operation) -> bool:
        return (now.model, now.bundle) in self.remembered

    @rule()
    def goes_back(self) -> None:
        try:
            self.take(revert(self.table))
        except IllegalStepError:
            assert self.table.operation is None or self.table.operation.phase != "trial"

    @rule(model=st.none() | models, number=numbers)
    def remembers(self, model: str | None, number: int) -> None:
        now = self.table.operation
        try:
            table = remember_bad(self.table, model, bad(number))
        except IllegalStepError:
            assert model is not None
            assert self.committed[model][1].bundle == digest(number)
            return
        self.remembered.add((model, digest(number)))
        # As core/update.py has it, what turns out to be bad is given up in the same write.
        if now is not None and self.is_bad(now) and now.model == model:
            table = revert(table) if now.phase == "trial" else end(table)
        self.take(table)

    @rule(model=models)
    def makes_room(self, model: str) -> None:
        try:
            self.take(emptied(self.table, model))
        except IllegalStepError:
            assert self.table.operation is not None
            assert self.table.operation.model == model

    @rule()
    def ends(self) -> None:
        self.take(end(self.table))

    @invariant()
    def what_was_committed_is_what_an_agent_loads(self) -> None:
        for model in MODELS:
            slots = slots_of(self.table, model)
            loads = candidates(slots)
            if model not in self.committed:
                assert loads == ()
                continue
            assert loads[0] == slots.active == self.committed[model][0]
            for name in loads:
                held = slot(slots, name)
                assert held is not None
                assert held.whole
                assert name == loads[0] or (model, held.bundle) not in self.remembered
            assert spare(slots) != slots.active


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
