"""Who a device is, as it was told: kept beside its certificate, and never derived again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from edgeslm.contract.base import Sha256, Typed, problems_of, spelled
from edgeslm.errors import ConfigError

CURRENT: Final = "current"
"""In `provision.dir`: a link to the folder that holds what is in force."""
CERT: Final = "cert.pem"
KEY: Final = "key.pem"
IDENTITY: Final = "identity.json"
SOCKET: Final = "tunnel/socket"
"""In `provision.dir`: where a key in hardware is reached, by way of stunnel."""
TUNNEL_PID: Final = "tunnel/pid"
"""In `provision.dir`: of that stunnel, for who tells it to read its configuration again."""
_MAX_BYTES: Final = 4096


class Identity(Typed):
    """What `edgeslm provision` has got; the certificate says the same."""

    schema_version: Literal[1] = 1
    device: Annotated[
        str, spelled(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "not an id", description="Its id.")
    ]
    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$", description="Of the certificate.")]
    not_before: Annotated[float, Field(ge=0, description="Seconds since 1970, UTC.")]
    not_after: Annotated[float, Field(ge=0, description="The same.")]
    machine: Annotated[
        tuple[Sha256, ...],
        Field(max_length=16, description="What the hardware was called by then, each hashed."),
    ] = ()


def read_identity(directory: Path) -> Identity | None:
    """Return who the device with this `provision.dir` is; None: it has not been told yet.

    Raises:
        ConfigError: it cannot be read, or is not what was written there.
    """
    file = directory / CURRENT / IDENTITY
    remedy = "Remove what is in provision.dir and provision the device anew."
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        remedy = "Check who may read it: provision.group."
        raise ConfigError(str(file), [("", err.strerror or str(err))], remedy=remedy) from None
    try:
        return Identity.model_validate_json(raw[:_MAX_BYTES])
    except ValidationError as err:
        raise ConfigError(str(file), problems_of(err), remedy=remedy) from None
