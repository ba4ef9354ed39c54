"""The bundles that the settings name, taken as the agent takes them: hashes, golden file, all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from edgeslm.cli.checks import Finding, guarded, ok, warning
from edgeslm.contract.settings import AgentSettings, ModelSettings
from edgeslm.runtime.model import load_model
from edgeslm.runtime.placement import placed, proved, remarks
from edgeslm.runtime.profiles import detect_profile, load_profile

_PLACE: Final = "Export for what this device has; `edgeslm doctor` lists its providers."
_REMEDY: Final = "Copy a whole bundle for this device there, or export it again."


def models(settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether each model loads, and answers its golden file as it did where it was exported."""
    if settings is not None:
        for name, model in settings.models.items():
            find = partial(_model, name, model, settings.profile)
            yield from guarded(f"model.{name}", find, remedy=_REMEDY)


def _model(name: str, settings: ModelSettings, profile: str | None) -> Iterator[Finding]:
    """Load one.

    Raises:
        EdgeSLMError: see `load_model`; ProfileError: there is no such profile, or none fits.
    """
    model = load_model(
        settings.bundle,
        profile=load_profile(profile) if profile else detect_profile(),
        cache_entries=0,
        verdict_dir=None,  # replayed each time
    )
    which = f"{model.ref['name']} {model.ref['version']} ({model.ref['hash'][:12]})"
    where = placed(model.coverage, model.provider)
    found = f"{which}: {model.task}, {where}; golden file answered as expected"
    yield ok(f"model.{name}", f"{found}; verified: {proved(model.verified)}")
    if told := "; ".join(remarks(model)):
        yield warning(f"model.{name}", told, _PLACE)
