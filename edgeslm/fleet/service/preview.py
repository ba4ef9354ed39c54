"""What a roll-out would do: which devices it moves when, and which it cannot."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, select

from edgeslm.contract.fleet import BundleOffer
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.rollout import Plan
from edgeslm.core.filters import parse
from edgeslm.core.rollout import Target, waves_of
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError
from edgeslm.fleet.database.errors import RolloutOverlapError, some
from edgeslm.fleet.database.filters import condition
from edgeslm.fleet.database.rollouts import overlapping
from edgeslm.fleet.database.schema import devices, reports
from edgeslm.fleet.errors import UnknownModelError
from edgeslm.ports import Offer
from edgeslm.runtime.choose import choose
from edgeslm.runtime.device import Device
from edgeslm.runtime.profiles import ProfileError, load_profile


class NothingMatchesError(RejectedError):
    """The filter matches no device that has registered."""

    code = "rollout.nothing_matches"


class UnfitError(RejectedError):
    """The version has nothing that some of the devices can run.

    Args:
        unfit: why, by device.
    """

    code = "rollout.unfit"

    def __init__(self, unfit: Mapping[str, str]) -> None:
        reasons: dict[str, list[str]] = defaultdict(list)
        for device, why in sorted(unfit.items()):
            reasons[why].append(device)
        said = "; ".join(f"{some(names)}: {why}" for why, names in reasons.items())
        many = f"{len(unfit)} devices" if len(unfit) > 1 else "1 device"
        super().__init__(f"{many} cannot run it: {said} Or leave them out by the filter.")
        self.unfit = dict(unfit)


class ExpiredError(UnavailableError):
    """What devices would verify it by has expired."""

    code = "rollout.expired"


class Catalogue(Protocol):
    """What a repository has."""

    def offers(self, model: str) -> Sequence[BundleOffer]:
        """Return the bundles of a model; none where it is not known.

        Raises:
            EdgeSLMError: the repository cannot be read.
        """

    def expired(self, model: str) -> Sequence[str]:
        """Return the roles whose signatures have run out, of those that a roll-out needs.

        Raises:
            EdgeSLMError: the repository cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Found:
    """A device that matches.

    Args:
        id: its id.
        profile: of it; "": it has not said.
        arch: the same.
        update: what its updater has said last.
    """

    id: str
    profile: str
    arch: str
    update: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preview:
    """A roll-out before it starts.

    Args:
        plan: as asked for.
        types: device type by device: all that match.
        waves: by device, from 0: all that match.
        unfit: why it cannot run the version, by device.
        busy: roll-out that has not ended, by device in it.
        there: devices whose updater holds that version for committed already.
    """

    plan: Plan
    types: Mapping[str, str]
    waves: Mapping[str, int]
    unfit: Mapping[str, str] = field(default_factory=dict)
    busy: Mapping[str, int] = field(default_factory=dict)
    there: Collection[str] = ()

    def sizes(self) -> list[dict[str, int]]:
        """Return how many devices of each type move in each wave."""
        counted = [Counter[str]() for _ in self.plan.waves]
        for device, wave in self.waves.items():
            counted[wave][self.types[device]] += 1
        return [dict(sorted(each.items())) for each in counted]

    def targets(self, now: float) -> list[Target]:
        """Return all devices, waiting for their waves.

        Raises:
            UnfitError, RolloutOverlapError: not all of them can be moved.
        """
        if self.unfit:
            raise UnfitError(self.unfit)
        if self.busy:
            raise RolloutOverlapError(dict(self.busy))
        return [
            Target(device, self.types[device], wave, since=now)
            for device, wave in self.waves.items()
        ]


def preview(conn: Connection, catalogue: Catalogue, plan: Plan, now: float) -> Preview:
    """Return what a plan would do to the devices that are registered now.

    Raises:
        FilterError: of the plan's `where`.
        UnknownModelError: the repository has no such model, or not in this version.
        ExpiredError: a signature has run out.
        NothingMatchesError: no device matches.
        EdgeSLMError: the repository or the database cannot be read.
    """
    offers = known(catalogue, plan)
    found = matching(conn, plan, now)
    if not found:
        if conn.execute(select(devices.c.id).limit(1)).first() is None:
            msg = "no device has registered yet: start one whose broker is the fleet's"
        else:
            msg = f"{plan.where}: matches no device that has registered. Correct it."
        raise NothingMatchesError(msg)
    types = {row.id: row.profile for row in found}
    return Preview(
        plan,
        types,
        waves_of(plan, types, salt=f"{plan.model} {plan.version} {now}"),
        unfit=unfit(offers, plan, found),
        busy=overlapping(conn, list(types)),
        there=[row.id for row in found if _holds(row, plan)],
    )


