"""What is to be changed on a device, by its assignment and by what it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgeslm.contract.fleet import Assignment
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.slots import Slot, SlotTable
from edgeslm.core import slots
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Offer, TrustedMetadata
from edgeslm.runtime.device import Device
from edgeslm.updater.change import Change, ConfigChange, ModelChange, Supply, hash_of
from edgeslm.updater.choose import choose


@dataclass(frozen=True, slots=True)
class Desired:
    """Changes, in the order in which they are to be made, and models for which there is none.

    Args:
        changes: models first, since a configuration may route texts to a new one.
        refused: by model, why what is assigned cannot be had.
    """

    changes: tuple[Change, ...] = ()
    refused: Mapping[str, EdgeSLMError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chooser:
    """Picks bundles for this device.

    Args:
        trust: what the repository has.
        profile: of the device; None: its settings name none.
        device: what it is.
        supply: what brings a bundle.
    """

    trust: TrustedMetadata
    profile: DeviceProfile | None
    device: Device
    supply: Callable[[Offer], Supply]

    def change(self, model: str, version: int, seq: int, table: SlotTable) -> ModelChange | None:
        """Return the change to a version of a model; None where it is what was committed.

        Raises:
            EdgeSLMError: it is not to be had; see `edgeslm.updater.choose`.
        """
        offers = self.trust.offers(model)
        offer = choose(
            offers, model=model, version=version, profile=self.profile, device=self.device
        )
        bundle = offer.bundle
        active = _active(table, model)
        if active is not None and active.bundle == bundle.bundle:
            return None
        supply = self.supply(offer)
        return ModelChange(model, seq, version, bundle.bundle, offer.sha256, supply)


def assigned(assignment: Assignment, table: SlotTable, chooser: Chooser) -> Desired:
    """Return what an assignment changes. Models that it does not name stay as they are."""
    wanted = {model: assigned.version for model, assigned in assignment.models.items()}
    desired = _desired(wanted, assignment.seq, table, chooser)
    if hash_of(assignment.config) == hash_of(table.config):
        return desired
    config = ConfigChange(assignment.seq, assignment.config)
    return Desired((*desired.changes, config), desired.refused)


def newest(table: SlotTable, chooser: Chooser) -> Desired:
    """Return what a stick without an assignment changes: newer versions of what is here."""
    wanted: dict[str, int] = {}
    refused: dict[str, EdgeSLMError] = {}
    for model in table.models:
        active = _active(table, model)
        try:
            offered = [offer.bundle.version for offer in chooser.trust.offers(model)]
        except EdgeSLMError as err:
            refused[model] = err
            continue
        if active is not None and max(offered, default=0) > active.version:
            wanted[model] = max(offered)
    desired = _desired(wanted, 0, table, chooser)
    return Desired(desired.changes, {**refused, **desired.refused})


def _desired(wanted: Mapping[str, int], seq: int, table: SlotTable, chooser: Chooser) -> Desired:
    changes: list[Change] = []
    refused: dict[str, EdgeSLMError] = {}
    for model, version in sorted(wanted.items()):
        try:
            change = chooser.change(model, version, seq, table)
        except EdgeSLMError as err:
            refused[model] = err
        else:
            changes += [change] if change is not None else []
    return Desired(tuple(changes), refused)


def _active(table: SlotTable, model: str) -> Slot | None:
    held = slots.slots_of(table, model)
    return slots.slot(held, held.active) if held.active is not None else None
