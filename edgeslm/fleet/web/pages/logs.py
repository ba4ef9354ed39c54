"""What came home and what was done: evidence, with its judging, and the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from edgeslm.fleet.database import audit, evidence, pages
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web import live
from edgeslm.fleet.web.security import by
from edgeslm.fleet.web.site import Site, link, page, site_of, visitor_of

router = APIRouter()
PAGE: Final = 50


@router.get("/evidence")
def results(request: Request) -> Response:
    """Show results of all devices."""
    before = request.query_params.get("before", "")
    values = {"title": "Evidence", "section": "/evidence"}
    more = {"live": link("/live/evidence", before=before)}
    return page(request, "evidence.html", {**values, **more, **_results(site_of(request), before)})


@router.get("/live/evidence")
def results_live(request: Request) -> Response:
    """Show them as they come."""
    site, before = site_of(request), request.query_params.get("before", "")
    return live.stream(
        request, lambda: {"evidence": ("parts/evidence.html", _results(site, before))}
    )


@router.post("/evidence/judge")
def judge(
    request: Request,
    id: Annotated[str, Form(max_length=200)],  # noqa: A002 -- of the form
    label: Annotated[str, Form(max_length=200)],
    back: Annotated[str, Form()] = "/evidence",
) -> Response:
    """Give a result the label that it should have had."""
    site, visitor = site_of(request), visitor_of(request)
    label = label.strip()
    if not label or not label.isprintable():
        raise HTTPException(400, "A label is a word that can be printed.")
    with site.engine.begin() as conn:
        now = site.clock()
        if not evidence.judge(conn, id, label, by=visitor.name, now=now):
            raise HTTPException(404, "There is no result of this id.")
        audit.record(conn, by(visitor), "evidence.judged", now=now, id=id, label=label)
    there = back if back.startswith("/devices/") and back.isprintable() else "/evidence"
    return RedirectResponse(link(there, done="judged"), 303)


@router.get("/audit")
def log(request: Request) -> Response:
    """Show who did what."""
    who = request.query_params.get("who", "")[:64]
    text = request.query_params.get("before", "")
    before = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None  # noqa: PLR2004
    with reading(site_of(request).engine) as conn:
        if who:
            found = pages.done_by(conn, who, before=before, limit=PAGE + 1)
        else:
            found = audit.entries(conn, before=before, limit=PAGE + 1)
    more = {
        "told": "",
        "first": link("/audit", who=who) if before is not None else "",
        "next": link("/audit", who=who, before=found[PAGE - 1].id) if len(found) > PAGE else "",
    }
    values = {"title": "Audit log", "section": "/audit", "who": who}
    return page(request, "audit.html", {**values, "entries": found[:PAGE], "pages": more})


def _results(site: Site, before: str) -> dict[str, Any]:
    at, space, name = before.partition(" ")
    place = None
    if space and len(at) <= 20 and at.replace(".", "", 1).isdigit() and at.isascii():  # noqa: PLR2004
        place = (float(at), name)
    with reading(site.engine) as conn:
        found = evidence.find(conn, before=place, limit=PAGE + 1)
    last = found[PAGE - 1] if len(found) > PAGE else None
    more = {
        "told": "",
        "first": "/evidence" if place is not None else "",
        "next": link("/evidence", before=f"{last.at!r} {last.id}") if last is not None else "",
    }
    return {"device": None, "evidence": found[:PAGE], "pages": more, "here": "/evidence"}
