"""Roll-outs of simulated fleets, small; benchmarks/groups/fleet.py has the large ones."""

from __future__ import annotations

import pytest

from edgeslm.core.rollout import DeviceState, State
from edgeslm.fleet.repository import Repository
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto
from tests.simulate import play as playing
from tests.simulate.conftest import Play

pytestmark = pytest.mark.broker
DEVICES = 60


def test_a_good_version_reaches_every_device_once(
    service: kit.Running, play: Play, repository: Repository
) -> None:
    played = play(playing.ready_made("good", DEVICES), DEVICES)
    kit.registered(service.engine, DEVICES)
    number = kit.start(service.engine, repository, kit.plan(waves=["5%", "20%", "100%"]))
    assert kit.ended(service.engine, number) is State.COMPLETED
    assert kit.counted(service.engine, number) == {DeviceState.SUCCEEDED: DEVICES}
    for record in played.simulation.records.values():
        assert [each.models for each in record.assignments] == [{"press": 2}]
        assert [each.version for each in record.installs] == [2]
        assert not record.doubled
        assert not record.lost


@pytest.mark.parametrize("how", ["bad-golden", "slow", "alarms"])
def test_a_bad_version_stays_in_the_first_wave(
    service: kit.Running, play: Play, repository: Repository, how: str
) -> None:
    played = play(playing.ready_made(how, DEVICES), DEVICES)
    kit.registered(service.engine, DEVICES)
    wanted = kit.plan(waves=["5%", "100%"], soak_s=20)
    number = kit.start(service.engine, repository, wanted)
    assert kit.ended(service.engine, number) is State.ABORTED
    records = played.simulation.records.values()
    asked = [r for r in records if any(a.models["press"] == 2 for a in r.assignments)]
    assert 0 < len(asked) <= DEVICES * 5 // 100
    kit.wait_for(lambda: all(record.version == 1 for record in records), "the old version")
    assert kit.counted(service.engine, number)[DeviceState.LEFT_OUT] == DEVICES - len(asked)


@pytest.mark.slow
def test_a_rough_fleet_comes_to_a_decision(
    service: kit.Running, play: Play, repository: Repository, mosquitto: Mosquitto
) -> None:
    played = play(playing.ready_made("rough", DEVICES), DEVICES)
    kit.registered(service.engine, DEVICES)
    wanted = kit.plan(waves=["10%", "100%"], deadline_s=8, canaries_per_type=0)
    number = kit.start(service.engine, repository, wanted)
    for _ in range(3):
        mosquitto.stop()
        mosquitto.start()
    assert kit.ended(service.engine, number) is State.COMPLETED
    counted = kit.counted(service.engine, number)
    assert sum(counted.values()) == DEVICES
    assert counted[DeviceState.SILENT] == 3
    assert not any(record.doubled for record in played.simulation.records.values())
