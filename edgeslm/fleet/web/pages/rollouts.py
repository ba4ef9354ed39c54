"""Roll-outs: all of them, a new one, one that moves; and asking it to pause, resume or abort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection

from edgeslm.core.rollout import DECIDED, ENDED, TRANSITIONS, DeviceState, Event
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.database import pages
from edgeslm.fleet.database import rollouts as stored
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.service import starting
from edgeslm.fleet.service.preview import Preview, preview
from edgeslm.fleet.web import live
from edgeslm.fleet.web.forms import FormError, fields_of, plan_of
from edgeslm.fleet.web.security import by, for_viewers
from edgeslm.fleet.web.site import Site, link, page, site_of, visitor_of

router = APIRouter()
PAGE: Final = 50
_TARGETS: Final = 25
_SHOWN: Final = 50  # of devices that cannot be moved
_LOG: Final = 200  # lines, the newest
_STILL: Final = frozenset(DeviceState) - DECIDED - {DeviceState.WAITING, DeviceState.MOVED}
_EVENTS: Final = {"pause": Event.PAUSE, "resume": Event.RESUME, "abort": Event.ABORT}
_MEANING: Final = {
    "pause": "No device is moved until it is resumed. Those that are on their way go on.",
    "resume": "It goes on where it was; the wave soaks anew.",
    "abort": "No further device is moved, and each that was is given back its version before. "
    "This cannot be taken back; start another roll-out to go on.",
}


async def _fields(request: Request) -> dict[str, str]:
    return fields_of(await request.form())


Fields = Annotated[dict[str, str], Depends(_fields)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("/rollouts")
def rollouts(request: Request) -> Response:
    """Show all."""
    before = _whole(request.query_params.get("before", ""))
    values = _all(site_of(request), before)
    more = {"title": "Roll-outs", "section": "/rollouts"}
    return page(
        request,
        "rollouts.html",
        {**more, "live": link("/live/rollouts", before=before), **values},
    )


@router.get("/live/rollouts")
def rollouts_live(request: Request) -> Response:
    """Show all as they change."""
    site, before = site_of(request), _whole(request.query_params.get("before", ""))
    return live.stream(request, lambda: {"rollouts": ("parts/rollouts.html", _all(site, before))})


@router.get("/rollouts/new")
def new(request: Request) -> Response:
    """Show the form."""
    return _form(request, fields_of(request.query_params))


@router.post("/rollouts/preview")
@for_viewers
def look(request: Request, form: Fields) -> Response:
    """Show what it would do."""
    return _previewed(request, form)


@router.post("/rollouts")
def begin(request: Request, form: Fields) -> Response:
    """Start one."""
    site, visitor = site_of(request), visitor_of(request)
    try:
        number = starting.start(
            site.engine, site.shelf, plan_of(form), by(visitor), now=site.clock()
        )
    except EdgeSLMError:
        return _previewed(request, form)  # it says why not
    return RedirectResponse(f"/rollouts/{number}", 303)


@router.get("/rollouts/{number}")
def one(request: Request, number: Number) -> Response:
    """Show one."""
    query = _query(request)
    values = {
        n: v
        for _, part in _parts(site_of(request), number, query).values()
        for n, v in part.items()
    }
    return page(
        request,
        "rollout.html",
        {
            "title": f"Roll-out {number}",
            "section": "/rollouts",
            "live": link(f"/rollouts/{number}/live", **query),
            **values,
        },
    )


@router.get("/rollouts/{number}/live")
def one_live(request: Request, number: Number) -> Response:
    """Show it as it moves."""
    site, query = site_of(request), _query(request)
    return live.stream(request, lambda: _parts(site, number, query))


@router.get("/rollouts/{number}/{what}")
def confirm(request: Request, number: Number, what: str) -> Response:
    """Ask whether it is meant."""
    _known(what)
    with reading(site_of(request).engine) as conn:
        stored.rollout(conn, number)
    values = {"title": f"{what.capitalize()} roll-out {number}?", "section": "/rollouts"}
    shown = {"what": what, "meaning": _MEANING[what], "rollout": {"id": number}}
    return page(request, "rollout_ask.html", {**values, **shown})


@router.post("/rollouts/{number}/{what}")
def ask(request: Request, number: Number, what: str) -> Response:
    """Ask the conductor for it."""
    asked, site, visitor = _known(what), site_of(request), visitor_of(request)
    starting.ask(site.engine, number, asked, by(visitor), now=site.clock())
    return RedirectResponse(link(f"/rollouts/{number}", done="asked"), 303)


def running(conn: Connection) -> list[dict[str, Any]]:
    """Return the roll-outs that have not ended, as tables show them."""
    return _rows(conn, stored.active(conn))


def _known(what: str) -> stored.Asked:
    if what not in _EVENTS:
        raise HTTPException(404, "A roll-out can be paused, resumed or aborted.")
    return cast("stored.Asked", what)


def _all(site: Site, before: int | None) -> dict[str, Any]:
    with reading(site.engine) as conn:
        found = stored.newest(conn, before=before, limit=PAGE + 1)
        rows = _rows(conn, found[:PAGE])
    more = {
        "told": "",
        "first": "/rollouts" if before is not None else "",
        "next": link("/rollouts", before=found[PAGE - 1].id) if len(found) > PAGE else "",
    }
    return {"rollouts": rows, "pages": more}


def _rows(conn: Connection, found: Sequence[stored.Stored]) -> list[dict[str, Any]]:
    waves = stored.waves(conn, [each.id for each in found])
    rows = []
    for each in found:
        counts: Counter[DeviceState] = Counter()
        for of_wave in waves.get(each.id, {}).values():
            counts += of_wave
        rows.append({**_row(each), "counts": _named(counts), "total": counts.total()})
    return rows


def _row(each: stored.Stored) -> dict[str, Any]:
    return {
        "id": each.id,
        "model": each.plan.model,
        "version": each.plan.version,
        "state": each.progress.state.value,
        "wave": each.progress.wave,
        "waves": len(each.plan.waves),
        "since": each.progress.since,
        "reason": each.progress.reason,
        "created_at": each.created_at,
        "created_by": each.created_by,
        "asked": each.asked,
        "asked_by": each.asked_by,
    }


def _named(counts: Mapping[DeviceState, int]) -> dict[str, int]:
    return {state.value: count for state, count in counts.items()}


def _query(request: Request) -> dict[str, str]:
    given = request.query_params
    state = given.get("state", "")
    known = state in {each.value for each in DeviceState}
    return {"state": state if known else "", "after": given.get("after", "")}


def _parts(
    site: Site, number: int, query: Mapping[str, str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    state = DeviceState(query["state"]) if query["state"] else None
    with reading(site.engine) as conn:
        found = stored.rollout(conn, number)
        by_wave = stored.waves(conn, [number]).get(number, {})
        rows = pages.targets(
            conn, number, state=state, after=_place(query["after"]), limit=_TARGETS + 1
        )
        lines = stored.log(conn, number)
    counts: Counter[DeviceState] = Counter()
    for of_wave in by_wave.values():
        counts += of_wave
    rollout, named = _row(found), _named(counts)
    waves = [
        {
            "amount": amount,
            "counts": _named(by_wave.get(wave, {})),
            "total": sum(by_wave.get(wave, {}).values()),
            "ended": sum(n for s, n in by_wave.get(wave, {}).items() if s in DECIDED | _STILL),
            "now": wave == found.progress.wave and found.progress.state not in ENDED,
        }
        for wave, amount in enumerate(found.plan.waves)
    ]
    here = f"/rollouts/{number}"
    last = rows[_TARGETS - 1] if len(rows) > _TARGETS else None
    more = {
        "told": "",
        "first": link(here, state=query["state"]) if query["after"] else "",
        "next": link(here, state=query["state"], after=f"{last.wave} {last.device}")
        if last is not None
        else "",
    }
    controls = [
        what for what, event in _EVENTS.items() if (found.progress.state, event) in TRANSITIONS
    ]
    shared = {"rollout": rollout, "plan": found.plan, "counts": named}
    return {
        "state": ("parts/rollout_state.html", {**shared, "controls": controls}),
        "waves": ("parts/rollout_waves.html", {**shared, "waves": waves}),
        "targets": (
            "parts/rollout_devices.html",
            {**shared, "targets": rows[:_TARGETS], "pages": more, "shown": query["state"]},
        ),
        "log": (
            "parts/rollout_log.html",
            {
                "log": [
                    {"id": n, "at": each.at, "what": each.what} for n, each in lines[::-1][:_LOG]
                ]
            },
        ),
    }


def _form(
    request: Request,
    form: Mapping[str, str],
    *,
    faults: Mapping[str, str] | None = None,
    shown: Mapping[str, Any] | None = None,
    status: int = 200,
) -> Response:
    shelf = site_of(request).shelf
    offered = [
        (model, version)
        for model in shelf.models()
        for version in sorted({offer.version for offer in shelf.offers(model)}, reverse=True)
    ]
    values = {
        "title": "New roll-out",
        "section": "/rollouts",
        "form": form,
        "faults": faults or {},
        "preview": shown,
        "offered": offered,
    }
    return page(request, "rollout_new.html", values, status=status)


def _previewed(request: Request, form: Mapping[str, str]) -> Response:
    site = site_of(request)
    try:
        plan = plan_of(form)
        with reading(site.engine) as conn:
            found = preview(conn, site.shelf, plan, site.clock())
    except FormError as err:
        return _form(request, form, faults=err.faults, status=400)
    except EdgeSLMError as err:
        field = "where" if err.code in {"fleet.filter", "rollout.nothing_matches"} else ""
        return _form(request, form, faults={field: str(err)}, status=400)
    return _form(request, form, shown=_shown(found))


def _shown(found: Preview) -> dict[str, Any]:
    sizes = found.sizes()
    return {
        "total": len(found.waves),
        "types": sorted(set(found.types.values())),
        "waves": [
            {"amount": amount, "total": sum(size.values()), "types": size}
            for amount, size in zip(found.plan.waves, sizes, strict=True)
        ],
        "unfit": found.unfit,
        "unfit_shown": sorted(found.unfit.items())[:_SHOWN],
        "busy": found.busy,
        "busy_shown": sorted(found.busy.items())[:_SHOWN],
        "there": len(found.there),
        "startable": not found.unfit and not found.busy,
    }


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None  # noqa: PLR2004


def _place(text: str) -> tuple[int, str] | None:
    wave, space, device = text.partition(" ")
    number = _whole(wave)
    return (number, device) if space and number is not None else None
