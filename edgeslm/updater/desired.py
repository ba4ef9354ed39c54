"""What is to be changed on a device, by its assignment and by what it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edgeslm.contract.fleet import Assignment
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.slots import SlotTable
from edgeslm.core import slots
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Offer, TrustedMetadata
from edgeslm.runtime.choose import choose
from edgeslm.runtime.device import Device
from edgeslm.updater.change import Change, ConfigChange, ModelChange, Supply, hash_of


@dataclass(frozen=True, slots=True)
class Desired:
    """Changes, in the order in which they are to be made, and models for which there is none.

    Args:
        changes: models first, since a configuration may route texts to a new one.
        refused: by model, why what is assigned cannot be had.
        wanted: by model, the version that is assigned.
    """

    changes: tuple[Change, ...] = ()
    refused: Mapping[str, EdgeSLMError] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict, compare=False)


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
            EdgeSLMError: it is not to be had; see `edgeslm.runtime.choose`.
        """
        offers = self.trust.offers(model)
        offer = choose(
            offers, model=model, version=version, profile=self.profile, device=self.device
        )
        bundle = offer.bundle
        active = slots.committed(slots.slots_of(table, model))
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
    return replace(desired, changes=(*desired.changes, config))


def newest(table: SlotTable, chooser: Chooser) -> Desired:
    """Return what a stick without an assignment changes: the newest there is for this device."""
    changes: list[Change] = []
    refused: dict[str, EdgeSLMError] = {}
    for model in sorted(table.models):
        active = slots.committed(slots.slots_of(table, model))
        if active is None:
            continue
        try:
            versions = {offer.bundle.version for offer in chooser.trust.offers(model)}
        except EdgeSLMError as err:
            refused[model] = err
            continue
        newer = sorted((v for v in versions if v > active.version), reverse=True)
        found = [_desired({model: version}, 0, table, chooser) for version in newer]
        if fitting := next((each for each in found if each.changes), None):
            changes += fitting.changes
        elif found:  # the newest says best what is missing
            refused |= found[0].refused
    return Desired(tuple(changes), refused)


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
    return Desired(tuple(changes), refused, wanted)
