"""The settings file, the updater's slots, and the fleet's configuration over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.agent.desired import ConfigUnfitError, Desired, Laid, Source, laid_over
from edgeslm.agent.shelf import Shelf
from edgeslm.contract.fleet import DeviceConfig
from edgeslm.contract.settings import AgentSettings
from edgeslm.contract.slots import Bad, ModelSlots, Operation, Slot, SlotName, SlotTable
from edgeslm.ports import SlotsUnavailableError
from tests.agent.updates import Slots
from tests.runtime import tiny

ONE, TWO = "1" * 64, "2" * 64
OWN = Path("/srv/own")


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "updater")


def settings(slots: Slots, **fields: Any) -> AgentSettings:
    models = {"m": {"bundle": OWN}, "later": {}}
    base = {"device_id": "d", "update": {"dir": slots.folder}, "models": models}
    return AgentSettings.model_validate({**base, **fields})


def desired(slots: Slots, **fields: Any) -> tuple[Desired, list[tuple[str, str]]]:
    """One that has read the slots, and what it told."""
    told: list[tuple[str, str]] = []
    file = settings(slots, **fields)
    made = Desired(file, Shelf(slots.folder), lambda event, code, *_: told.append((event, code)))
    made.read()
    return made, told


def held(active: SlotName | None, **fields: Any) -> ModelSlots:
    slot_a, slot_b = (Slot(bundle=hash_, version=1, whole=True) for hash_ in (ONE, TWO))
    return ModelSlots(**{"active": active, "a": slot_a, "b": slot_b, **fields})


def tried(slot: SlotName, model: str = "m") -> Operation:
    return Operation(model=model, seq=1, phase="trial", slot=slot, bundle=TWO, attempts=1)


BAD = Bad(hash=TWO, error={"code": "golden.failed", "message": "it did"})
HALF = Slot(bundle=TWO, version=2)
CASES: dict[str, tuple[SlotTable, list[str]]] = {
    "no slots": (SlotTable(), ["own"]),
    "nothing committed": (SlotTable(models={"m": held(None)}), ["own"]),
    "a active": (SlotTable(models={"m": held("a")}), ["a", "b", "own"]),
    "b active": (SlotTable(models={"m": held("b")}), ["b", "a", "own"]),
    "the other one is half": (SlotTable(models={"m": held("a", b=HALF)}), ["a", "own"]),
    "the other one is bad": (SlotTable(models={"m": held("a", bad=(BAD,))}), ["a", "own"]),
    "the other one was being tried": (
        SlotTable(models={"m": held("a")}, operation=tried("b")),
        ["a", "own", "b"],
    ),
    "another model was being tried": (
        SlotTable(models={"m": held("a"), "later": held("a")}, operation=tried("b", "later")),
        ["a", "b", "own"],
    ),
}


@pytest.mark.parametrize(("table", "places"), CASES.values(), ids=CASES)
def test_a_model_comes_from_its_best_place_first(
    slots: Slots, table: SlotTable, places: list[str]
) -> None:
    slots.write(table)
    made, told = desired(slots)
    assert [source.slot or "own" for source in made.plan().sources["m"]] == places
    assert not told
    for source in made.plan().sources["m"]:
        if source.slot is not None:
            assert source.path == slots.path("m", source.slot)
            assert source.hash == (ONE if source.slot == "a" else TWO)


def test_what_was_committed_since_comes_first_until_the_table_knows_better(slots: Slots) -> None:
    slots.write(SlotTable(models={"m": held("a", b=HALF)}))
    made, _ = desired(slots)
    assert made.shelf is not None
    two = made.shelf.place("m", "b", TWO)
    made.shelf.commit("m", two)
    assert [s.slot for s in made.plan().sources["m"]] == ["b", "a", None]
    slots.write(SlotTable(models={"m": held("a")}))  # the updater has not written it yet
    made.read()
    assert [s.slot for s in made.plan().sources["m"]] == ["b", "a", None]
    slots.write(SlotTable(models={"m": held("a", b=Slot(bundle="3" * 64, version=3))}))
    made.read()
    assert [s.slot for s in made.plan().sources["m"]] == ["a", None]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"models": 3}', b"\0" * 999, b"\xff"])
def test_a_damaged_table_is_told_and_made_up_for_by_the_bundles_that_are_whole(
    slots: Slots, tmp_path: Path, raw: bytes
) -> None:
    one = slots.put("m", "a", tiny.write_bundle(tmp_path / "one"))
    slots.put("m", "b", tiny.write_bundle(tmp_path / "two", version=2))
    (slots.path("m", "b") / "model.onnx").write_bytes(b"damaged")
    slots.write(raw)
    made, told = desired(slots)
    assert told == [("slots_unreadable", "slots.invalid")]
    assert made.plan().sources["m"] == (Source(slots.path("m", "a"), one, "a"), Source(OWN))


def test_a_table_that_cannot_be_read_leaves_what_was_known(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots.write(SlotTable(models={"m": held("a")}, config_seq=4, config=DeviceConfig()))
    made, told = desired(slots)
    shelf = made.shelf
    assert shelf is not None

    def refuse(_: object) -> SlotTable:
        msg = "disk gone"
        raise SlotsUnavailableError(msg)

    monkeypatch.setattr("edgeslm.adapters.slot_store.ReadOnlySlots.read", refuse)
    made.read()
    assert told == [("slots_unreadable", "slots.unavailable")]
    assert [s.slot for s in made.plan().sources["m"]] == ["a", "b", None]
    assert made.laid.seq == 4


def test_models_of_the_slots_alone_are_there_too(slots: Slots) -> None:
    slots.write(SlotTable(models={"new": held("b"), "nothing": held(None)}))
    made, _ = desired(slots)
    plan = made.plan()
    assert set(plan.settings.models) == {"m", "later", "new"}
    assert plan.sources["later"] == ()
    made.tried.add("first")
    assert made.plan().sources["first"] == ()


def test_without_an_updater_the_file_is_all_there_is() -> None:
    file = AgentSettings.model_validate({"device_id": "d", "models": {"m": {"bundle": OWN}}})
    made = Desired(file, None, lambda *_: None)
    made.read()
    assert made.plan().settings == file
    assert made.plan().sources == {"m": (Source(OWN),)}


def test_a_configuration_is_laid_over_the_file(slots: Slots) -> None:
    config = DeviceConfig.model_validate_json(
        """{"routes": {"r": {"topic": "t", "models": ["m", "new"]}}, "state_interval_s": 5,
        "models": {"m": {"workers": 3}, "new": {"cache_entries": 0}},
        "outbox": {"max_mb": 1}}"""
    )
    routes = {"old": {"topic": "old", "models": ["m"]}}
    file = settings(slots, routes=routes, models={"m": {"bundle": OWN, "cache_entries": 7}})
    laid = laid_over(file, config, [])
    assert list(laid.routes) == ["r"]
    m, new = laid.models["m"], laid.models["new"]
    assert (m.bundle, m.workers, m.cache_entries) == (OWN, 3, 7)
    assert (new.bundle, new.workers, new.cache_entries) == (None, None, 0)
    assert (laid.outbox.max_mb, laid.state_interval_s) == (1, 5)
    assert laid.uplink == file.uplink
    kept = laid_over(file, DeviceConfig(), [])
    assert kept == file


@given(
    topics=st.lists(st.sampled_from(["a", "a/+", "+/b", "#", "edgeslm/v1/d/x", "b/#"]), max_size=4),
    models=st.lists(st.sampled_from(["m", "n", "nobody"]), min_size=1, max_size=2),
)
def test_what_is_laid_over_obeys_the_rules_of_any_file(
    topics: list[str], models: list[str]
) -> None:
    """Either it is refused, or the same written into a file is taken."""
    fields: dict[str, Any] = {
        "device_id": "d",
        "models": {"m": {"bundle": OWN}, "n": {"bundle": OWN}},
        "routes": {},
    }
    file = AgentSettings.model_validate(fields)
    routes = {f"r{i}": {"topic": t, "models": tuple(models)} for i, t in enumerate(topics)}
    config = DeviceConfig.model_validate({"routes": routes})
    written = {**fields, "routes": routes}
    try:
        laid = laid_over(file, config, [])
    except ConfigUnfitError as err:
        with pytest.raises(ValueError, match="routes"):
            AgentSettings.model_validate(written)
        assert "routes" in str(err)  # noqa: PT017 -- of the two, this one
    else:
        assert laid == AgentSettings.model_validate(written)


def test_a_configuration_that_does_not_fit_is_told_once_and_left_out(slots: Slots) -> None:
    unfit = DeviceConfig.model_validate({"routes": {"r": {"topic": "t", "models": ("nobody",)}}})
    slots.write(SlotTable(config=unfit, config_seq=3))
    made, told = desired(slots)
    for _ in range(2):
        assert made.fitting().settings.routes == {}
    assert told == [("config_refused", "config.unfit")]
    made.on_trial = Laid(4, unfit)
    assert made.laid.seq == 4
    made.fitting()
    assert made.laid.seq == 3
    assert told[1:] == [("trial_reverted", "config.unfit")]
    slots.write(SlotTable(config_seq=5))
    made.read()
    made.fitting()
    slots.write(SlotTable(config=unfit, config_seq=6))
    made.read()
    made.fitting()
    assert told[2:] == [("config_refused", "config.unfit")], "it began anew"


def test_an_older_table_does_not_undo_a_configuration_just_committed(slots: Slots) -> None:
    slots.write(SlotTable(config_seq=3))
    made, _ = desired(slots)
    assert made.shelf is not None
    made.shelf.laid = Laid(5, DeviceConfig(state_interval_s=9))
    made.read()
    assert made.plan().settings.state_interval_s == 9
    slots.write(SlotTable(config_seq=6))
    made.read()
    assert made.plan().settings.state_interval_s == 900
