"""The same as the pages, for programs: JSON under /api/v1, by token, with the same rights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, HTTPException, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from edgeslm.contract.base import Name, problems_of
from edgeslm.contract.fleet import BundleOffer
from edgeslm.contract.rollout import MAX_FILTER_CHARS, Plan
from edgeslm.core.filters import parse
from edgeslm.core.rollout import DeviceState
from edgeslm.fleet.database import audit, events, evidence, pages, registry
from edgeslm.fleet.database import rollouts as stored
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import UnknownDeviceError
from edgeslm.fleet.service import starting
from edgeslm.fleet.service.preview import preview
from edgeslm.fleet.web.security import by, for_viewers
from edgeslm.fleet.web.site import site_of, visitor_of

router = APIRouter(prefix="/api/v1", tags=["fleet"])
MAX_LIMIT: Final = 1000
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _plan(value: object) -> Plan:
    """Read a plan as strictly as from a file; FastAPI would hand it over as Python's objects."""
    try:
        return Plan.model_validate_json(json.dumps(value))
    except ValidationError as err:
        said = "; ".join(f"{f}: {what}" if f else what for f, what in problems_of(err))
        raise ValueError(said) from None


AskedPlan = Annotated[Plan, BeforeValidator(_plan), Body()]


class Value(BaseModel):
    """Of a tag."""

    value: Annotated[str, Field(min_length=1, max_length=200)]


class Judgement(BaseModel):
    """The label that a result should have had."""

    id: Annotated[str, Field(max_length=200)]
    label: Annotated[str, Field(min_length=1, max_length=200)]


class Rollout(BaseModel):
    """A roll-out, and how many devices are in each state, by wave."""

    id: int
    plan: Plan
    state: str
    wave: int
    since: float
    reason: str
    created_at: float
    created_by: str
    asked: str | None
    waves: list[dict[str, int]]


class Previewed(BaseModel):
    """What a roll-out would do; it can be started where nothing is unfit or busy."""

    waves: list[dict[str, int]] = Field(description="Devices by type, of each wave.")
    unfit: Mapping[str, str] = Field(description="Why it cannot run the version, by device.")
    busy: Mapping[str, int] = Field(description="Roll-out that it is in, by device.")


class Model(BaseModel):
    """A model: what is signed of it, and how devices run it."""

    name: str
    offers: Sequence[BundleOffer]
    devices: Mapping[str, int] = Field(description="By version; none: it has none.")
    latency: Sequence[registry.Latency]


@router.get("/openapi.json", include_in_schema=False)
def schema(request: Request) -> dict[str, Any]:
    """Return what this API offers."""
    app = request.app
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    bearer = {"type": "http", "scheme": "bearer"}
    found.setdefault("components", {})["securitySchemes"] = {"token": bearer}
    found["security"] = [{"token": []}]
    return found


@router.get("/devices")
def devices(  # noqa: PLR0913, PLR0917 -- the query
    request: Request,
    where: Annotated[str, Query(max_length=MAX_FILTER_CHARS)] = "",
    sort: registry.Sort = "id",
    descending: bool = False,  # noqa: FBT001, FBT002 -- the query
    after: Annotated[str | None, Query(max_length=1000)] = None,
    limit: Limit = 100,
) -> registry.Page:
    """Return the devices that match, a page of them; `next` of it is `after` of the next one."""
    site = site_of(request)
    with reading(site.engine) as conn:
        return registry.find(
            conn,
            parse(where),
            now=site.clock(),
            sort=sort,
            descending=descending,
            after=after,
            limit=limit,
        )


@router.get("/counts")
def counts(request: Request) -> registry.FleetCounts:
    """Return how many devices there are of each kind."""
    with reading(site_of(request).engine) as conn:
        return registry.counts(conn)


@router.get("/devices/{device}")
def device(request: Request, device: str) -> registry.DeviceRow:
    """Return one device with what it has said last."""
    with reading(site_of(request).engine) as conn:
        found = registry.device(conn, device)
    if found is None:
        msg = f"{device}: not registered. A device registers itself when it connects."
        raise UnknownDeviceError(msg)
    return found


@router.put("/devices/{device}/tags/{key}", status_code=204)
def tag(request: Request, device: str, key: Name, given: Value) -> Response:
    """Give a device a tag."""
    site = site_of(request)
    with site.engine.begin() as conn:
        registry.tag(conn, [device], key, given.value)
        detail = {"device": device, "key": key, "value": given.value}
        actor = by(visitor_of(request))
        audit.record(conn, actor, "device.tagged", now=site.clock(), **detail)
    return Response(status_code=204)


@router.delete("/devices/{device}/tags/{key}", status_code=204)
def untag(request: Request, device: str, key: Name) -> Response:
    """Take a tag that was given."""
    site = site_of(request)
    with site.engine.begin() as conn:
        registry.tag(conn, [device], key, None)
        actor = by(visitor_of(request))
        audit.record(conn, actor, "device.untagged", now=site.clock(), device=device, key=key)
    return Response(status_code=204)


@router.get("/rollouts")
def rollouts(request: Request, before: Before = None, limit: Limit = 50) -> list[Rollout]:
    """Return roll-outs, newest first; `before`: the last id of the page before."""
    with reading(site_of(request).engine) as conn:
        found = stored.newest(conn, before=before, limit=limit)
        waves = stored.waves(conn, [each.id for each in found])
    return [_rollout(each, waves) for each in found]


