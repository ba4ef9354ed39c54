"""Models: what is signed, who runs it, and versions compared with what their exporter said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, HTTPException, Request, Response

from edgeslm.contract.fleet import BundleOffer
from edgeslm.fleet.database import registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.reports import Report, report_of
from edgeslm.fleet.web.site import Site, page, site_of

router = APIRouter()
# A report styles itself, and runs nothing: it is shown apart from everything else.
_POLICY: Final = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)


@router.get("/models")
def models(request: Request) -> Response:
    """Show all: those that are signed, and those that devices run all the same."""
    site = site_of(request)
    with reading(site.engine) as conn:
        running = registry.counts(conn).models
    signed = site.shelf.models()
    rows = []
    for name in sorted({*signed, *running}):
        offers = site.shelf.offers(name) if name in signed else []
        versions = {offer.version for offer in offers}
        counts = running.get(name, {})
        rows.append(
            {
                "name": name,
                "task": offers[0].task if offers else "",
                "newest": max(versions, default=None),
                "versions": len(versions),
                "devices": sum(counts.values()),
                "running": sorted(counts.items(), key=lambda item: -(item[0] or 0)),
            }
        )
    return page(request, "models.html", {"title": "Models", "section": "/models", "models": rows})


@router.get("/models/{name:path}/report/{bundle}")
def report(request: Request, name: str, bundle: str) -> Response:
    """Show the report of one bundle, as its exporter wrote it."""
    site = site_of(request)
    known = bundle in {offer.bundle for offer in site.shelf.offers(name)}
    found = _report(site, bundle) if known else Report()
    if found.page is None:
        raise HTTPException(404, "There is no report of this bundle.")
    headers = {"content-security-policy": _POLICY}
    return Response(found.page.read_bytes(), media_type="text/html", headers=headers)


@router.get("/models/{name:path}")
def model(request: Request, name: str) -> Response:
    """Show one."""
    site = site_of(request)
    offers = site.shelf.offers(name)
    with reading(site.engine) as conn:
        counts = registry.counts(conn).models.get(name, {})
        latencies = registry.latency(conn, name)
    if not offers and not counts:
        raise HTTPException(404, "No model of this name is signed, and no device runs one.")
    values = {
        "title": name,
        "section": "/models",
        "name": name,
        "versions": _versions(offers, counts, latencies),
        "latencies": _latencies(latencies),
        "quality": [_quality(site, offer) for offer in sorted(offers, key=lambda o: -o.version)],
    }
    return page(request, "model.html", values)


def _versions(
    offers: Sequence[BundleOffer],
    counts: Mapping[int | None, int],
    latencies: Sequence[registry.Latency],
) -> list[dict[str, Any]]:
    rows = []
    numbers = {offer.version for offer in offers} | {number for number in counts if number}
    for number in sorted(numbers, reverse=True):
        of = [each for each in latencies if each.version == number]
        answers = sum(each.answers for each in of)
        rows.append(
            {
                "version": number,
                "devices": counts.get(number, 0),
                "answers": answers,
                "alarm_share": sum(each.alarms for each in of) / answers if answers else None,
                "error_share": sum(each.errors for each in of) / answers if answers else None,
                "offers": [offer for offer in offers if offer.version == number],
            }
        )
    return rows


def _latencies(found: Sequence[registry.Latency]) -> dict[str, Any]:
    versions = sorted({each.version for each in found}, reverse=True)
    cells: dict[str, dict[int, registry.Latency]] = defaultdict(dict)
    for each in found:
        cells[each.profile][each.version] = each
    rows = [
        {"type": kind, "cells": [of.get(version) for version in versions]}
        for kind, of in sorted(cells.items())
    ]
    return {"versions": versions, "rows": rows}


def _report(site: Site, bundle: str) -> Report:
    return report_of(site.folder, bundle) if site.folder is not None else Report()


def _quality(site: Site, offer: BundleOffer) -> dict[str, Any]:
    found = _report(site, offer.bundle)
    names = dict.fromkeys([*found.fp32, *(m for of in found.metrics.values() for m in of)])
    return {
        "version": offer.version,
        "bundle": offer.bundle,
        "profiles": ", ".join(offer.profiles) or "no profile",
        "page": found.page is not None,
        "variants": list(found.metrics),
        "rows": [
            {
                "metric": name,
                "fp32": found.fp32.get(name),
                "found": [of.get(name) for of in found.metrics.values()],
            }
            for name in names
        ],
        "cautions": found.cautions,
    }
