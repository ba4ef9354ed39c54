"""The first page: devices by state, and those that a filter finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast, get_args

from fastapi import APIRouter, Request, Response

from edgeslm.core.filters import FilterError, parse
from edgeslm.fleet.database import registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import PlaceError
from edgeslm.fleet.web import live
from edgeslm.fleet.web.pages import rollouts
from edgeslm.fleet.web.render import whole
from edgeslm.fleet.web.site import Site, link, page, site_of

router = APIRouter()
PAGE: Final = 50
MAX_FILTER_CHARS: Final = 2000
_COLUMNS: Final = (
    *(("Device", "id"), ("Type", "profile"), ("Link", "online"), ("Health", "health")),
    *(("Models", None), ("Update", "phase"), ("Heard", "heard_at"), ("Tags", None)),
)
_HEALTH: Final = (("ok", "good"), ("starting", "warn"), ("failing", "bad"), ("idle", "quiet"))


@router.get("/")
def fleet(request: Request) -> Response:
    """Show the fleet."""
    query = _query(request)
    values = {
        name: value
        for _, part in _parts(site_of(request), query).values()
        for name, value in part.items()
    }
    return page(
        request,
        "fleet.html",
        {
            "title": "Fleet",
            "section": "/",
            "live": link("/live/fleet", **query),
            **values,
        },
        status=400 if values["fault"] else 200,
    )


@router.get("/live/fleet")
def fleet_live(request: Request) -> Response:
    """Show it as it changes."""
    site, query = site_of(request), _query(request)
    return live.stream(request, lambda: _parts(site, query))


def _query(request: Request) -> dict[str, str]:
    given = request.query_params
    sort = given.get("sort", "id")
    return {
        "q": given.get("q", "")[:MAX_FILTER_CHARS],
        "sort": sort if sort in get_args(registry.Sort) else "id",
        "down": "1" if given.get("down") else "",
        "after": given.get("after", ""),
    }


def _parts(site: Site, query: Mapping[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what the page shows, by the id of its parts."""
    q, now = query["q"], site.clock()
    fault, found = "", None
    with reading(site.engine) as conn:
        counts = registry.counts(conn)
        running = rollouts.running(conn)
        try:
            found = registry.find(
                conn,
                parse(q),
                now=now,
                sort=cast("registry.Sort", query["sort"]),
                descending=bool(query["down"]),
                after=query["after"] or None,
                limit=PAGE,
            )
        except (FilterError, PlaceError) as err:
            fault = str(err)
    return {
        "counts": ("parts/counts.html", {"tiles": _tiles(counts), "q": q}),
        "running": ("parts/running.html", {"running": running}),
        "devices": (
            "parts/devices.html",
            {
                "q": q,
                "fault": fault,
                "page": found,
                "columns": [_column(word, sort, query) for word, sort in _COLUMNS],
                "pages": _pages(found, query) if found is not None else None,
            },
        ),
    }


def _tiles(counts: registry.FleetCounts) -> list[dict[str, Any]]:
    moving = counts.total - counts.phase.get("idle", 0)
    rows = [
        ("registered", counts.total, "", ""),
        ("online", counts.online, "good", "online = true"),
        ("offline", counts.total - counts.online, "bad", "online = false"),
        *(
            (f"health: {word}", counts.health.get(word, 0), tone, f"health = {word}")
            for word, tone in _HEALTH
        ),
        ("updating", moving, "", "phase != idle"),
    ]
    return [
        {
            "word": word,
            "count": count,
            "tone": tone if count else "",
            "q": q,
            "href": link("/", q=q),
        }
        for word, count, tone, q in rows
    ]


def _column(word: str, sort: str | None, query: Mapping[str, str]) -> dict[str, str]:
    if sort is None:
        return {"word": word, "href": "", "sorted": ""}
    sorted_by = query["sort"] == sort
    down = "" if query["down"] else "1"
    return {
        "word": word,
        "href": link("/", q=query["q"], sort=sort, down=down if sorted_by else ""),
        "sorted": ("descending" if query["down"] else "ascending") if sorted_by else "",
    }


def _pages(found: registry.Page, query: Mapping[str, str]) -> dict[str, str]:
    here = {name: query[name] for name in ("q", "sort", "down")}
    shown = len(found.devices)
    return {
        "told": f"{whole(shown)} of {whole(found.total)} device{'' if found.total == 1 else 's'}",
        "first": link("/", **here) if query["after"] else "",
        "next": link("/", **here, after=found.next) if found.next else "",
    }
