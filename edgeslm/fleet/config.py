"""`fleet.toml`: what a repository's owner decides. People edit it; no command does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from edgeslm.contract.base import Typed, parse_toml, spelled
from edgeslm.contract.topics import DEFAULT_ROOT
from edgeslm.fleet.errors import FleetConfigError, FleetMissingError

CONFIG: Final = "fleet.toml"
DATABASE: Final = "fleet.db"
_SQLITE: Final = "sqlite:///"
_MAX_BYTES: Final = 65_536
_POSTGRESQL: Final = "postgresql://fleet@db.example/fleet"
_SERVER: Final = "/etc/edgeslm/fleet-passphrase"
_REMEDY: Final = "docs/fleet-repository.md lists every key."
Days = Annotated[float, Field(gt=0, le=7300)]


class Lifetimes(Typed):
    """How long what is signed is good for, in days."""

    root: Days = 365
    targets: Days = 365
    models: Days = 365
    snapshot: Days = 7
    timestamp: Days = 1
    assignment: Days = 90
    stick: Days = 14
    certificate: Days = 365


class FleetConfig(Typed):
    """All of it."""

    topic_root: Annotated[
        str,
        spelled(
            r"^[^+#$/\x00][^+#\x00]*[^+#/\x00]$",
            "not a topic: no + and #, no / at its ends, no $ at its beginning",
        ),
    ] = DEFAULT_ROOT
    online_passphrase_file: str | None = Field(
        None, description="Of the keys that sign daily: snapshot, timestamp, director, time."
    )
    database: str | None = Field(
        None,
        description=f"URL of the fleet's database; the file {DATABASE} here, if absent.",
    )
    days: Lifetimes = Lifetimes()
    keys: dict[str, str] = Field(
        default={}, description="Where a private key is, by name: a file, or a PKCS#11 URI."
    )


def load_config(folder: Path) -> FleetConfig:
    """Return what fleet.toml in `folder` says.

    Raises:
        FleetMissingError: there is none, so this is no repository.
        FleetConfigError: it is wrong; names each key.
    """
    file = folder / CONFIG
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        msg = f"{folder}: no repository ({CONFIG}). Give --repository, or make one: fleet init"
        raise FleetMissingError(msg) from None
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise FleetConfigError(str(file), [("", what)], remedy=_REMEDY) from None
    if len(raw) > _MAX_BYTES:
        what = f"longer than {_MAX_BYTES} bytes"
        raise FleetConfigError(str(file), [("", what)], remedy=_REMEDY)
    return parse_toml(FleetConfig, raw, file=str(file), remedy=_REMEDY, error=FleetConfigError)


def database_url(config: FleetConfig, folder: Path) -> str:
    """Return where the fleet's database is."""
    if config.database is None:
        return f"{_SQLITE}{folder / DATABASE}"
    file = config.database.removeprefix(_SQLITE)
    if file == config.database:
        return config.database
    return f"{_SQLITE}{folder / file}"


def first_config(config: FleetConfig) -> str:
    """Return the fleet.toml that a repository begins with."""
    online = config.online_passphrase_file
    mark, data = "" if online else "# ", "" if config.database else "# "
    lines = [
        "# docs/fleet-repository.md lists every key. Relative paths are from this folder.",
        f"topic_root = {json.dumps(config.topic_root)}",
        "# Of the keys that sign daily, so that a server needs nobody: snapshot, timestamp,",
        "# director, time.",
        f"{mark}online_passphrase_file = {json.dumps(online or _SERVER)}",
        f"# Assignments, devices and roll-outs; {DATABASE} in this folder, if it is not said.",
        f"{data}database = {json.dumps(config.database or _POSTGRESQL)}",
        "",
        "[days] # for which what is signed is good",
        *(f"{name} = {value:g}" for name, value in config.days.model_dump().items()),
        "",
        "# Where a private key is, unless it is keys/NAME.pem. Those of root and targets belong",
        "# on sticks in a safe, or in hardware.",
        "[keys]",
        *(f"{json.dumps(name)} = {json.dumps(where)}" for name, where in config.keys.items()),
        '# root-1 = "/media/stick-1/root-1.pem"',
        "",
    ]
    return "\n".join(lines)
