"""What this device is to run: its settings file, and over it what the fleet has assigned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeslm.contract.routes import ModelSettings
from edgeslm.contract.settings import AgentSettings
from edgeslm.errors import RejectedError
from edgeslm.ports import SlotsUnavailableError

if TYPE_CHECKING:  # an agent without [update] does without them, and their memory
    from edgeslm.agent.shelf import Shelf
    from edgeslm.contract.fleet import DeviceConfig

SlotName = Literal["a", "b"]


class ConfigUnfitError(RejectedError):
    """A configuration does not go together with this device's settings and models."""

    code = "config.unfit"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's bundle may come from.

    Args:
        path: its folder.
        hash: that it must have; None: any.
        slot: of the updater; None: the settings file names the folder.
    """

    path: Path
    hash: str | None = None
    slot: SlotName | None = None

    def __str__(self) -> str:
        return f"slot {self.slot}" if self.slot is not None else str(self.path)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run.

    Args:
        settings: the file's, with the fleet's configuration over them.
        sources: by model, best first.
    """

    settings: AgentSettings
    sources: Mapping[str, tuple[Source, ...]]


@dataclass(frozen=True, slots=True)
class Laid:
    """A configuration of the fleet.

    Args:
        seq: of the assignment that it came with; 0 without one.
        config: None: what the settings file says.
    """

    seq: int = 0
    config: DeviceConfig | None = None


@dataclass(slots=True)
class Desired:
    """Owned by the agent's main thread.

    Args:
        file: what the settings file says.
        shelf: the updater's slots; None: this device has no updater.
        trouble: tells an event: event, code, message, model.
        on_trial: a configuration that is tried; None: the committed one is in force.
        tried: models that are here only because a bundle of theirs is being tried.
    """

    file: AgentSettings
    shelf: Shelf | None
    trouble: Callable[[str, str, str, str | None], None]
    on_trial: Laid | None = None
    tried: set[str] = field(default_factory=set)
    _refused: str = ""  # why the configuration is not lived by, as it was told

    @property
    def laid(self) -> Laid:
        """The configuration in force."""
        committed = Laid() if self.shelf is None else self.shelf.laid
        return self.on_trial or committed

    def plan(self) -> Plan:
        """Return what is to run.

        Raises:
            ConfigUnfitError: the configuration does not fit.
        """
        return self._plan(laid_over(self.file, self.laid.config, self._brought()))

    def fitting(self) -> Plan:
        """Return what is to run, without a configuration that does not fit, which is told."""
        try:
            plan = self.plan()
        except ConfigUnfitError as err:
            if self.on_trial is not None:
                self.on_trial = None
                self.trouble("trial_reverted", err.code, str(err), None)
                return self.fitting()
            if str(err) != self._refused:
                self.trouble("config_refused", err.code, str(err), None)
            self._refused = str(err)
            return self._plan(laid_over(self.file, None, self._brought()))
        self._refused = ""
        return plan

    def read(self) -> None:
        """See what the updater has brought; where that cannot be read, go on with what is known."""
        if self.shelf is None:
            return
        try:
            damage = self.shelf.read()
        except SlotsUnavailableError as err:
            self.trouble("slots_unreadable", err.code, str(err), None)
        else:
            if damage is not None:
                self.trouble("slots_unreadable", damage.code, str(damage), None)

    def _brought(self) -> set[str]:
        """Models that the updater has brought, or is bringing."""
        return self.tried if self.shelf is None else self.tried | self.shelf.models()

    def _plan(self, settings: AgentSettings) -> Plan:
        sources = {name: self._sources(name, model) for name, model in settings.models.items()}
        return Plan(settings, sources)

    def _sources(self, name: str, model: ModelSettings) -> tuple[Source, ...]:
        best, last = ([], []) if self.shelf is None else self.shelf.sources(name)
        own = [] if model.bundle is None else [Source(model.bundle)]
        return tuple(dict.fromkeys([*best, *own, *last]))


def laid_over(
    settings: AgentSettings, config: DeviceConfig | None, models: Iterable[str]
) -> AgentSettings:
    """Return `settings` with a configuration over them, and with `models` besides.

    Raises:
        ConfigUnfitError: they do not go together.
    """
    known = dict(settings.models)
    for name in sorted(models):
        known.setdefault(name, ModelSettings())
    update: dict[str, object] = {"models": known}
    if config is not None:
        for name, limits in config.models.items():
            changed = limits.model_dump(exclude_none=True)
            known[name] = known.get(name, ModelSettings()).model_copy(update=changed)
        for key in ("routes", "outbox", "feedback", "state_interval_s"):
            if (value := getattr(config, key)) is not None:
                update[key] = value
    laid = settings.model_copy(update=update)
    if config is not None and (problem := laid.contradiction()):
        msg = f"{problem}. Assign a configuration that fits this device and its models."
        raise ConfigUnfitError(msg)
    return laid
