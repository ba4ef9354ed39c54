"""A change, step by step, against an agent that does as a test says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.slot_store import FileSlotStore
from edgeslm.contract.control import Done, Order
from edgeslm.contract.fleet import BlobFile, BlockList, DeviceConfig
from edgeslm.contract.profile import Trial
from edgeslm.contract.routes import Route
from edgeslm.contract.slots import SlotTable
from edgeslm.contract.topics import Topics
from edgeslm.core import slots
from edgeslm.core.update import SupersededError
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import DiskFullError
from edgeslm.runtime.slot import whole_slot
from edgeslm.updater.change import Change, ConfigChange, ModelChange
from edgeslm.updater.control import Control
from edgeslm.updater.driver import REVERT_S, Driver, HaltedError
from edgeslm.updater.voice import Voice
from tests.blocks import block_list, bringing
from tests.runtime import tiny
from tests.updater.scripted import FAIL, ScriptedAgent

MODEL = "press"
QUICK = Trial(duration_s=0.0)


@dataclass
class FolderSupply:
    """A bundle from a folder."""

    bundle: Path
    brought: list[str] = field(default_factory=list)
    failing: EdgeSLMError | None = None

    def blocks(self) -> BlockList:
        return block_list(self.bundle)

    def bring(
        self, file: BlobFile, into: Path, *, near: Sequence[Path], advance: Callable[[int], None]
    ) -> None:
        del near
        if self.failing is not None:
            raise self.failing
        bringing(self.bundle)(file, into)
        self.brought.append(file.path)
        advance(file.size)

    def held(self, file: BlobFile) -> int:
        del file
        return 0


class Device:
    """All but the agent of a device, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[tuple[str, bytes]] = []
        self.socket = folder / "control.sock"
        self.open()

    def open(self, boot: str = "boot 1", trial: Trial = QUICK) -> Driver:
        """As after a start of the updater."""
        self.store = FileSlotStore(self.folder / "updater", whole_slot)
        self.control = Control(self.socket)
        clock = SystemClock()
        topics = Topics("edgeslm/v1", "dev")
        voice = Voice(topics, clock, lambda t, p, _: self.said.append((t, p)), self.store.read)
        self.driver = Driver(
            store=self.store,
            control=self.control,
            voice=voice,
            clock=clock,
            trial=trial,
            load_s=3.0,
            keep_free=0,
            boot=boot,
        )
        return self.driver

    def restart(self, **how: object) -> Driver:
        """As after a kill of the updater."""
        self.store.close()
        self.control.close()
        return self.open(**how)  # type: ignore[arg-type]

    @property
    def table(self) -> SlotTable:
        return self.store.read()

    @property
    def active(self) -> int | None:
        held = slots.slots_of(self.table, MODEL)
        found = slots.slot(held, held.active) if held.active is not None else None
        return None if found is None else found.version


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.control.close()
    made.store.close()


@pytest.fixture
def agent(device: Device) -> Iterator[ScriptedAgent]:
    with ScriptedAgent(device.socket) as made:
        yield made


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[[int], ModelChange]:
    def change(version: int) -> ModelChange:
        folder = tmp_path / f"bundle-{version}"
        if not folder.exists():
            tiny.write_bundle(folder, name=MODEL, version=version)
        listed = block_list(folder)
        return ModelChange(MODEL, version, version, listed.bundle, "0" * 64, FolderSupply(folder))

    return change


Bundle = Callable[[int], ModelChange]


def done(agent: ScriptedAgent) -> list[str]:
    return [order.do for order in agent.orders]


