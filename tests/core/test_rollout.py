"""A roll-out ends, whatever its devices do; and what is bad goes no further than the first wave."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import (
    ASSIGNS,
    DECIDED,
    DEVICE_TRANSITIONS,
    ENDED,
    MEANING,
    NOTE_S,
    SETTLE_S,
    TOUCHED,
    TRANSITIONS,
    Decision,
    DeviceEvent,
    DeviceState,
    Event,
    Health,
    IllegalEventError,
    Progress,
    Sight,
    State,
    Target,
    advance,
    advance_device,
    asked,
    decide,
    joins,
    observe,
    waves_of,
)
from tests.core.rolling import (
    BEGAN,
    NEW,
    OLD,
    WELL,
    Behaviour,
    Device,
    Fleet,
    bad,
    bricked,
    broken,
    dying,
    flapping,
    full,
    good,
    lying,
    raving,
    silent,
)

BEHAVIOURS: tuple[Behaviour, ...] = (
    *(good, good, good, bad, full, silent, bricked, dying, flapping, broken, lying, raving),
)
ACCOUNTED = {
    State.COMPLETED: {
        DeviceState.SUCCEEDED,
        DeviceState.FAILED,
        DeviceState.SILENT,
        DeviceState.WRITTEN_OFF,
        DeviceState.RESTORED,  # written off, and back
        DeviceState.LEFT_OUT,
    },
    State.ABORTED: {DeviceState.RESTORED, DeviceState.WRITTEN_OFF, DeviceState.LEFT_OUT},
}


def plan(**more: object) -> Plan:
    given = {
        "model": "press",
        "version": NEW,
        "soak_s": 20.0,
        "deadline_s": 40.0,
        "quiet_s": 10.0,
        "on_breach": "abort",
    }
    return Plan.model_validate({**given, **more})


def fleet_of(count: int, behave: Behaviour, kind: str = "pi", **more: object) -> Fleet:
    return Fleet.of(plan(**more), {f"d{n}": (kind, behave) for n in range(count)})


# The tables.


@pytest.mark.parametrize(
    ("state", "event"),
    [(s, e) for s in State for e in Event if (s, e) not in TRANSITIONS],
    ids=str,
)
def test_anything_else_is_refused(state: State, event: Event) -> None:
    with pytest.raises(IllegalEventError, match=event.value):
        advance(state, event)


@pytest.mark.parametrize(
    ("state", "event"),
    [(s, e) for s in DeviceState for e in DeviceEvent if (s, e) not in DEVICE_TRANSITIONS],
    ids=str,
)
def test_anything_else_is_refused_for_a_device(state: DeviceState, event: DeviceEvent) -> None:
    with pytest.raises(IllegalEventError, match=event.value):
        advance_device(state, event)


def test_every_word_is_used_and_explained() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {event for _, event in DEVICE_TRANSITIONS} == set(DeviceEvent)
    assert set(MEANING) == {*Event, *DeviceEvent}
    assert {state for state, _ in TRANSITIONS} == set(State) - ENDED
    assert set(ASSIGNS) <= set(DEVICE_TRANSITIONS)


def test_every_state_leads_to_an_end_and_an_end_to_nothing() -> None:
    ends = set(ENDED)
    for _ in State:
        ends |= {before for (before, _), after in TRANSITIONS.items() if after in ends}
    assert ends == set(State)


def test_every_state_can_be_aborted_that_has_not_ended() -> None:
    for state in set(State) - ENDED - {State.TAKING_BACK}:
        assert advance(state, Event.ABORT) is State.TAKING_BACK


def test_a_device_is_moved_from_waiting_alone_and_never_waits_again() -> None:
    rows = DEVICE_TRANSITIONS.items()
    moves = {before for (before, event), _ in rows if event is DeviceEvent.MOVE}
    assert moves == {DeviceState.WAITING}
    assert DeviceState.WAITING not in {after for _, after in rows}


@pytest.mark.parametrize("state", sorted(TOUCHED, key=str))
def test_every_device_that_was_moved_can_be_taken_back_or_has_been(state: DeviceState) -> None:
    back = {DeviceState.TAKEN_BACK, DeviceState.RESTORED, DeviceState.WRITTEN_OFF}
    assert (state, DeviceEvent.TAKE_BACK) in DEVICE_TRANSITIONS or state in back


@pytest.mark.parametrize("row", DEVICE_TRANSITIONS, ids=str)
def test_whoever_gets_a_version_gets_it_by_an_assignment(
    row: tuple[DeviceState, DeviceEvent],
) -> None:
    before, event = row
    new = event is DeviceEvent.MOVE
    old = event is DeviceEvent.TAKE_BACK
    # A device that is waited for no more has its old assignment already, if it was taken back.
    old |= event is DeviceEvent.GIVE_UP and before is not DeviceState.TAKEN_BACK
    assert ASSIGNS.get(row) == ("new" if new else "before" if old else None)


# Waves.


@given(
    sizes=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 60), min_size=1),
    waves=st.sampled_from([("1%", "10%", "100%"), ("3", "100%"), ("20", "5%", "100%"), ("100%",)]),
    canaries=st.integers(0, 3),
)
def test_waves_hold_everybody_once_and_no_more_than_they_should(
    sizes: dict[str, int], waves: tuple[str, ...], canaries: int
) -> None:
    devices = {f"{kind}{n}": kind for kind, size in sizes.items() for n in range(size)}
    asked_for = plan(waves=waves, canaries_per_type=canaries)
    found = waves_of(asked_for, devices, salt="7")
    assert set(found) == set(devices)
    needed = sum(canaries for size in sizes.values() if size > canaries)
    allowed = needed
    for wave in range(len(waves)):
        reached = sum(each <= wave for each in found.values())
        allowed = max(allowed, asked_for.reach(wave, len(devices)))
        assert reached <= allowed
    for kind, size in sizes.items():
        first = sum(found[device] == 0 for device in devices if devices[device] == kind)
        assert first >= (canaries if size > canaries else 0)


def test_every_type_has_its_share_of_every_wave() -> None:
    devices = {f"a{n}": "a" for n in range(900)} | {f"b{n}": "b" for n in range(100)}
    found = waves_of(plan(waves=("10%", "50%", "100%")), devices, salt="1")
    for wave, share in enumerate((0.1, 0.4, 0.5)):
        of_b = sum(found[device] == wave for device in devices if devices[device] == "b")
        assert abs(of_b - 100 * share) <= 2


def test_it_is_not_always_the_same_devices_that_go_first() -> None:
    devices = {f"d{n}": "a" for n in range(100)}
    firsts = [
        {d for d, wave in waves_of(plan(), devices, salt=salt).items() if wave == 0}
        for salt in "0123456789"
    ]
    assert len(set.union(*firsts)) > 5
    assert waves_of(plan(), devices, salt="1") == waves_of(plan(), devices, salt="1")


def test_a_fleet_of_types_of_one_device_each_has_no_canaries() -> None:
    """Who says what type a device is is the device."""
    devices = {f"d{n}": f"made-up-{n}" for n in range(1000)}
    found = waves_of(plan(), devices, salt="1")
    assert sum(wave == 0 for wave in found.values()) == 10


# What a roll-out does by itself.


def test_a_good_model_reaches_everybody_wave_by_wave() -> None:
    fleet = fleet_of(200, good)
    fleet.run()
    assert fleet.at() is State.COMPLETED
    assert fleet.states() == {DeviceState.SUCCEEDED: 200}
    one = [Event.WAVE_DECIDED, Event.SOAKED]
    assert fleet.events == [*one, *one, Event.WAVE_DECIDED, Event.ALL_SOAKED]


@pytest.mark.parametrize("behave", [bad, bricked, silent, broken, dying, full])
def test_a_bad_model_stops_itself_in_the_first_wave(behave: Behaviour) -> None:
    fleet = fleet_of(200, behave, soak_s=60.0)
    fleet.run()
    assert fleet.at() is State.ABORTED
    assert fleet.touched() == 2
    assert fleet.states()[DeviceState.LEFT_OUT] == 198


@given(
    count=st.integers(1, 150),
    behave=st.sampled_from([bad, bricked, silent, full]),
    kinds=st.integers(1, 3),
    canaries=st.integers(0, 2),
    steps=st.lists(st.sampled_from([1.0, 7.0, 45.0, -3.0, -500.0, 3600.0]), max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_clock_does_a_bad_model_stays_in_the_first_wave(
    count: int, behave: Behaviour, kinds: int, canaries: int, steps: list[float]
) -> None:
    of = {f"d{n}": (f"t{n % kinds}", behave) for n in range(count)}
    fleet = Fleet.of(plan(canaries_per_type=canaries), of)
    first = sum(target.wave == 0 for target in fleet.targets.values())
    for step in steps:
        fleet.tick(step)
    fleet.run()
    assert fleet.at() is State.ABORTED
    assert fleet.touched() <= first


@pytest.mark.parametrize(
    "after",
    [Health(1000, 0, 20, 5.0), Health(1000, 100, 10, 5.0), Health(1000, 0, 10, 11.0)],
    ids=["alarms", "errors", "latency"],
)
def test_a_model_that_answers_worse_stops_itself_in_the_first_wave(after: Health) -> None:
    fleet = fleet_of(2000, good)
    fleet.after = after
    fleet.run()
    assert fleet.at() is State.ABORTED
    assert fleet.touched() == 20


def test_a_breach_is_decided_with_the_evidence_for_it() -> None:
    fleet = fleet_of(200, bad)
    while fleet.at() is not State.TAKING_BACK:
        decision = fleet.tick()
        failed = fleet.states()[DeviceState.FAILED]
        assert not failed or decision.event is Event.BREACHED


def test_silence_is_a_breach_in_the_decision_that_finds_it() -> None:
    fleet = fleet_of(10, silent)
    fleet.tick()
    decision = fleet.tick(40.0)
    assert decision.event is Event.BREACHED
    assert [change.event for change in decision.changes] == [DeviceEvent.DEADLINE]
    assert fleet.progress.reason == "1 of 1 devices silent; 20% are allowed"


def test_a_device_that_accepted_it_and_was_never_heard_again_has_failed() -> None:
    fleet = fleet_of(1, bricked)
    fleet.run()
    assert "failed" in fleet.progress.reason


def test_a_few_that_fail_and_are_silent_do_not_stop_it() -> None:
    of: dict[str, tuple[str, Behaviour]] = {f"d{n}": ("pi", good) for n in range(100)}
    fleet = Fleet.of(plan(waves=("40%", "100%"), late="write_off"), of)
    first = [name for name, target in fleet.targets.items() if target.wave == 0]
    fleet.devices[first[0]].behave = bad
    for name in first[1:4]:
        fleet.devices[name].behave = silent
    fleet.run()
    assert fleet.at() is State.COMPLETED
    assert fleet.states() == {DeviceState.SUCCEEDED: 96, DeviceState.WRITTEN_OFF: 4}
    assert fleet.devices[first[1]].given[0] == OLD


def test_a_device_is_caught_up_after_the_end() -> None:
    of: dict[str, tuple[str, Behaviour]] = {f"d{n}": ("pi", good) for n in range(10)}
    of["d3"] = ("pi", silent)
    limits = {"silent": "100%", "failed": "100%"}
    fleet = Fleet.of(plan(waves=("100%",), limits=limits), of)
    fleet.run()
    assert fleet.state_of("d3") is DeviceState.SILENT
    fleet.devices["d3"].behave = good
    fleet.tick()
    fleet.tick()
    assert fleet.state_of("d3") is DeviceState.SUCCEEDED
    assert fleet.at() is State.COMPLETED


def test_a_device_that_goes_on_trying_is_no_failure_until_its_deadline() -> None:
    fleet = fleet_of(5, full, waves=("100%",))
    for _ in range(39):
        fleet.tick()
    assert fleet.states() == {DeviceState.MOVED: 5}
    fleet.tick()
    fleet.tick()
    assert fleet.states() == {DeviceState.FAILED: 5}


def test_devices_that_were_moved_are_given_back_what_they_ran() -> None:
    fleet = fleet_of(10, broken, waves=("100%",))
    fleet.run()
    assert fleet.at() is State.ABORTED
    assert fleet.states() == {DeviceState.RESTORED: 10}
    assert {device.said.committed for device in fleet.devices.values()} == {OLD}


def test_a_device_that_cannot_be_taken_back_is_given_up_and_may_come_later() -> None:
    fleet = fleet_of(2, good, waves=("100%",))
    fleet.tick()
    fleet.tick()
    fleet.ask(Event.ABORT)
    fleet.tick()
    fleet.devices["d0"].behave = silent
    fleet.run()
    assert fleet.at() is State.ABORTED
    assert fleet.progress.reason == "aborted by ann"
    assert fleet.state_of("d0") is DeviceState.WRITTEN_OFF
    assert fleet.state_of("d1") is DeviceState.RESTORED
    fleet.devices["d0"].behave = good
    fleet.tick()
    fleet.tick()
    assert fleet.state_of("d0") is DeviceState.RESTORED


def test_nobody_is_moved_outside_of_the_hours() -> None:
    fleet = fleet_of(3, good, waves=("100%",), hours=("22:00-04:00",))
    fleet.minute = 12 * 60
    for _ in range(100):
        fleet.tick()
    assert fleet.states() == {DeviceState.WAITING: 3}
    fleet.minute = 23 * 60
    fleet.run()
    assert fleet.at() is State.COMPLETED


# Pauses.


def test_a_pause_with_everything_decided_goes_on_where_it_was() -> None:
    fleet = fleet_of(100, good)
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    fleet.ask(Event.PAUSE)
    for _ in range(100):
        fleet.tick()
    assert fleet.at() is State.PAUSED
    assert fleet.touched() == 1
    fleet.ask(Event.RESUME)
    resumed = fleet.now
    while fleet.touched() == 1:
        fleet.tick()
    assert fleet.now >= resumed + fleet.plan.soak_s
    fleet.run()
    assert fleet.at() is State.COMPLETED


@pytest.mark.parametrize("on_breach", ["abort", "pause"])
def test_what_runs_the_new_version_is_judged_in_a_pause_as_well(on_breach: str) -> None:
    fleet = fleet_of(10, broken, waves=("50%", "100%"), on_breach=on_breach)
    for _ in range(4):
        fleet.tick()
    fleet.ask(Event.PAUSE)
    for _ in range(20):
        fleet.tick()
    assert "failed" in fleet.progress.reason
    expected = State.PAUSED if on_breach == "pause" else State.ABORTED
    assert fleet.at() is expected
    assert fleet.events.count(Event.HELD) == (on_breach == "pause")


def test_an_operator_may_accept_what_has_stopped_it() -> None:
    of: dict[str, tuple[str, Behaviour]] = {f"d{n}": ("pi", good) for n in range(100)}
    fleet = Fleet.of(plan(waves=("5%", "50%", "100%"), on_breach="pause"), of)
    first = [name for name, target in fleet.targets.items() if target.wave == 0]
    fleet.devices[first[0]].behave = bad
    fleet.run()
    assert fleet.at() is State.PAUSED
    assert fleet.progress.reason == "1 of 5 devices failed; 5% are allowed"
    fleet.ask(Event.RESUME)
    fleet.run()
    assert fleet.at() is State.COMPLETED
    assert fleet.states() == {DeviceState.SUCCEEDED: 99, DeviceState.FAILED: 1}


def test_what_comes_after_that_is_judged_anew() -> None:
    fleet = fleet_of(100, bad, waves=("5%", "50%", "100%"), on_breach="pause")
    fleet.run()
    assert fleet.touched() == 5
    fleet.ask(Event.RESUME)
    fleet.run()
    assert fleet.at() is State.PAUSED
    assert fleet.touched() == 6  # the type is not proven: one more may try
    assert fleet.progress.reason == "1 of 1 devices failed; 5% are allowed"


def test_a_pause_of_an_operators_own_accepts_nothing() -> None:
    fleet = fleet_of(100, good, on_breach="pause")
    for _ in range(4):
        fleet.tick()
    fleet.ask(Event.PAUSE)
    fleet.ask(Event.RESUME)
    assert fleet.progress.accepted_at == 0.0


def test_what_cannot_be_asked_for_is_refused() -> None:
    ended = Progress(State.COMPLETED)
    for event in (Event.PAUSE, Event.RESUME, Event.ABORT):
        with pytest.raises(IllegalEventError):
            asked(ended, event, now=0.0, by="ann")


# Types, and devices that come later.


def test_a_type_is_not_moved_until_one_of_it_has_succeeded() -> None:
    of: dict[str, tuple[str, Behaviour]] = {f"d{n}": ("pi", good) for n in range(100)}
    of |= {f"npu{n}": ("npu", bad) for n in range(10)}
    limits = {"failed": "50%"}
    fleet = Fleet.of(plan(limits=limits), of)
    fleet.run()
    assert fleet.at() is State.ABORTED
    reason = "devices of type npu: none of 1 has succeeded, and more are to follow"
    assert fleet.progress.reason == reason
    assert fleet.touched() == 2


def test_a_type_that_comes_later_is_proven_before_its_crowd() -> None:
    limits = {"failed": "100%"}
    fleet = fleet_of(20, good, targets="live", limits=limits)
    fleet.tick()
    for n in range(10):
        assert fleet.join(f"npu{n}", "npu", bad)
    fleet.run()
    assert fleet.at() is State.ABORTED
    assert sum(fleet.moves[f"npu{n}"] for n in range(10)) == 1


def test_a_canary_that_the_fleet_no_longer_has_leaves_its_part_to_another() -> None:
    fleet = fleet_of(20, good, waves=("1", "100%"))
    [canary] = [name for name, target in fleet.targets.items() if target.wave == 0]
    left = replace(fleet.targets[canary], state=DeviceState.LEFT_OUT)
    fleet.targets[canary] = left
    while not fleet.touched():
        fleet.tick()
    assert fleet.touched() == 1
    fleet.run()
    assert fleet.states() == {DeviceState.LEFT_OUT: 1, DeviceState.SUCCEEDED: 19}


def test_devices_that_match_later_join_the_last_wave() -> None:
    fleet = fleet_of(20, good, targets="live")
    fleet.tick()
    assert fleet.join("late", "pi", good)
    assert fleet.targets["late"].wave == 2
    fleet.run()
    assert fleet.state_of("late") is DeviceState.SUCCEEDED


def test_however_many_join_it_ends() -> None:
    fleet = fleet_of(3, good, waves=("100%",), targets="live")
    for n in range(1000):
        fleet.join(f"j{n}", "pi", good)
        fleet.tick()
        if fleet.at() in ENDED:
            break
    assert fleet.at() is State.COMPLETED
    assert set(fleet.states()) <= {DeviceState.SUCCEEDED, DeviceState.LEFT_OUT}
    assert fleet.states()[DeviceState.SUCCEEDED] > 30


@pytest.mark.parametrize("state", [State.TAKING_BACK, *sorted(ENDED, key=str)])
def test_nobody_joins_what_goes_on_no_more(state: State) -> None:
    assert joins(plan(targets="live"), Progress(state), now=0.0) is None
    assert joins(plan(), Progress(), now=0.0) is None


def test_waves_that_nobody_is_in_are_passed_over() -> None:
    fleet = fleet_of(3, good, waves=("1", "1%", "2%", "100%"))
    fleet.run()
    assert fleet.events.count(Event.SOAKED) == 1
    assert fleet.states() == {DeviceState.SUCCEEDED: 3}


# Silence that is ours.


def test_what_happened_while_nobody_listened_is_nobodys_silence() -> None:
    fleet = fleet_of(10, good, waves=("50%", "100%"), soak_s=60.0)
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    for device in fleet.devices.values():
        device.behave = silent
    fleet.now += 500.0  # the laptop slept
    fleet.listening = fleet.now
    fleet.tick(9.0)
    assert DeviceState.SILENT not in fleet.states()
    fleet.tick(1.0)
    assert fleet.at() is State.TAKING_BACK


def out(fleet: Fleet, seconds: float) -> Decision:
    """Let time pass in which nothing that devices say comes in."""
    behaved = {name: device.behave for name, device in fleet.devices.items()}
    for device in fleet.devices.values():
        device.behave = silent
    fleet.listening = fleet.now + seconds
    decision = fleet.tick(seconds)
    for name, behave in behaved.items():
        fleet.devices[name].behave = behave
    return decision


def test_time_in_which_nobody_listened_is_no_soak() -> None:
    fleet = fleet_of(10, good, waves=("50%", "100%"), quiet_s=1e4)
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    for _ in range(10):
        out(fleet, fleet.plan.soak_s)
    back = fleet.now
    while fleet.at() is State.SOAKING:
        fleet.tick()
    settling = min(SETTLE_S, fleet.plan.soak_s)
    assert fleet.now == back + settling + fleet.plan.soak_s
    assert fleet.events == [Event.WAVE_DECIDED, Event.SOAKED]


def test_a_service_that_was_away_longer_than_the_soak_lets_it_soak() -> None:
    fleet = fleet_of(10, good, waves=("50%", "100%"), quiet_s=1e4)
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    fleet.now += 5 * fleet.plan.soak_s
    fleet.listening = fleet.now
    fleet.tick(fleet.plan.soak_s)
    assert fleet.at() is State.SOAKING


def test_a_soak_longer_than_the_service_stays_up_ends() -> None:
    fleet = fleet_of(10, good, waves=("50%", "100%"), soak_s=3600.0, quiet_s=1e6)
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    heard_s = 0.0
    while fleet.events[-1] is not Event.SOAKED:
        if heard_s % 600.0 == 0.0:  # ten minutes at a time
            out(fleet, 100.0)
        fleet.tick(10.0)
        heard_s += 10.0
        assert heard_s < 2 * 3600.0
    breaks = heard_s // 600.0 + 1
    assert 3600.0 <= heard_s <= 3600.0 + breaks * (SETTLE_S + NOTE_S)


def test_what_one_wave_has_soaked_is_not_the_next_ones() -> None:
    fleet = fleet_of(10, good, waves=("50%", "100%"), soak_s=300.0, quiet_s=1e6)
    soaks: list[tuple[float, float]] = []
    for _ in range(100):
        before = fleet.at()
        fleet.tick(10.0)
        if fleet.at() is State.SOAKING is not before:
            began = fleet.now
        if before is State.SOAKING is not fleet.at():
            soaks.append((began, fleet.now))
    assert [end - began for began, end in soaks] == [300.0, 300.0]


def test_nobody_is_moved_while_nobody_listens() -> None:
    fleet = fleet_of(10, good, waves=("50%", "100%"), soak_s=0.0, quiet_s=1e4)
    for _ in range(3):
        assert not out(fleet, 5.0).changes
    fleet.tick()
    assert fleet.touched()
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    assert out(fleet, 5.0).event is None
    fleet.run()
    assert fleet.at() is State.COMPLETED


@given(
    soak_s=st.sampled_from([0.0, 5.0, 20.0, 50.0]),
    deadline_s=st.sampled_from([1.0, 40.0, 1e4]),
    times=st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.5, 1.0, 5.0, 20.0, 60.0, 1000.0])), max_size=80
    ),
)
@settings(max_examples=80, deadline=None)
def test_whatever_the_outages_no_wave_begins_that_nobody_listened_before(
    soak_s: float, deadline_s: float, times: list[tuple[bool, float]]
) -> None:
    shares = {"failed": "100%", "silent": "100%"}
    fleet = fleet_of(9, good, waves=("1", "3", "100%"), soak_s=soak_s, quiet_s=1e6, limits=shares)
    more = {"deadline_s": deadline_s, "canaries_per_type": 0}
    fleet.plan = fleet.plan.model_copy(update=more)
    listened = 0.0  # since a wave was decided
    for hears, seconds in [*times, *[(True, 1.0)] * 600]:
        decision = fleet.tick(seconds) if hears else out(fleet, seconds)
        listened += seconds if hears else 0.0
        if decision.event in {Event.SOAKED, Event.ALL_SOAKED}:
            assert hears
            assert listened >= soak_s
        if decision.event is Event.WAVE_DECIDED:
            listened = 0.0
        if any(change.event is DeviceEvent.MOVE for change in decision.changes):
            assert hears
        if fleet.at() in ENDED:
            break
    assert fleet.at() is State.COMPLETED


def test_after_a_start_what_is_retained_may_come_first() -> None:
    fleet = fleet_of(10, silent, waves=("100%",))
    fleet.tick()
    fleet.now += 500.0
    fleet.listening = fleet.now
    fleet.tick(SETTLE_S - 1.0)
    assert fleet.states() == {DeviceState.MOVED: 10}
    fleet.tick(1.0)
    assert fleet.at() is State.TAKING_BACK


def test_a_device_that_fell_silent_and_speaks_again_has_succeeded_again() -> None:
    fleet = fleet_of(10, good, waves=("100%",), soak_s=1000.0, limits={"silent": "50%"})
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    fleet.devices["d1"].behave = silent
    for _ in range(12):
        fleet.tick()
    assert fleet.state_of("d1") is DeviceState.SILENT
    for _ in range(5):  # what it said before does not count
        fleet.tick()
    assert fleet.state_of("d1") is DeviceState.SILENT
    fleet.devices["d1"].behave = good
    fleet.tick()
    assert fleet.state_of("d1") is DeviceState.SUCCEEDED


# One device's reports.

MOVED = Target("d", "pi", 0, DeviceState.MOVED, since=100.0, seq=5, previous=OLD)
DONE = Sight(seq=5, committed=NEW, serving=NEW, heard_at=200.0)
KEPT = replace(DONE, committed=OLD, serving=OLD)
S, V = DeviceState, DeviceEvent


@pytest.mark.parametrize(
    ("state", "sight", "event"),
    [
        (S.WAITING, DONE, None),
        (S.MOVED, DONE, V.COMMITTED),
        (S.MOVED, replace(DONE, seq=4), None),
        (S.MOVED, replace(DONE, idle=False), None),
        (S.MOVED, replace(DONE, serving=None), None),
        (S.MOVED, replace(DONE, serving=OLD), None),
        (S.MOVED, replace(DONE, serving=None, broken="x.y"), V.REFUSED),
        (S.MOVED, KEPT, None),
        (S.MOVED, replace(KEPT, error="x.y"), V.REFUSED),
        (S.MOVED, replace(KEPT, error="x.y", seq=4), None),
        (S.MOVED, replace(KEPT, error="x.y", passing=True), None),
        (S.SUCCEEDED, DONE, None),
        (S.SUCCEEDED, KEPT, V.REFUSED),
        (S.SUCCEEDED, replace(DONE, broken="x.y"), V.REFUSED),
        (S.FAILED, DONE, V.COMMITTED),
        (S.FAILED, replace(KEPT, error="x.y"), None),
        (S.SILENT, DONE, V.COMMITTED),
        (S.SILENT, replace(DONE, heard_at=100.0), None),
        (S.SILENT, replace(KEPT, error="x.y"), V.REFUSED),
        (S.TAKEN_BACK, DONE, None),
        (S.TAKEN_BACK, KEPT, V.BACK),
        (S.TAKEN_BACK, replace(KEPT, seq=4), None),
        (S.WRITTEN_OFF, KEPT, V.BACK),
        (S.RESTORED, DONE, None),
        (S.LEFT_OUT, DONE, None),
    ],
)
def test_what_a_report_means(state: DeviceState, sight: Sight, event: DeviceEvent | None) -> None:
    change = observe(plan(), replace(MOVED, state=state), sight)
    assert (change.event if change else None) is event
    if change and change.event is V.REFUSED:
        assert change.reason


def test_a_device_that_never_had_the_model_is_back_when_it_is_assigned_no_more() -> None:
    target = replace(MOVED, state=S.TAKEN_BACK, previous=None)
    change = observe(plan(), target, DONE)
    assert change is not None
    assert change.event is V.BACK


# Anything, in any order.

ACTIONS = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([0.0, 1.0, 1.0, 1.0, 5.0, 15.0, 45.0])),
    st.tuples(st.just("clock"), st.sampled_from([-1000.0, -30.0, -1.0, 30.0, 1000.0])),
    st.tuples(st.just("minute"), st.sampled_from([0, 720])),
    st.tuples(st.just("ask"), st.sampled_from([Event.PAUSE, Event.RESUME, Event.ABORT])),
    st.tuples(st.just("behave"), st.sampled_from(BEHAVIOURS)),
    st.tuples(st.just("join"), st.sampled_from(BEHAVIOURS)),
    st.tuples(st.just("forget"), st.integers(0, 40)),
    st.tuples(st.just("listen"), st.just(None)),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return plan(
        waves=draw(st.sampled_from([("1%", "10%", "100%"), ("3", "50%", "100%"), ("100%",)])),
        canaries_per_type=draw(st.integers(0, 2)),
        soak_s=draw(st.sampled_from([0.0, 10.0])),
        deadline_s=draw(st.sampled_from([1.0, 20.0])),
        quiet_s=draw(st.sampled_from([2.0, 1000.0])),
        targets=draw(st.sampled_from(["frozen", "live"])),
        on_breach=draw(st.sampled_from(["abort", "pause"])),
        late=draw(st.sampled_from(["catch_up", "write_off"])),
        hours=draw(st.sampled_from([(), ("22:00-02:00",)])),
        limits=draw(st.sampled_from([{}, {"failed": "100%", "silent": "100%"}, {"failed": "0%"}])),
    )


def act(fleet: Fleet, what: str, how: object, data: st.DataObject) -> None:
    names = sorted(fleet.devices)
    match what, how:
        case "tick", float(seconds):
            fleet.tick(seconds)
        case "clock", float(seconds):
            fleet.now += seconds
        case "minute", int(minute):
            fleet.minute = minute
        case "ask", Event() as event:
            fleet.ask(event)
        case "behave", behave:
            fleet.devices[data.draw(st.sampled_from(names))].behave = behave  # type: ignore[assignment]
        case "join", behave:
            fleet.join(f"j{len(names)}", data.draw(st.sampled_from("abz")), behave)  # type: ignore[arg-type]
        case "forget", int(number):
            target = fleet.targets[names[number % len(names)]]
            if target.state is DeviceState.WAITING:
                fleet.targets[target.device] = replace(target, state=DeviceState.LEFT_OUT)
        case _:
            fleet.listening = fleet.now


@given(
    asked_for=plans(),
    devices=st.lists(
        st.tuples(st.sampled_from("aab"), st.sampled_from(BEHAVIOURS)), min_size=1, max_size=30
    ),
    actions=st.lists(ACTIONS, max_size=60),
    impatient=st.booleans(),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_roll_out_ends_with_every_device_accounted_for(
    asked_for: Plan,
    devices: list[tuple[str, Behaviour]],
    actions: list[tuple[str, object]],
    impatient: bool,  # noqa: FBT001 -- drawn
    data: st.DataObject,
) -> None:
    fleet = Fleet.of(asked_for, {f"d{n}": each for n, each in enumerate(devices)})
    for what, how in actions:
        act(fleet, what, how, data)
    # From here on the clock is right, and an operator does not leave it in a pause.
    fleet.minute, fleet.listening = 0, min(fleet.listening, fleet.now)
    resumes = 0 if impatient else 10
    for _ in range(600):
        if fleet.at() is State.PAUSED:
            # A device that fails again and again stops it again and again.
            fleet.ask(Event.RESUME if resumes else Event.ABORT)
            resumes -= 1 if resumes else 0
        fleet.tick()
        if fleet.at() in ENDED:
            break
    assert fleet.at() in ENDED
    assert set(fleet.states()) <= ACCOUNTED[fleet.at()]
    assert fleet.decided() == Decision(fleet.progress)
    assert fleet.states().total() == len(fleet.devices)


@given(state=st.sampled_from(State), device=st.sampled_from(DeviceState), wave=st.integers(0, 2))
def test_a_decision_is_the_same_again_where_nothing_happens(
    state: State, device: DeviceState, wave: int
) -> None:
    target = Target("d", "pi", wave, device, since=BEGAN, seq=3, before=WELL, after=WELL)
    progress = Progress(state, 0, BEGAN)
    first = decide(plan(), progress, [target], now=BEGAN, minute=0)
    assert first == decide(plan(), progress, [target], now=BEGAN, minute=0)
    if device in DECIDED and state is State.SOAKING and not first.event:
        assert first == Decision(progress)


def test_a_clock_that_was_put_back_lets_the_wave_soak_anew() -> None:
    fleet = fleet_of(1, good, waves=("100%",))
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    fleet.now -= 100_000.0
    fleet.tick()
    assert fleet.progress.since == fleet.now
    fleet.run()
    assert fleet.at() is State.COMPLETED


def test_a_clock_that_was_put_back_lets_no_device_be_waited_for_for_ever() -> None:
    fleet = fleet_of(3, silent, waves=("100%",))
    fleet.tick()
    fleet.now -= fleet.plan.deadline_s
    fleet.tick()
    assert fleet.states() == {DeviceState.MOVED: 3}
    fleet.now -= fleet.plan.deadline_s
    fleet.run(ticks=100)
    assert fleet.at() is State.ABORTED


def test_who_joins_against_the_rule_is_left_out_and_not_forgotten() -> None:
    fleet = fleet_of(3, good, waves=("100%",))
    while fleet.at() is not State.SOAKING:
        fleet.tick()
    fleet.devices["late"] = Device("late", "pi", good)
    fleet.targets["late"] = fleet.target("late", 0)
    fleet.run()
    assert fleet.at() is State.COMPLETED
    assert fleet.state_of("late") is DeviceState.LEFT_OUT
