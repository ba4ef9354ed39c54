"""Roll-outs pass, stop themselves, and are paused, resumed, aborted: over a real broker."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from edgeslm.contract.fleet import Assignment
from edgeslm.core.rollout import DeviceState, State
from edgeslm.fleet.database import audit, registry, rollouts
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.service import conductor as conductor_module
from edgeslm.fleet.service.starting import ask
from tests.fleet.service import kit
from tests.fleet.service.conftest import Play, Serve

pytestmark = pytest.mark.broker
WE = audit.Actor("test", "cli")


def names(count: int) -> list[str]:
    return [f"dev-{number:03}" for number in range(count)]


def test_a_rollout_moves_every_device_once(
    serve: Serve, play: Play, repository: Repository
) -> None:
    running, devices = serve(), play(names(20))
    kit.registered(running.engine, 20)
    number = kit.start(running.engine, repository, kit.plan())
    assert kit.ended(running.engine, number) is State.COMPLETED
    assert kit.counted(running.engine, number) == {DeviceState.SUCCEEDED: 20}
    assert all(devices.seqs(name) == [1] for name in names(20))
    assert all(each.committed == 2 for each in devices.devices.values())
    with reading(running.engine) as conn:
        log = [each.what for _, each in rollouts.log(conn, number)]
        done = [each.what for each in audit.entries(conn)]
    assert log[0] == "wave 1 of 2: 2 moved"
    assert log[-1] == "completed"
    assert "rollout.completed" in done


@pytest.mark.parametrize("how", ["golden", "slow", "alarms"])
def test_a_bad_model_is_stopped_in_the_first_wave_and_taken_back(
    serve: Serve, play: Play, repository: Repository, how: str
) -> None:
    def behave(_name: str, assignment: Assignment) -> str:
        wanted = assignment.models[kit.MODEL]
        return "trial.golden" if how == "golden" and wanted.version == 2 else "good"

    running, devices = serve(), play(names(100), behave)
    kit.registered(running.engine, 100)
    wanted = kit.plan(waves=["3%", "10%", "100%"], soak_s=3600)
    number = kit.start(running.engine, repository, wanted)
    moved_at = time.monotonic()
    if how != "golden":
        kit.wait_for(
            lambda: kit.counted(running.engine, number).get(DeviceState.SUCCEEDED) == 3, "a wave"
        )
        for device in devices.devices.values():
            if device.committed == 2:
                device.answered += 1000
                device.p99_ms = 90.0 if how == "slow" else device.p99_ms
                device.alarms += 100 if how == "alarms" else 10
        devices.say()
        moved_at = time.monotonic()
    took_back = {State.TAKING_BACK, State.ABORTED}
    kit.wait_for(lambda: kit.state_of(running.engine, number) in took_back, "the abort")
    assert time.monotonic() - moved_at < 5.0
    assert kit.ended(running.engine, number) is State.ABORTED
    counted = kit.counted(running.engine, number)
    assert counted == {DeviceState.RESTORED: 3, DeviceState.LEFT_OUT: 97}
    assert sum(bool(found) for found in devices.assigned.values()) == 3  # exposed, no other
    assert all(each.committed == 1 for each in devices.devices.values())
    with reading(running.engine) as conn:
        reason = rollouts.rollout(conn, number).progress.reason
    word = {"golden": "failed", "slow": "p99", "alarms": "alarms"}[how]
    assert word in reason


def test_silent_devices_are_failures_and_are_caught_up_when_they_are_heard(
    serve: Serve, play: Play, repository: Repository
) -> None:
    deaf = set(names(20)[:2])
    running = serve()
    devices = play(names(20), lambda name, _assignment: "deaf" if name in deaf else "good")
    kit.registered(running.engine, 20)
    wanted = kit.plan(waves=["100%"], deadline_s=2, canaries_per_type=0)
    number = kit.start(running.engine, repository, wanted)
    assert kit.ended(running.engine, number) is State.COMPLETED
    assert kit.counted(running.engine, number) == {
        DeviceState.SUCCEEDED: 18,
        DeviceState.SILENT: 2,
    }
    for name in deaf:
        device = devices.devices[name]
        device.seq, device.committed, device.serving = 1, 2, 2
    devices.say(*deaf)
    kit.wait_for(
        lambda: kit.counted(running.engine, number) == {DeviceState.SUCCEEDED: 20}, "late ones"
    )
    assert all(devices.seqs(name) == [1] for name in names(20))


def test_too_many_silent_devices_stop_it(
    serve_quick: Serve, play: Play, repository: Repository
) -> None:
    running, devices = serve_quick(), play(names(10), lambda *_: "deaf")
    kit.registered(running.engine, 10)
    wanted = kit.plan(waves=["100%"], deadline_s=1, canaries_per_type=0)
    number = kit.start(running.engine, repository, wanted)
    assert kit.ended(running.engine, number) is State.ABORTED
    assert kit.counted(running.engine, number) == {DeviceState.WRITTEN_OFF: 10}
    # Each has an assignment of what it ran before, for when it is heard again.
    kit.wait_for(lambda: all(devices.seqs(name) == [1, 2] for name in names(10)), "assignments")
    last = kit.opened(devices.assigned[names(10)[0]][-1])
    assert last.models[kit.MODEL].version == 1


def test_flapping_devices_are_all_accounted_for(
    serve_quick: Serve, play: Play, repository: Repository
) -> None:
    seen: Counter[str] = Counter()

    def behave(name: str, _assignment: Assignment) -> str:
        seen[name] += 1
        return "deaf" if name in names(6) else "good"

    running, devices = serve_quick(), play(names(30), behave)
    kit.registered(running.engine, 30)
    number = kit.start(running.engine, repository, kit.plan(deadline_s=10))
    for turn in range(20):
        for name in names(6):
            device = devices.devices[name]
            device.online = bool(turn % 2)
            if turn > 15 and devices.assigned[name]:
                device.seq, device.committed, device.serving = 1, 2, 2
        devices.say(*names(6))
        time.sleep(0.1)
    assert kit.ended(running.engine, number) is State.COMPLETED
    assert kit.counted(running.engine, number) == {DeviceState.SUCCEEDED: 30}
    assert all(devices.seqs(name) == [1] for name in names(30))


def test_a_person_pauses_resumes_and_aborts(
    serve: Serve, play: Play, repository: Repository
) -> None:
    running, devices = serve(), play(names(10))
    engine = running.engine
    kit.registered(engine, 10)
    number = kit.start(engine, repository, kit.plan(waves=["2", "100%"], soak_s=3600))
    kit.wait_for(lambda: kit.state_of(engine, number) is State.SOAKING, "the soak")
    for what, state in (("pause", State.PAUSED), ("resume", State.SOAKING)):
        ask(engine, number, what, WE, now=time.time())  # type: ignore[arg-type] # of a table
        kit.wait_for(lambda state=state: kit.state_of(engine, number) is state, what)  # type: ignore[misc]
    assert sum(bool(found) for found in devices.assigned.values()) == 2
    ask(engine, number, "abort", WE, now=time.time())
    assert kit.ended(engine, number) is State.ABORTED
    assert kit.counted(engine, number) == {DeviceState.RESTORED: 2, DeviceState.LEFT_OUT: 8}
    with reading(engine) as conn:
        stored = rollouts.rollout(conn, number)
        log = [each.what for _, each in rollouts.log(conn, number)]
    assert stored.progress.reason == "aborted by test"
    assert "paused by test" in log
    assert "resumed by test: wave 1 of 2 goes on, and soaks anew" in log
    assert "taking_back: aborted by test" in log
    assert stored.asked is None


def test_an_order_that_comes_too_late_is_forgotten(
    serve_quick: Serve, play: Play, repository: Repository
) -> None:
    running = serve_quick()
    play(names(4))
    kit.registered(running.engine, 4)
    number = kit.start(running.engine, repository, kit.plan(soak_s=3600))
    ask(running.engine, number, "resume", WE, now=time.time())  # nobody has paused it

    def done() -> bool:
        with reading(running.engine) as conn:
            return rollouts.rollout(conn, number).asked is None

    kit.wait_for(done, "the order")
    assert kit.state_of(running.engine, number) in {State.MOVING, State.SOAKING}


@pytest.mark.slow
def test_devices_that_match_later_join_a_live_rollout(
    serve_quick: Serve, play: Play, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor_module, "JOIN_S", 0.2)
    running = serve_quick()
    play(names(4))
    kit.registered(running.engine, 4)
    wanted = kit.plan(waves=["50%", "100%"], soak_s=4, targets="live")
    number = kit.start(running.engine, repository, wanted)
    later = play(["later-1", "later-2"], client="later")
    assert kit.ended(running.engine, number) is State.COMPLETED
    assert kit.counted(running.engine, number) == {DeviceState.SUCCEEDED: 6}
    assert later.seqs("later-1") == [1]


def test_outside_its_hours_nothing_is_moved(
    serve_quick: Serve, play: Play, repository: Repository
) -> None:
    running, devices = serve_quick(), play(names(4))
    kit.registered(running.engine, 4)
    hour = (time.gmtime().tm_hour + 12) % 24
    wanted = kit.plan(hours=[f"{hour:02}:00-{hour:02}:30"])
    number = kit.start(running.engine, repository, wanted)
    time.sleep(2)
    assert kit.counted(running.engine, number) == {DeviceState.WAITING: 4}
    assert not any(devices.assigned.values())


def test_a_device_that_was_forgotten_is_left_out(
    serve_quick: Serve, play: Play, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor_module, "LOOK_S", 0.2)
    running = serve_quick()
    play(names(4))
    kit.registered(running.engine, 4)
    number = kit.start(running.engine, repository, kit.plan(waves=["1", "100%"], soak_s=3600))
    kit.wait_for(lambda: kit.state_of(running.engine, number) is State.SOAKING, "the soak")
    targets = kit.targets_of(running.engine, number)
    waiting = next(name for name, t in targets.items() if t.state is DeviceState.WAITING)
    with running.engine.begin() as conn:
        assert registry.forget(conn, waiting)
    kit.wait_for(
        lambda: kit.targets_of(running.engine, number)[waiting].state is DeviceState.LEFT_OUT,
        "the device",
    )