def test_a_bundle_is_fetched_tried_and_kept(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    change = bundle(1)
    assert device.driver.run(change) is None
    assert device.active == 1
    assert device.table.operation is None
    assert done(agent) == ["try", "recheck", "commit"]
    assert agent.serving[MODEL] == (change.bundle, False)
    told = [topic.rpartition("/")[2] for topic, _ in device.said]
    assert "events" in told


def test_the_next_one_goes_into_the_other_slot_and_back_costs_nothing(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    one, two = bundle(1), bundle(2)
    assert device.driver.run(one) is None
    assert device.driver.run(two) is None
    assert device.active == 2
    back = ModelChange(MODEL, 3, 1, one.bundle, "0" * 64, FolderSupply(Path("nowhere")))
    back.supply.blocks = one.supply.blocks  # type: ignore[method-assign]
    assert device.driver.run(back) is None
    assert device.active == 1
    assert isinstance(back.supply, FolderSupply)
    assert back.supply.brought == []
    assert agent.serving[MODEL] == (one.bundle, False)


@pytest.mark.parametrize("step", ["try", "recheck"])
def test_a_golden_file_that_fails_is_remembered(
    device: Device, agent: ScriptedAgent, bundle: Bundle, step: str
) -> None:
    assert device.driver.run(bundle(1)) is None
    agent.refuse[step] = FAIL
    err = device.driver.run(bundle(2))
    assert err is not None
    assert device.active == 1
    assert [bad.error["code"] for bad in device.table.models[MODEL].bad] == ["golden.failed"]
    assert agent.serving[MODEL] == (bundle(1).bundle, False)
    agent.refuse.clear()
    agent.orders.clear()
    again = device.driver.run(bundle(2))
    assert again is not None
    assert again.code == "update.known_bad"
    assert agent.orders == []
    assert device.driver.run(bundle(3)) is None
    assert device.active == 3


def test_more_errors_than_before_are_a_failure(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    agent.answered = 1000
    device.restart(trial=Trial(duration_s=30.0))

    def fails(order: object) -> None:
        if getattr(order, "do", "") == "try":
            agent.answered, agent.errors = 0, 0
            threading.Timer(0.5, lambda: setattr(agent, "errors", 150)).start()

    agent.before = fails
    err = device.driver.run(bundle(2))
    assert err is not None
    assert err.code == "trial.errors"
    assert device.active == 1
    assert done(agent)[-1] == "revert"


def test_an_agent_that_crashes_condemns_what_it_tried(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    second: list[ScriptedAgent] = []

    def crash(order: object) -> None:
        if getattr(order, "do", "") == "recheck":
            agent.die()
            second.append(ScriptedAgent(device.socket, "second"))
            raise OSError

    agent.before = crash
    err = device.driver.run(bundle(2))
    with contextlib.ExitStack() as stack:
        stack.enter_context(second[0])
        assert err is not None
        assert err.code == "trial.crashed"
        assert device.active == 1
        assert [bad.version for bad in device.table.models[MODEL].bad] == [2]
        assert device.driver.run(bundle(3)) is None
        assert device.active == 3


def test_an_agent_that_was_asked_to_stop_condemns_nothing(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    second: list[ScriptedAgent] = []

    def leaves(order: object) -> None:
        if getattr(order, "do", "") == "recheck":
            agent.leave()
            second.append(ScriptedAgent(device.socket, "second"))
            second[0].serving[MODEL] = (bundle(1).bundle, False)
            raise OSError

    agent.before = leaves
    assert device.driver.run(bundle(2)) is None
    with second[0]:
        assert device.active == 2
        assert done(second[0]) == ["try", "recheck", "commit"]
    assert not device.table.models[MODEL].bad


def test_an_updater_that_is_killed_in_a_trial_goes_on_with_it(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    driver = device.restart(trial=Trial(duration_s=600.0))

    def halt() -> None:
        if agent.orders:
            raise HaltedError

    driver.check = halt
    with pytest.raises(HaltedError):
        driver.run(bundle(1))
    left = device.table.operation
    assert left is not None
    assert left.phase == "trial"
    driver = device.restart()
    assert driver.resume() is None
    assert device.active == 1
    assert agent.serving[MODEL][1] is False


def test_a_device_that_goes_down_in_each_trial_gives_up_after_three(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    for boot in range(2, 5):
        driver = device.restart(boot=f"boot {boot}", trial=Trial(duration_s=600.0))
        count = len(agent.orders)

        def halt(count: int = count) -> None:
            if len(agent.orders) > count:
                raise HaltedError

        driver.check = halt
        with pytest.raises(HaltedError):
            _ = driver.run(bundle(2)) if boot == 2 else driver.resume()
        agent.serving[MODEL] = (bundle(1).bundle, False)
        agent.instance = f"instance {boot}"
    driver = device.restart(boot="boot 5")
    err = driver.resume()
    assert err is not None
    assert err.code == "trial.unfinished"
    assert device.active == 1
    assert device.table.operation is None
    assert [bad.version for bad in device.table.models[MODEL].bad] == [2]


@pytest.mark.usefixtures("agent")
def test_what_cannot_be_fetched_leaves_the_old_one_and_may_be_tried_again(
    device: Device, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    change = bundle(2)
    assert isinstance(change.supply, FolderSupply)
    change.supply.failing = DiskFullError("12 bytes are missing")
    err = device.driver.run(change)
    assert isinstance(err, DiskFullError)
    assert device.active == 1
    assert not device.table.models[MODEL].bad
    change.supply.failing = None
    assert device.driver.run(change) is None
    assert device.active == 2


def test_a_newer_assignment_ends_a_fetch_and_a_trial(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    for phase in ("fetching", "trial"):
        driver = device.restart(trial=Trial(duration_s=600.0))

        def newer(phase: str = phase) -> None:
            operation = device.table.operation
            if operation is not None and operation.phase == phase:
                msg = "another"
                raise SupersededError(msg)

        driver.check = newer
        err = driver.run(bundle(2))
        assert isinstance(err, SupersededError), phase
        assert device.active == 1
        assert device.table.operation is None
        assert agent.serving[MODEL] == (bundle(1).bundle, False)
        assert not device.table.models[MODEL].bad


def test_no_agent_is_a_failure_that_passes(device: Device, bundle: Bundle) -> None:
    err = device.driver.run(bundle(1))
    assert err is not None
    assert err.code == "update.overdue"
    assert "edgeslm run" in str(err)
    assert device.active is None
    with ScriptedAgent(device.socket):
        assert device.driver.run(bundle(1)) is None


def test_a_configuration_is_tried_and_kept_or_taken_back(
    device: Device, agent: ScriptedAgent
) -> None:
    config = DeviceConfig(state_interval_s=5.0)
    change: Change = ConfigChange(4, config)
    assert device.driver.run(change) is None
    assert device.table.config == config
    assert device.table.config_seq == 4
    assert done(agent) == ["configure", "commit"]
    agent.refuse["configure"] = {"code": "config.unfit", "message": "no such model"}
    err = device.driver.run(ConfigChange(5, DeviceConfig(state_interval_s=6.0)))
    assert err is not None
    assert device.table.config == config
    assert len(device.table.bad_config) == 1
    agent.refuse.clear()
    assert device.driver.run(ConfigChange(6, None)) is None
    assert device.table.config is None


def routed(model: str) -> DeviceConfig:
    """A configuration whose only route leads to this model."""
    return DeviceConfig(routes={"new": Route(topic="plant/#", models=(model,))})


def test_a_route_to_a_model_that_does_not_serve_is_taken_back(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    agent.failed["brittle"] = {"code": "model.no_bundle", "message": "it has none."}
    for seq, model in ((4, "nosuch"), (5, "brittle")):
        agent.orders.clear()
        err = device.driver.run(ConfigChange(seq, routed(model)))
        assert err is not None
        assert err.code == "config.unserved"
        assert f"no bundle serves {model}" in str(err)
        assert done(agent) == ["configure", "revert"]
        assert device.table.config_seq == 0
    assert "[model.no_bundle]" in str(err)
    assert not device.table.bad_config, "with the model it works"
    assert device.driver.run(ConfigChange(6, routed(MODEL))) is None
    assert device.table.config_seq == 6


def test_a_route_may_lead_to_a_model_that_is_on_its_way(
    device: Device, agent: ScriptedAgent
) -> None:
    change = ConfigChange(4, routed("late"), awaited=frozenset({"late"}))
    assert device.driver.run(change) is None
    assert done(agent) == ["configure", "commit"]


def test_a_change_that_nobody_asks_for_any_more_is_no_phase(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    driver = device.restart(trial=Trial(duration_s=600.0))

    def halt() -> None:
        if agent.orders:
            raise HaltedError

    driver.check = halt
    with pytest.raises(HaltedError):
        driver.run(bundle(1))
    driver = device.restart()
    phases = [driver.voice.state["phase"]]
    driver.abandon()
    phases.append(driver.voice.state["phase"])
    assert phases == ["trial", "idle"]


def test_an_agent_hears_of_a_commit_that_its_updater_did_not_live_to_tell(
    device: Device, agent: ScriptedAgent, bundle: Bundle
) -> None:
    assert device.driver.run(bundle(1)) is None
    agent.serving[MODEL] = (bundle(1).bundle, True)
    agent.serving["other"] = ("f" * 64, True)
    agent.orders.clear()
    device.restart().settle()
    assert [(order.do, order.model) for order in agent.orders] == [
        ("commit", MODEL),
        ("revert", "other"),
    ]


@pytest.mark.parametrize("side_by_side", [True, False])
def test_an_agent_that_has_to_load_the_old_one_again_is_given_the_time_for_it(
    device: Device,
    agent: ScriptedAgent,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    side_by_side: bool,  # noqa: FBT001 -- a case
) -> None:
    driver = device.restart(trial=Trial(duration_s=0.0, side_by_side=side_by_side))
    assert driver.run(bundle(1)) is None
    agent.refuse["recheck"] = FAIL
    given: dict[str, float] = {}
    order = device.control.order

    def noted(what: Order, *, timeout_s: float) -> Done:
        given[what.do] = timeout_s
        return order(what, timeout_s=timeout_s)

    monkeypatch.setattr(device.control, "order", noted)
    assert driver.run(bundle(2)) is not None
    more = 0.0 if side_by_side else driver.load_s
    assert given == {
        "try": driver.load_s + more,
        "recheck": driver.load_s,
        "revert": REVERT_S + more,
    }