@router.post("/rollouts/preview")
@for_viewers
def look(request: Request, plan: AskedPlan) -> Previewed:
    """Return what a plan would do."""
    site = site_of(request)
    with reading(site.engine) as conn:
        found = preview(conn, site.shelf, plan, site.clock())
    return Previewed(waves=found.sizes(), unfit=found.unfit, busy=found.busy)


@router.post("/rollouts", status_code=201)
def begin(request: Request, plan: AskedPlan) -> Rollout:
    """Start a roll-out."""
    site = site_of(request)
    actor, now = by(visitor_of(request)), site.clock()
    number = starting.start(site.engine, site.shelf, plan, actor, now=now)
    return rollout(request, number)


@router.get("/rollouts/{number}")
def rollout(request: Request, number: Number) -> Rollout:
    """Return one."""
    with reading(site_of(request).engine) as conn:
        found = stored.rollout(conn, number)
        return _rollout(found, stored.waves(conn, [number]))


@router.get("/rollouts/{number}/devices")
def targets(
    request: Request,
    number: Number,
    state: DeviceState | None = None,
    after: Annotated[str | None, Query(max_length=100, description="WAVE DEVICE")] = None,
    limit: Limit = 100,
) -> list[pages.TargetRow]:
    """Return its devices by wave; `after`: wave and id of the last one of the page before."""
    place = None
    if after is not None:
        wave, space, name = after.partition(" ")
        if not (space and wave.isascii() and wave.isdigit() and len(wave) < 4):  # noqa: PLR2004
            raise HTTPException(400, "after: a wave, a space, a device")
        place = (int(wave), name)
    with reading(site_of(request).engine) as conn:
        stored.rollout(conn, number)
        return pages.targets(conn, number, state=state, after=place, limit=limit)


@router.get("/rollouts/{number}/log")
def log(request: Request, number: Number) -> list[stored.Logged]:
    """Return what it did, oldest first."""
    with reading(site_of(request).engine) as conn:
        stored.rollout(conn, number)
        return [each for _, each in stored.log(conn, number)]


@router.post("/rollouts/{number}/{what}", status_code=202)
def ask(request: Request, number: Number, what: stored.Asked) -> Rollout:
    """Ask to pause, resume or abort it; the service carries it out within seconds."""
    site, actor = site_of(request), by(visitor_of(request))
    starting.ask(site.engine, number, what, actor, now=site.clock())
    return rollout(request, number)


@router.get("/models")
def models(request: Request) -> dict[str, list[BundleOffer]]:
    """Return what is signed, by model."""
    shelf = site_of(request).shelf
    return {name: list(shelf.offers(name)) for name in shelf.models()}


@router.get("/models/{name}")
def model(request: Request, name: Name) -> Model:
    """Return one, and how devices run it."""
    site = site_of(request)
    with reading(site.engine) as conn:
        running = registry.counts(conn).models.get(name, {})
        latency = registry.latency(conn, name)
    numbers = {str(v) if v is not None else "none": count for v, count in running.items()}
    return Model(name=name, offers=site.shelf.offers(name), devices=numbers, latency=latency)


@router.get("/events")
def happened(
    request: Request, device: str | None = None, before: Before = None, limit: Limit = 100
) -> list[events.Event]:
    """Return what devices told of, newest first; `before`: the last id of the page before."""
    with reading(site_of(request).engine) as conn:
        return events.newest(conn, device=device, before=before, limit=limit)


@router.get("/evidence")
def results(
    request: Request, device: str | None = None, model: str | None = None, limit: Limit = 100
) -> list[evidence.Evidence]:
    """Return results that came home, newest first."""
    with reading(site_of(request).engine) as conn:
        return evidence.find(conn, device=device, model=model, limit=limit)


@router.post("/evidence/judge", status_code=204)
def judge(request: Request, given: Judgement) -> Response:
    """Give a result the label that it should have had."""
    site, visitor = site_of(request), visitor_of(request)
    with site.engine.begin() as conn:
        now = site.clock()
        if not evidence.judge(conn, given.id, given.label, by=visitor.name, now=now):
            raise HTTPException(404, "There is no result of this id.")
        detail = {"id": given.id, "label": given.label}
        audit.record(conn, by(visitor), "evidence.judged", now=now, **detail)
    return Response(status_code=204)


@router.get("/audit")
def done(
    request: Request, who: str | None = None, before: Before = None, limit: Limit = 100
) -> list[audit.Entry]:
    """Return who did what, newest first; `before`: the last id of the page before."""
    with reading(site_of(request).engine) as conn:
        if who is not None:
            return list(pages.done_by(conn, who, before=before, limit=limit))
        return list(audit.entries(conn, before=before, limit=limit))


def _rollout(
    found: stored.Stored, waves: Mapping[int, Mapping[int, Mapping[DeviceState, int]]]
) -> Rollout:
    of = waves.get(found.id, {})
    return Rollout(
        id=found.id,
        plan=found.plan,
        state=found.progress.state.value,
        wave=found.progress.wave,
        since=found.progress.since,
        reason=found.progress.reason,
        created_at=found.created_at,
        created_by=found.created_by,
        asked=found.asked,
        waves=[
            {state.value: count for state, count in of.get(wave, {}).items()}
            for wave in range(len(found.plan.waves))
        ],
    )