def known(catalogue: Catalogue, plan: Plan) -> list[BundleOffer]:
    """Return the bundles of the plan's version.

    Raises:
        UnknownModelError, ExpiredError: see there.
    """
    offers = catalogue.offers(plan.model)
    of_version = [offer for offer in offers if offer.version == plan.version]
    if not of_version:
        have = ", ".join(map(str, sorted({offer.version for offer in offers}))) or "none of it"
        msg = f"{plan.model} {plan.version}: the repository has {have}. Add it first: fleet add"
        raise UnknownModelError(msg)
    if expired := catalogue.expired(plan.model):
        names = ", ".join(expired)
        msg = f"{names}: expired; devices would refuse it. Sign anew: fleet keys renew {expired[0]}"
        raise ExpiredError(msg)
    return of_version


def matching(conn: Connection, plan: Plan, now: float) -> list[Found]:
    """Return the devices that match.

    Raises:
        FilterError: of the plan's `where`.
    """
    wanted = (devices.c.id, devices.c.profile, devices.c.arch, reports.c.update)
    matches = condition(parse(plan.where), now)
    of_reports = devices.outerjoin(reports, reports.c.device == devices.c.id)
    rows = conn.execute(
        select(*wanted).select_from(of_reports).where(matches).order_by(devices.c.id)
    )
    return [Found(row.id, row.profile, row.arch, row.update or {}) for row in rows]


def unfit(offers: Sequence[BundleOffer], plan: Plan, found: Sequence[Found]) -> dict[str, str]:
    """Return why they cannot run the version, by device, as their updaters would see it."""
    offered = [Offer(offer, "", 0) for offer in offers]
    judged: dict[str, str | None] = {}  # thousands of devices are of a few kinds
    reasons: dict[str, str] = {}
    for row in found:
        platform = row.update.get("platform") or {}
        kind = json.dumps([row.profile, row.arch, platform], sort_keys=True)
        if kind not in judged:
            judged[kind] = _judged(offered, plan, row, platform)
        if (why := judged[kind]) is not None:
            reasons[row.id] = why
    return reasons


def _judged(
    offers: Sequence[Offer], plan: Plan, row: Found, platform: Mapping[str, Any]
) -> str | None:
    name = platform.get("profile") or row.profile or None
    if name is None and not platform:
        return "it has not said what it is: its updater is old, or was never heard."
    try:
        profile = _profile(name, platform.get("providers"))
    except ProfileError:
        return f"its profile {name} is not one of edgeslm's, and its updater does not say more."
    device = _device(row.arch, platform, profile)
    try:
        choose(offers, model=plan.model, version=plan.version, profile=profile, device=device)
    except EdgeSLMError as err:
        return str(err)
    return None


def _profile(name: str | None, providers: Sequence[str] | None) -> DeviceProfile | None:
    """Return as much of a device's profile as choosing takes."""
    if name is None:
        return None
    if providers:
        # Only its name and its providers are looked at.
        return DeviceProfile.model_construct(  # type: ignore[call-arg] # the rest is not needed
            name=name, providers=tuple(providers)
        )
    return load_profile(name)


def _device(arch: str, platform: Mapping[str, Any], profile: DeviceProfile | None) -> Device:
    if platform or profile is None:
        features, socs = platform.get("cpu_features", ()), platform.get("socs", ())
        return Device(platform.get("arch") or arch, "", frozenset(features), frozenset(socs))
    # An updater that does not say: it is what its profile demands, and perhaps more.
    least = profile.requires
    features = frozenset([*least.cpu_features, *least.cpu_features_any[:1]])
    return Device(
        arch or least.arch or "",
        "",
        features,
        frozenset([least.soc] if least.soc is not None else ()),
    )


def _holds(row: Found, plan: Plan) -> bool:
    models = row.update.get("models") or ()
    return any(
        each["name"] == plan.model and each.get("version") == plan.version for each in models
    )
