"""What all pages and the API share: database, repository, templates, clock; made once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, cast

from jinja2 import Environment
from markupsafe import Markup
from sqlalchemy import Engine
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from edgeslm.fleet.access import Passwords
from edgeslm.fleet.service.preview import Catalogue
from edgeslm.fleet.web.render import Static, environment, static_files

DONE: Final[Mapping[str, str]] = {
    "tagged": "The tag is set.",
    "untagged": "The tag is removed.",
    "judged": "It is judged.",
    "asked": "It is asked for; the service carries it out within seconds.",
    "password": "The password is changed; all other browsers are signed out.",
    "revoked": "The token is revoked.",
    "signed_out": "All other browsers are signed out.",
}
"""What a page says after something was done, by the word in its address."""


class Shelf(Catalogue, Protocol):
    """What a repository has, and of which models."""

    def models(self) -> Sequence[str]:
        """Return their names.

        Raises:
            EdgeSLMError: the repository cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever makes a request, known by a session or a token.

    Args:
        name: of the account.
        role: of it.
        csrf: of the session; "" for a token.
        session: what is kept of its cookie; "" for a token.
    """

    name: str
    role: str
    csrf: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """All of it.

    Args:
        engine: the fleet's database.
        shelf: what the repository offers.
        folder: of the repository, where reports lie; None: there are none.
        secure: browsers reach this by TLS alone, so that cookies say so.
        clock: seconds since 1970.
        poll_s: how often what is live is looked at again.
    """

    engine: Engine
    shelf: Shelf
    folder: Path | None = None
    secure: bool = True
    clock: Callable[[], float] = time.time
    poll_s: float = 1.0
    passwords: Passwords = field(default_factory=Passwords)
    static: Mapping[str, Static] = field(default_factory=static_files)
    templates: Environment = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", environment(self.static))

    def render(self, template: str, visitor: Visitor | None, values: Mapping[str, Any]) -> str:
        """Return a page, or a part of one, as this visitor may see it."""
        return self.templates.get_template(template).render(
            {"actor": visitor, "csrf": _field(visitor), "section": "", "live": "", "done": ""}
            | dict(values)
        )


def site_of(request: Request) -> Site:
    """Return what `create_app` was given."""
    return cast("Site", request.app.state.site)


def visitor_of(request: Request) -> Visitor:
    """Return who makes a request that was let in."""
    return cast("Visitor", request.state.visitor)


def page(
    request: Request, template: str, values: Mapping[str, Any], *, status: int = 200
) -> Response:
    """Return a page; `?done=` says what was done before it."""
    visitor = getattr(request.state, "visitor", None)
    done = DONE.get(request.query_params.get("done", ""), "")
    html = site_of(request).render(template, visitor, {"done": done, **values})
    return HTMLResponse(html, status)


def link(path: str, **query: object) -> str:
    """Return an address; what is None or "" is left out of its query."""
    given = {key: str(value) for key, value in query.items() if value not in {None, ""}}
    return str(URL(path).include_query_params(**given))


def _field(visitor: Visitor | None) -> Callable[[], object]:
    """Return what writes the hidden field that every form of a page has."""
    csrf = visitor.csrf if visitor is not None else ""
    return lambda: Markup('<input type="hidden" name="csrf" value="{}">').format(csrf)
