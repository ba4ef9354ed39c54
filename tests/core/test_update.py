"""An update ends, whatever happens on the way, and nothing is committed that was not proved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from edgeslm.contract.messages import Phase
from edgeslm.contract.slots import Bad, Operation, SlotTable
from edgeslm.core import slots
from edgeslm.core.update import (
    MAX_ATTEMPTS,
    MEANING,
    ON_THE_TABLE,
    TRANSITIONS,
    Effect,
    Event,
    IllegalEventError,
    State,
    Step,
    advance,
    at_start,
    of_agent,
    state_of,
)

MODEL_PATH = [
    (Event.OFFERED, State.RESOLVING),
    (Event.RESOLVED, State.FETCHING),
    (Event.FETCHED, State.VERIFYING),
    (Event.VERIFIED, State.STAGED),
    (Event.AGENT_READY, State.TRIAL),
    (Event.LOADED, State.TRIAL),
    (Event.OUTLASTED, State.TRIAL),
    (Event.HEALTHY, State.IDLE),
]
CONFIG_PATH = [MODEL_PATH[0], (Event.CHECKED, State.STAGED), *MODEL_PATH[4:]]
OF_THE_AGENT = [event for event in Event if event.value.startswith("agent_")]
UNDER_WAY = [state for state in State if state is not State.IDLE]


@pytest.mark.parametrize("path", [MODEL_PATH, CONFIG_PATH], ids=["model", "configuration"])
def test_the_way_to_a_commit(path: list[tuple[Event, State]]) -> None:
    step = Step(State.IDLE, ())
    for event, expected in path:
        step = advance(step.state, event)
        assert step.state is expected
    assert Effect.COMMIT in step.effects


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", [Event.REBOOTED, Event.RESUMED])
def test_every_state_survives_that_the_device_or_the_updater_starts_again(
    state: State, event: Event
) -> None:
    step = advance(state, event)
    assert Effect.COMMIT not in step.effects
    assert step.state is State.IDLE or step.effects, "something goes on"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", OF_THE_AGENT)
def test_an_agent_may_come_and_go_in_every_state(state: State, event: Event) -> None:
    advance(state, event)


@pytest.mark.parametrize("state", UNDER_WAY)
@pytest.mark.parametrize("event", [Event.OVERDUE, Event.FAILED, Event.SUPERSEDED])
def test_nothing_that_is_under_way_blocks_what_comes_next(state: State, event: Event) -> None:
    step = advance(state, event)
    if state in {State.TRIAL, State.REVERTING}:
        assert step.state in {State.REVERTING, State.IDLE}
    else:
        assert step.state is State.IDLE
    if event is not Event.SUPERSEDED:
        assert Effect.REPORT in step.effects, "a failure is told"


@pytest.mark.parametrize("state", UNDER_WAY)
def test_deadlines_alone_lead_to_idle(state: State) -> None:
    for _ in State:
        if state is not State.IDLE:
            state = advance(state, Event.OVERDUE).state
    assert state is State.IDLE


@pytest.mark.parametrize(
    ("state", "event"),
    [(s, e) for s in State for e in Event if (s, e) not in TRANSITIONS],
    ids=str,
)
def test_anything_else_is_refused(state: State, event: Event) -> None:
    with pytest.raises(IllegalEventError, match=event.value):
        advance(state, event)


def test_every_state_is_reached_and_every_one_leads_back() -> None:
    reached = {State.IDLE}
    for _ in State:
        reached |= {after for (before, _), (after, _) in TRANSITIONS.items() if before in reached}
    assert reached == set(State)
    back = {State.IDLE}
    for _ in State:
        back |= {before for (before, _), (after, _) in TRANSITIONS.items() if after in back}
    assert back == set(State)


def test_every_word_is_used_and_explained() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {effect for _, effects in TRANSITIONS.values() for effect in effects} == set(Effect)
    assert set(MEANING) == {*Event, *Effect}


@pytest.mark.parametrize(("row"), TRANSITIONS.values())
def test_the_table_is_written_before_anything_is_done(
    row: tuple[State, tuple[Effect, ...]],
) -> None:
    on_the_table = [effect in ON_THE_TABLE for effect in row[1]]
    assert on_the_table == sorted(on_the_table, reverse=True)


def test_on_no_way_is_anything_tried_or_committed_that_was_not_proved() -> None:
    """All ways, however long: what has been seen since the offer is part of where one is."""
    begin = (State.IDLE, False, False)
    seen, waiting = {begin}, [begin]
    while waiting:
        state, proved, tried = waiting.pop()
        for (before, event), (after, effects) in TRANSITIONS.items():
            if before is not state:
                continue
            assert Effect.TRY not in effects or proved
            assert Effect.COMMIT not in effects or (proved and tried and event is Event.HEALTHY)
            here = (
                after,
                event is not Event.OFFERED and (proved or event in {Event.VERIFIED, Event.CHECKED}),
                event is not Event.OFFERED and (tried or Effect.TRY in effects),
            )
            if here not in seen:
                seen.add(here)
                waiting.append(here)
    assert (State.TRIAL, True, True) in seen
    assert not any(state in {State.STAGED, State.TRIAL} and not proved for state, proved, _ in seen)


GONE = {Event.AGENT_LEFT, Event.AGENT_CRASHED, Event.AGENT_REPLACED, Event.REBOOTED}


@pytest.mark.parametrize("event", [e for s, e in TRANSITIONS if s is State.TRIAL])
def test_a_trial_that_is_given_up_is_taken_back_from_the_agent(event: Event) -> None:
    """Unless the agent that had it is gone: another one begins with what was committed."""
    step = advance(State.TRIAL, event)
    if event is Event.HEALTHY:
        assert step.state is State.IDLE
    elif step.state is not State.TRIAL and event not in GONE:
        assert step.state is State.REVERTING
        assert Effect.REVERT in step.effects


@pytest.mark.parametrize("event", [e for s, e in TRANSITIONS if s is State.REVERTING])
def test_going_back_ends_when_the_agent_is_back_or_gone_or_late(event: Event) -> None:
    ends = {*GONE, Event.REVERTED, Event.FAILED, Event.OVERDUE}
    assert (advance(State.REVERTING, event).state is State.IDLE) is (event in ends)


def op(phase: Phase, **more: object) -> Operation:
    given = {"model": "press", "seq": 1, "phase": phase, "boot": "b", "agent": "i", **more}
    return Operation.model_validate(given)


@pytest.mark.parametrize(
    ("operation", "boot", "expected"),
    [
        (None, "b", Event.REBOOTED),
        (op("fetching", boot=""), "b", Event.REBOOTED),
        (op("trial"), "b", Event.RESUMED),
        (op("trial"), "c", Event.REBOOTED),
        (op("reverting"), "c", Event.REBOOTED),
    ],
)
def test_what_a_start_of_the_updater_means(
    operation: Operation | None, boot: str, expected: Event
) -> None:
    assert at_start(operation, boot=boot) is expected
    advance(state_of(operation), expected)


@pytest.mark.parametrize(
    ("operation", "boot", "instance", "watched", "expected"),
    [
        (None, "b", "i", True, Event.AGENT_READY),
        (op("fetching"), "c", "j", True, Event.AGENT_READY),
        (op("staged", attempts=2), "b", "j", True, Event.AGENT_READY),
        (op("staged", attempts=MAX_ATTEMPTS), "b", "j", True, Event.OUT_OF_ATTEMPTS),
        (op("trial"), "b", "i", True, Event.AGENT_READY),
        (op("trial"), "b", "i", False, Event.AGENT_READY),
        (op("trial"), "b", "j", True, Event.AGENT_CRASHED),
        (op("trial"), "b", "j", False, Event.AGENT_REPLACED),
        (op("trial"), "c", "i", False, Event.REBOOTED),
        (op("reverting"), "b", "j", True, Event.AGENT_CRASHED),
        (op("reverting"), "c", "j", True, Event.REBOOTED),
    ],
)
def test_what_a_report_of_the_agent_means(
    operation: Operation | None,
    boot: str,
    instance: str,
    watched: bool,  # noqa: FBT001 -- a column of the table above
    expected: Event,
) -> None:
    event = of_agent(operation, boot=boot, instance=instance, watched=watched)
    assert event is expected
    advance(state_of(operation), event)


def test_a_device_that_goes_down_in_each_trial_gives_up() -> None:
    table, state, attempts = SlotTable(), State.STAGED, 0
    table = slots.begin(table, op("resolving", boot="", agent=""))
    table = slots.filling(table, bundle="a" * 64, version=1, blocks=None)
    table = slots.whole(slots.moved(table, "verifying"))
    while state is not State.IDLE:
        event = of_agent(table.operation, boot=f"b{attempts}", instance="i", watched=False)
        if event is Event.AGENT_READY:
            attempts += 1
            state = advance(state, event).state
            table = slots.begin_trial(table, boot=f"b{attempts}", agent="i")
            state = advance(state, Event.REBOOTED).state
            table = slots.moved(table, "staged")
        else:
            assert event is Event.OUT_OF_ATTEMPTS
            step = advance(state, event)
            assert Effect.REMEMBER in step.effects
            state = step.state
    assert attempts == MAX_ATTEMPTS


BUNDLE = "a" * 64
BAD = Bad(hash=BUNDLE, version=1, error={"code": "trial.x", "message": "it fails"})


class Update(RuleBasedStateMachine):
    """Events at random, each effect on the table by the function that is named for it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable()
        self.model: str | None = "press"

    @rule(data=st.data(), model=st.sampled_from(["press", None]))
    def happens(self, data: st.DataObject, model: str | None) -> None:
        before = state_of(self.table.operation)
        if before is State.IDLE:
            self.model = model
        # Often what leads on: from idle to a commit it is a long way otherwise.
        ahead = {event for event, _ in MODEL_PATH}
        legal = [event for state, event in TRANSITIONS if state is before]
        event = data.draw(st.sampled_from(legal + 5 * [e for e in legal if e in ahead]))
        if event in {Event.RESOLVED, Event.CHECKED}:
            event = Event.CHECKED if self.model is None else Event.RESOLVED
        step = advance(before, event)
        # In one write: the effects, and where none of them has its own, the state.
        table = self.table
        for effect in step.effects:
            try:
                table = self.on_the_table(table, effect)
            except slots.KnownBadError:  # it was bad before: nothing begins
                self.table = slots.end(self.table)
                return
        if before is State.TRIAL and step.state is State.REVERTING:
            table = slots.revert(table)
        elif step.state not in {State.IDLE, state_of(table.operation)}:
            table = slots.moved(table, step.state.value)
        assert state_of(table.operation) is step.state
        assert slots.problem(table) is None
        self.table = table

    def on_the_table(self, table: SlotTable, effect: Effect) -> SlotTable:
        begun = op("resolving", model=self.model, boot="", agent="")
        if self.model is None:
            begun = begun.model_copy(update={"bundle": BUNDLE})
        steps: dict[Effect, Callable[[], SlotTable]] = {
            Effect.BEGIN: lambda: slots.begin(table, begun),
            Effect.FILL: lambda: slots.filling(table, bundle=BUNDLE, version=1, blocks=None),
            Effect.WHOLE: lambda: slots.whole(table),
            Effect.COUNT: lambda: slots.begin_trial(table, boot="b", agent="i"),
            Effect.UNCOUNT: lambda: slots.uncounted(table),
            # Of a model all is forgotten then, so that the same one may be found bad later.
            Effect.COMMIT: lambda: SlotTable() if self.model else slots.commit(table),
            Effect.REMEMBER: lambda: slots.remember_bad(table, self.model, BAD),
            Effect.END: lambda: slots.end(table),
        }
        assert set(steps) == ON_THE_TABLE
        return steps[effect]() if effect in steps else table


TestUpdate = Update.TestCase
TestUpdate.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
