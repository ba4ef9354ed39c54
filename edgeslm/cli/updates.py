"""What `edgeslm updater`, `update` and `status` share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from edgeslm.cli.text import megabytes
from edgeslm.contract.messages import UpdateState
from edgeslm.contract.settings import AgentSettings, UpdateSettings
from edgeslm.core.trust import (
    FLOORS,
    MAX_FLOORS_BYTES,
    TRUST,
    FloorsDamagedError,
    decode_floors,
)
from edgeslm.errors import ConfigError, UnavailableError

NEEDED: Final = ("bsdiff4", "cryptography", "securesystemslib", "tuf", "zstandard")


class UpdateExtraError(UnavailableError):
    """The packages that verify updates are not installed."""

    code = "update.extra"


def require_extra() -> None:
    """Say which package is missing, before it is imported.

    Raises:
        UpdateExtraError: one is.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        msg = f"{', '.join(missing)}: not installed. pip install 'edgeslm[update]'"
        raise UpdateExtraError(msg)


def update_of(settings: AgentSettings) -> UpdateSettings:
    """Return [update].

    Raises:
        ConfigError: there is none.
    """
    if settings.update is None:
        file = "settings"
        remedy = "Add it, with the root of trust of the device's fleet: docs/settings.md."
        problem = ("update", "missing, so that this device takes no updates")
        raise ConfigError(file, [problem], remedy=remedy)
    return settings.update


def described(state: UpdateState) -> list[str]:
    """Return what an updater says of itself, a line each."""
    lines = [f"updater   {_phase(state)}"]
    lines += [f"          waits for the {state['waiting']}"] if "waiting" in state else []
    if error := state.get("error"):
        lines.append(
            f"          last failure: {_failed(state)}{error['message']} [{error['code']}]"
        )
        lines += ["          it is tried again by itself"] if state.get("retries") else []
    lines.append(f"assigned  {state['seq'] or 'nothing yet'}; configuration {_config(state)}")
    for model in state["models"]:
        runs = f"version {model['version']} ({model['bundle'][:12]})" if "version" in model else "-"
        spare = f", spare: version {model['spare_version']}" if "spare_version" in model else ""
        bad = f", failed here: {len(model['bad'])}" if model.get("bad") else ""
        lines.append(f"model     {model['name']}: {runs}{spare}{bad}")
    return lines


def accepted_seq(directory: Path) -> int:
    """Return the assignment that an updater's directory has accepted last; 0: none can be read."""
    try:
        with (directory / TRUST / FLOORS).open("rb") as file:
            floors = decode_floors(file.read(MAX_FLOORS_BYTES + 1))
    except (OSError, FloorsDamagedError):
        return 0
    return floors.assignment.seq if floors.assignment is not None else 0


def _failed(state: UpdateState) -> str:
    """Return what it was that failed, where that is known."""
    if "error_model" not in state:
        return ""
    version = f" {state['error_version']}" if "error_version" in state else ""
    return f"{state['error_model']}{version}: "


def _phase(state: UpdateState) -> str:
    phase = str(state["phase"])
    if "model" in state:
        version = f" {state['version']}" if "version" in state else ""
        phase += f" {state['model']}{version}"
    if "total_bytes" in state and "done_bytes" in state:
        phase += f", {megabytes(state['done_bytes'])} of {megabytes(state['total_bytes'])}"
    return phase


def _config(state: UpdateState) -> str:
    return f"of assignment {state['config_seq']}" if state["config_seq"] else "of the settings file"
