"""What is changed is what an assignment names and was not committed already, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.fleet import AssignedModel, Assignment, DeviceConfig
from edgeslm.contract.slots import ModelSlots, Slot, SlotTable
from edgeslm.core.trust import TrustExpiredError
from edgeslm.ports import Offer, TrustedMetadata
from edgeslm.runtime.choose import NoOfferError, UnknownVersionError
from edgeslm.updater.change import ConfigChange, ModelChange, Supply
from edgeslm.updater.desired import Chooser, Desired, assigned, newest
from tests.updater.offers import PC, offer, profile, variant

CONFIG = DeviceConfig(state_interval_s=5.0)


class Repository:
    """Has these offers; of a model in `expired` it says that its role has."""

    def __init__(self, offers: Sequence[Offer], expired: Sequence[str] = ()) -> None:
        self._offers = offers
        self._expired = expired

    def offers(self, model: str) -> list[Offer]:
        if model in self._expired:
            msg = f"model-{model} has expired"
            raise TrustExpiredError(msg)
        return [o for o in self._offers if o.bundle.model == model]


def chooser(*offers: Offer, expired: Sequence[str] = ()) -> Chooser:
    trust = cast("TrustedMetadata", Repository(offers, expired))
    return Chooser(trust, profile("cpu"), PC, lambda found: cast("Supply", found.sha256))


def table(
    active: Mapping[str, Offer] = MappingProxyType({}), config: DeviceConfig | None = None
) -> SlotTable:
    """With these bundles committed."""
    slots = {
        name: ModelSlots(
            active="a",
            a=Slot(bundle=found.bundle.bundle, version=found.bundle.version, whole=True),
        )
        for name, found in active.items()
    }
    return SlotTable(models=slots, config=config)


def assignment(
    models: Mapping[str, int], *, seq: int = 7, config: DeviceConfig | None = None
) -> Assignment:
    wanted = {name: AssignedModel(version=version) for name, version in models.items()}
    return Assignment(
        schema=1, device="d", seq=seq, issued=0.0, expires=1.0, models=wanted, config=config
    )


def models(desired: Desired) -> list[tuple[str, int]]:
    return [(c.model, c.version) for c in desired.changes if isinstance(c, ModelChange)]


A1, A2 = offer(1, model="a"), offer(2, model="a")
B1, B2 = offer(1, model="b"), offer(2, model="b")


def test_a_change_says_what_to_bring_and_by_whose_order() -> None:
    desired = assigned(assignment({"a": 2}), table({"a": A1}), chooser(A1, A2))
    (change,) = desired.changes
    assert change == ModelChange("a", 7, 2, A2.bundle.bundle, A2.sha256, cast("Supply", A2.sha256))


@pytest.mark.parametrize(
    ("wanted", "has", "changes"),
    [
        ({}, {"a": A2}, []),  # a model that is not named stays
        ({"a": 2}, {}, [("a", 2)]),
        ({"a": 2}, {"a": A2}, []),
        ({"a": 1}, {"a": A2}, [("a", 1)]),  # an older one, by a newer assignment
        ({"b": 2, "a": 2}, {"a": A1}, [("a", 2), ("b", 2)]),
    ],
)
def test_what_is_assigned_is_changed(
    wanted: dict[str, int], has: dict[str, Offer], changes: list[tuple[str, int]]
) -> None:
    desired = assigned(assignment(wanted), table(has), chooser(A1, A2, B1, B2))
    assert (models(desired), dict(desired.refused)) == (changes, {})


def test_another_bundle_of_the_same_version_is_a_change() -> None:
    other = offer(2, model="a", salt="exported again")
    desired = assigned(assignment({"a": 2}), table({"a": other}), chooser(A2))
    assert models(desired) == [("a", 2)]


def test_what_cannot_be_had_is_refused_and_the_others_go_on() -> None:
    foreign = offer(1, [variant(arch="aarch64")], model="foreign")
    wanted = {"unknown": 1, "a": 9, "foreign": 1, "old": 1, "b": 2}
    desired = assigned(assignment(wanted), table(), chooser(A1, foreign, B2, expired=["old"]))
    assert models(desired) == [("b", 2)]
    assert {model: type(why) for model, why in desired.refused.items()} == {
        "unknown": UnknownVersionError,
        "a": UnknownVersionError,
        "foreign": NoOfferError,
        "old": TrustExpiredError,
    }


@pytest.mark.parametrize("before", [None, CONFIG])
@pytest.mark.parametrize("after", [None, CONFIG])
def test_a_configuration_comes_last_and_only_where_it_is_another(
    before: DeviceConfig | None, after: DeviceConfig | None
) -> None:
    order = assignment({"a": 2, "none": 1}, config=after)
    desired = assigned(order, table(config=before), chooser(A2))
    expected = [] if before == after else [ConfigChange(7, after)]
    assert list(desired.changes[1:]) == expected
    assert set(desired.refused) == {"none"}


def test_a_stick_without_an_assignment_brings_newer_versions_of_what_is_here() -> None:
    held = table({"a": A1, "b": B2})
    held = held.model_copy(update={"models": {**held.models, "empty": ModelSlots()}})
    repository = chooser(A1, A2, B1, B2, offer(9, model="stranger"), offer(1, model="empty"))
    desired = newest(held, repository)
    assert models(desired) == [("a", 2)]
    assert [change.seq for change in desired.changes if isinstance(change, ModelChange)] == [0]
    assert not desired.refused


def test_a_stick_says_what_of_it_is_not_for_this_device() -> None:
    desired = newest(
        table({"a": A1, "b": B1, "c": offer(1, model="c")}),
        chooser(offer(3, [variant(arch="aarch64")], model="a"), B2, expired=["c"]),
    )
    assert models(desired) == [("b", 2)]
    kinds = {model: type(why) for model, why in desired.refused.items()}
    assert kinds == {"a": NoOfferError, "c": TrustExpiredError}


def test_a_stick_brings_an_older_one_that_is_for_this_device_before_none() -> None:
    foreign = offer(4, [variant(arch="aarch64")], model="a")
    desired = newest(table({"a": A1}), chooser(A1, A2, offer(3, model="a"), foreign))
    assert models(desired) == [("a", 3)]
    assert not desired.refused


names = st.sampled_from(["a", "b", "c"])
tables = st.dictionaries(names, st.integers(1, 3))


@given(tables, tables, st.none() | st.just(CONFIG))
def test_a_device_that_did_all_of_it_has_nothing_left_to_do(
    has: dict[str, int], wanted: dict[str, int], config: Any
) -> None:
    offers = {(m, v): offer(v, model=m) for m in "abc" for v in (1, 2, 3)}
    before = table({m: offers[m, v] for m, v in has.items()})
    order = assignment(wanted, config=config)
    first = assigned(order, before, chooser(*offers.values()))
    assert {m for m, _ in models(first)} == {m for m, v in wanted.items() if has.get(m) != v}
    after = table({m: offers[m, v] for m, v in {**has, **wanted}.items()}, config)
    assert assigned(order, after, chooser(*offers.values())) == Desired()
