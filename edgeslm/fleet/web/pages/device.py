"""One device: what it runs, how it answers, what it said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from edgeslm.contract.base import Name, problems_of
from edgeslm.contract.fleet import Assignment
from edgeslm.fleet.database import assignments, audit, events, evidence, registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.director import opened
from edgeslm.fleet.web import live
from edgeslm.fleet.web.charts import chart
from edgeslm.fleet.web.render import segment, span, whole
from edgeslm.fleet.web.security import by
from edgeslm.fleet.web.site import Site, link, page, site_of, visitor_of

router = APIRouter()
_EVENTS: Final = 50
_EVIDENCE: Final = 20
_KEY: Final[TypeAdapter[str]] = TypeAdapter(Name)
_MB: Final = 1e6


@router.get("/devices/{device:path}/live")
def device_live(request: Request, device: str) -> Response:
    """Show it as it changes."""
    site = site_of(request)
    return live.stream(request, lambda: _parts(site, device))


@router.get("/devices/{device:path}")
def one(request: Request, device: str) -> Response:
    """Show a device."""
    return _page(request, device)


@router.post("/devices/{device:path}/tags")
def tags(
    request: Request,
    device: str,
    key: Annotated[str, Form()],
    value: Annotated[str, Form()] = "",
    remove: Annotated[str, Form()] = "",
) -> Response:
    """Give it a tag, or take one."""
    site = site_of(request)
    try:
        if not remove:
            _KEY.validate_python(key)
    except ValidationError as err:
        return _page(request, device, key=key, value=value, fault=problems_of(err)[0][1])
    given = None if remove else value.strip()
    if given == "":
        return _page(request, device, key=key, value=value, fault="A tag has a value.")
    with site.engine.begin() as conn:
        registry.tag(conn, [device], key, given)
        what = "device.untagged" if given is None else "device.tagged"
        detail = {"device": device, "key": key} | ({} if given is None else {"value": given})
        audit.record(conn, by(visitor_of(request)), what, now=site.clock(), **detail)
    done = "untagged" if given is None else "tagged"
    return RedirectResponse(link(f"/devices/{segment(device)}", done=done), 303)


def _page(
    request: Request, device: str, *, key: str = "", value: str = "", fault: str = ""
) -> Response:
    values = {
        n: v for _, part in _parts(site_of(request), device).values() for n, v in part.items()
    }
    row = values["device"]
    shown = [{"key": k, "value": v, "given": k in row.given} for k, v in sorted(row.tags.items())]
    return page(
        request,
        "device.html",
        {
            "title": device,
            "section": "/",
            "live": f"/devices/{segment(device)}/live",
            "tags": shown,
            "tag_key": key,
            "tag_value": value,
            "tag_fault": fault,
            **values,
        },
        status=400 if fault else 200,
    )


def _parts(site: Site, device: str) -> dict[str, tuple[str, dict[str, Any]]]:
    now = site.clock()
    since = now - registry.HOURS_KEPT * 3600.0
    with reading(site.engine) as conn:
        row = registry.device(conn, device)
        if row is None:
            raise HTTPException(404, "No device with this id has registered.")
        stored = assignments.last(conn, device)
        typical = _typical(conn, row)
        hours = {
            model.model: registry.by_hour(conn, since=since, device=device, model=model.model)
            for model in row.models
        }
        happened = events.newest(conn, device=device, limit=_EVENTS)
        results = evidence.find(conn, device=device, limit=_EVIDENCE)
    state = row.state or {}
    told = {each.get("name"): each for each in state.get("models", ())}
    return {
        "facts": ("parts/device_facts.html", _facts(row, stored)),
        "models": (
            "parts/device_models.html",
            {
                "device": row,
                "models": [
                    _model(model, told.get(model.model, {}), typical.get(model.model))
                    for model in row.models
                ],
            },
        ),
        "alarms": (
            "parts/device_alarms.html",
            {
                "charts": [
                    chart(name, rows, now, registry.HOURS_KEPT)
                    for name, rows in hours.items()
                    if rows
                ]
            },
        ),
        "evidence": (
            "parts/evidence.html",
            {"device": row, "evidence": results, "here": f"/devices/{segment(device)}"},
        ),
        "events": ("parts/events.html", {"events": happened}),
    }


def _facts(row: registry.DeviceRow, stored: assignments.Stored | None) -> dict[str, Any]:
    state, update = row.state or {}, row.update or {}
    faults = [
        f"{model['name']}: {_said(model['error'])}"
        for model in state.get("models", ())
        if isinstance(model.get("error"), Mapping)
    ]
    if isinstance(update.get("error"), Mapping):
        faults.append(f"Its last change came to nothing: {_said(update['error'])}")
    return {
        "device": row,
        "faults": faults,
        "progress": _progress(update),
        "assignment": _assignment(stored),
        "rollout": stored.rollout if stored is not None else None,
        "uptime": span(state["uptime_s"]) if state else "unknown",
        "memory": f"{state['rss_mb']:.0f} MB" if state else "unknown",
        "outbox": _outbox(state) if state else "unknown",
    }


def _assignment(stored: assignments.Stored | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    found: Assignment = opened(stored.envelope)
    models = ", ".join(f"{name} {model.version}" for name, model in found.models.items())
    return {"seq": stored.seq, "expires": stored.expires, "models": models or "no model"}


def _progress(update: Mapping[str, Any]) -> str:
    done, total = update.get("done_bytes"), update.get("total_bytes")
    of = f" of {update['model']} {update.get('version', '')}" if "model" in update else ""
    waits = f", waits for {update['waiting']}" if "waiting" in update else ""
    if isinstance(done, int) and isinstance(total, int) and total > 0:
        return f"{done / _MB:.1f} of {total / _MB:.1f} MB{of}{waits}"
    return f"{of}{waits}".strip(" ,")


def _outbox(state: Mapping[str, Any]) -> str:
    said = f"{whole(state['outbox'])} results"
    if state["withheld"]:
        said += f"; {whole(state['withheld'])} inputs are held back meanwhile"
    return said


def _said(error: Mapping[str, Any]) -> str:
    return f"{error.get('message', '')} [{error.get('code', '')}]"


def _typical(conn: Connection, row: registry.DeviceRow) -> dict[str, float | None]:
    """Return the median p99 of this type of device, by model, for the version that runs here."""
    return {
        model.model: next(
            (
                each.p99_ms
                for each in registry.latency(conn, model.model)
                if (each.version, each.profile) == (model.version, row.profile)
            ),
            None,
        )
        for model in row.models
    }


def _model(
    row: registry.DeviceModel, told: Mapping[str, Any], typical: float | None
) -> dict[str, Any]:
    names = (
        *("model", "version", "committed", "state", "trial", "provider", "variant", "node_share"),
        *("error", "p50_ms", "p99_ms", "answers", "alarms", "errors"),
    )
    coverage = told.get("coverage") or {}
    return {
        **{name: getattr(row, name) for name in names},
        "typical": typical,
        "fallen": coverage.get("fallen") or (),
        "passed_over": told.get("passed_over") or (),
    }
