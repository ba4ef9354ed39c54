"""The bundles that the settings name, taken as the agent takes them: hashes, golden file, all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from edgeslm.agent.desired import Desired, Source
from edgeslm.agent.shelf import Shelf
from edgeslm.cli.checks import Finding, guarded, ok, warning
from edgeslm.contract.settings import AgentSettings
from edgeslm.core.support import has_ended
from edgeslm.ports import Memory
from edgeslm.runtime.model import load_model
from edgeslm.runtime.placement import placed, proved, remarks
from edgeslm.runtime.profiles import load_profile

_PLACE: Final = "Export for what this device has; `edgeslm doctor` lists its providers."
_RENEW: Final = "Export it anew, or ask whoever made it for a newer version."
_UPDATER: Final = "See that `edgeslm updater` runs; its log says what it does."
_TIME: Final = "Publish JSON with the time of the text, and name it there: docs/equipment.md."
_REMEDY: Final = "Copy a whole bundle for this device there, or export it again."


def models(settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether each model loads, and answers its golden file as it did where it was exported."""
    if settings is None:
        return
    told: list[str] = []
    shelf = None if settings.update is None else Shelf(settings.update.dir)
    desired = Desired(settings, shelf, lambda *trouble: told.append(trouble[2]))
    desired.read()
    plan = desired.fitting()
    for problem in told:
        yield warning("updates", problem, _UPDATER)
    for name, sources in plan.sources.items():
        find = partial(_model, name, sources, settings)
        yield from guarded(f"model.{name}", find, remedy=_REMEDY)


def _model(name: str, sources: Sequence[Source], settings: AgentSettings) -> Iterator[Finding]:
    """Load one, from where the agent would.

    Raises:
        EdgeSLMError: see `load_model`; ProfileError: there is no such profile, or none fits.
    """
    if not sources:
        yield warning(f"model.{name}", "no bundle yet: the updater brings it", _UPDATER)
        return
    profile = settings.profile
    model = load_model(
        sources[0].path,
        profile=load_profile(profile) if profile else None,
        cache_entries=0,
        verdict_dir=None,  # replayed each time
        expected=sources[0].hash,
    )
    which = f"{model.ref['name']} {model.ref['version']} ({model.ref['hash'][:12]})"
    where = placed(model.coverage, model.provider)
    what = f"{model.task}, two stages" if len(model.bundle.manifest.stages()) > 1 else model.task
    found = f"{which}: {what}, {where}; golden file answered as expected"
    yield ok(f"model.{name}", f"{found}; verified: {proved(model.verified)}")
    until = model.supported_until
    if has_ended(until, wall=time.time()):
        yield warning(f"model.{name}", f"{which}: supported until {until}, and no longer", _RENEW)
    if told := "; ".join(remarks(model)):
        yield warning(f"model.{name}", told, _PLACE)
    if without := sorted(untimed(name, model.memory(), settings)):
        what = "no pause or late reading is seen, and one that comes twice by its id alone"
        yield warning(f"model.{name}", f"no `time` by {', '.join(without)}: {what}", _TIME)


def untimed(name: str, memory: Memory | None, settings: AgentSettings) -> Iterator[str]:
    """Yield the routes by which a model with windows or sessions hears no times."""
    if memory is not None and {"series", "sessions"} & memory.counts().keys():
        for key, route in settings.routes.items():
            if name in route.models and route.time is None:
                yield f"routes.{key}"
