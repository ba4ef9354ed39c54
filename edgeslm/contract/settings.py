"""Settings of `edgeslm run`: one TOML file, every key overridable by `EDGESLM_*`.

A nested key's variable joins the levels with two underscores: `EDGESLM_UPLINK__HOST`,
`EDGESLM_MODELS__PRESS__BUNDLE`; tables and lists may also be given whole, as JSON. Variables win.
A variable's name has no '-' and no '.': what is below a name with one of them is set in the file,
or with its whole table.
"""

from __future__ import annotations

import itertools
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from edgeslm.contract.base import Name, Section, problems_of, read_toml, spelled
from edgeslm.contract.brokers import MAX_PORT, Broker
from edgeslm.contract.identity import CERT, CURRENT, KEY, SOCKET, read_identity
from edgeslm.contract.learning import FeedbackSettings, NoticeSettings
from edgeslm.contract.messages import MAX_TAG_CHARS, MAX_TAGS
from edgeslm.contract.routes import ModelSettings, Route
from edgeslm.contract.topics import DEFAULT_ROOT, Topics, covers, overlap
from edgeslm.errors import ConfigError, NotProvisionedError

OTHER_VARIABLES = frozenset({"EDGESLM_CACHE", "EDGESLM_CASES", "EDGESLM_FLEET_PASSPHRASE"})
"""Variables that are no settings: where exports are kept, where tests find their cases, and what
unlocks the keys of `edgeslm fleet`."""
UNPROVISIONED: Final = "unprovisioned"
"""Id of a device that has not been told who it is; no fleet gives it to one."""
REMEDY = "Correct it and start again; docs/settings.md lists every key."


class OutboxSettings(Section):
    """Results that the uplink would not take, on disk."""

    max_results: Annotated[
        int,
        Field(ge=1, description="Full: the oldest telemetry goes; of alerts alone: inputs wait."),
    ] = 200_000
    max_mb: Annotated[
        int,
        Field(ge=1, le=65_536, description="As `max_results`; on a full disk, too, inputs wait."),
    ] = 128
    max_age_s: Annotated[
        float,
        Field(
            ge=60, description="Telemetry that has waited for longer, while the agent ran, goes."
        ),
    ] = 14 * 86_400.0
    thin_share: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Fuller than this share of its bounds, telemetry is summed up, oldest "
            "first; 1: never.",
        ),
    ] = 0.5
    summary_s: Annotated[
        float,
        Field(ge=1, le=86_400, description="Of one model and source, one summary for so long."),
    ] = 900.0
    catch_up_per_s: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Results a second that leave the disk once the uplink is back, beside one "
            "for each new result behind them.",
        ),
    ] = 200
    ack_timeout_s: Annotated[
        float, Field(gt=0, le=600, description="A result not acknowledged by then goes to disk.")
    ] = 5.0


def _some_time(hours: str) -> str:
    begin, _, end = hours.partition("-")
    if begin == end:
        msg = "from and to are the same; for always, leave `hours` out"
        raise ValueError(msg)
    return hours


Hours = Annotated[
    str,
    spelled(
        r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$",
        "not hours, such as 22:00-05:30",
        description="Local time, from-to; over midnight where `to` is earlier.",
    ),
    AfterValidator(_some_time),
]


class UpdateSettings(Section):
    """`edgeslm updater`: which fleet is trusted, and how models are fetched; absent: no updates."""

    root: Annotated[
        Path, Field(description="Root of trust, flashed with the device: `fleet init` makes it.")
    ] = Path("/etc/edgeslm/root.json")
    dir: Annotated[Path, Field(description="Slots, downloads, trust: the updater's own.")] = Path(
        "/var/lib/edgeslm-updater"
    )
    user: Annotated[
        str | None,
        Field(description="The updater's user, who may order the agent about; root may always."),
    ] = None
    window_kb: Annotated[
        int, Field(ge=128, le=16_384, description="Bytes asked for and not yet here, in KiB.")
    ] = 2048
    rate_kb_s: Annotated[
        int | None, Field(ge=1, description="Most KiB fetched in a second; absent: no limit.")
    ] = None
    hours: Annotated[
        tuple[Hours, ...], Field(max_length=8, description="When to fetch; empty: always.")
    ] = ()
    min_free_mb: Annotated[
        int, Field(ge=0, description="Disk that stays free beside what is fetched.")
    ] = 16
    stall_s: Annotated[
        float, Field(ge=1, le=86_400, description="Nothing comes for so long: the fetch failed.")
    ] = 300.0
    load_s: Annotated[
        float, Field(ge=1, le=3600, description="For the agent to load a model and replay it.")
    ] = 300.0
    idle_exit_s: Annotated[
        float | None,
        Field(ge=1, description="Nothing to do for so long: the updater ends. Absent: it stays."),
    ] = None


class HardwareKey(Section):
    """The device's key in a PKCS#11 token; stunnel uses it, and the agent connects to stunnel."""

    module: Annotated[Path, Field(description="The token's PKCS#11 library.")]
    token: Annotated[
        str,
        spelled(
            r"^[A-Za-z0-9._-]{1,32}$",
            "not a label: letters, digits, '.', '_', '-', up to 32",
            description="Its label.",
        ),
    ]
    pin_file: Annotated[Path, Field(description="Holds its PIN, without a newline.")]


class ProvisionSettings(Section):
    """`edgeslm provision`: how the device gets its certificate; absent: it is given one."""

    dir: Annotated[
        Path,
        Field(
            description="Key and certificate. [uplink.tls] without a certificate uses them, and "
            "the device's id is what is kept here."
        ),
    ] = Path("/var/lib/edgeslm-provision")
    token_file: Annotated[
        Path | None, Field(description="Holds a token of `edgeslm fleet enroll`, good for once.")
    ] = None
    factory_key_file: Annotated[
        Path | None, Field(description="Private key, PEM, that the fleet knows the device by.")
    ] = None
    broker: Annotated[
        Broker | None,
        Field(description="Where to ask without a certificate; [uplink] without one, if absent."),
    ] = None
    group: Annotated[
        str | None, Field(description="Its members may read the key; absent: its owner alone.")
    ] = None
    renew_after: Annotated[
        float, Field(gt=0, lt=1, description="Part of its life after which it is renewed.")
    ] = 0.66
    pkcs11: Annotated[
        HardwareKey | None, Field(description="The key is made in a token; absent: in a file.")
    ] = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.token_file is not None and self.factory_key_file is not None:
            msg = "give token_file or factory_key_file, not both"
            raise ValueError(msg)
        return self


class PressureSettings(Section):
    """When the agent does less, telemetry first and alarms last; an absent key is the profile's."""

    temperature_c: Annotated[
        float | None,
        Field(gt=0, lt=150, description="Of the processor, degrees Celsius, at most."),
    ] = None
    memory_available_mb: Annotated[
        float | None,
        Field(gt=0, description="That programs could still get, in MiB, at least."),
    ] = None
    load_per_core: Annotated[
        float | None,
        Field(gt=0, description="Processes that run or want to, a minute's mean, at most."),
    ] = None


def _on_loopback(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not 0 < int(port) <= MAX_PORT:
        msg = f"{port}: no such port"
        raise ValueError(msg)
    if host != "localhost":
        try:
            own = ip_address(host.strip("[]")).is_loopback
        except ValueError:
            own = False
        if not own:
            msg = f"{host}: not on loopback, and whoever reaches it reads; forward it by a proxy"
            raise ValueError(msg)
    return address


class MetricsSettings(Section):
    """What Prometheus scrapes (docs/metrics.md); absent: nothing is served."""

    listen: Annotated[
        str,
        spelled(
            r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
            "not HOST:PORT; an IPv6 address is in brackets",
            description="HOST:PORT, on loopback; answers GET /metrics.",
        ),
        AfterValidator(_on_loopback),
    ] = "127.0.0.1:9464"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


Tag = Annotated[
    str,
    spelled(
        r"^[^\x00-\x1f\x7f]+$",
        "empty, or with a control character",
        max_length=MAX_TAG_CHARS,
    ),
]


Prefix = Annotated[
    str,
    spelled(
        r"^[^+#$/\x00][^+#\x00]*[^+#/\x00]$",
        "not a topic: no + and #, no / at its ends, no $ at its beginning",
    ),
]


class HomeAssistantSettings(Section):
    """Entities in Home Assistant, by its MQTT discovery; absent: none, and none are left."""

    discovery_prefix: Annotated[Prefix, Field(description="As its MQTT integration has it.")] = (
        "homeassistant"
    )
    alarm_off_s: Annotated[
        int, Field(ge=1, le=86_400, description="So long after the last alarm, its entity is off.")
    ] = 60


class AgentSettings(BaseSettings):
    """Everything `edgeslm run` can be told."""

    model_config = SettingsConfigDict(
        env_prefix="EDGESLM_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    device_id: Annotated[
        str,
        spelled(
            r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            "not an id: letters, digits, '.', '_', '-', up to 64, the first a letter or digit",
            description="Unique in the fleet.",
        ),
    ]
    topic_root: Annotated[Prefix, Field(description="Above the device's id.")] = DEFAULT_ROOT
    state_dir: Annotated[Path, Field(description="Outbox and verdicts; survives a reboot.")] = Path(
        "/var/lib/edgeslm"
    )
    runtime_dir: Annotated[Path, Field(description="Message ids; may be lost at a reboot.")] = Path(
        "/run/edgeslm"
    )
    profile: Annotated[
        str | None,
        Field(
            description="Device profile, name or file: whose providers, in its order, run models. "
            "Absent: a bundle's own order."
        ),
    ] = None
    uplink: Annotated[Broker, Field(description="Where results go.")] = Broker()
    input: Annotated[
        Broker | None, Field(description="Where texts come from; [uplink], if absent.")
    ] = None
    models: Annotated[dict[Name, ModelSettings], Field(description="By name.")] = {}
    routes: Annotated[dict[Name, Route], Field(description="By name.")] = {}
    outbox: OutboxSettings = OutboxSettings()
    update: UpdateSettings | None = None
    provision: ProvisionSettings | None = None
    homeassistant: HomeAssistantSettings | None = None
    feedback: FeedbackSettings | None = None
    notices: NoticeSettings = NoticeSettings()
    pressure: PressureSettings = PressureSettings()
    metrics: MetricsSettings | None = None
    tags: Annotated[
        dict[Name, Tag],
        Field(
            max_length=MAX_TAGS,
            description="What the fleet's filters find it by, such as hall = 'B'; up to 16.",
        ),
    ] = {}
    state_interval_s: Annotated[
        float,
        Field(
            ge=1, le=86_400, description="Between two `state` messages while nothing has changed."
        ),
    ] = 900.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least that is logged.")
    ] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let variables win over the file, which comes in as `init_settings`."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problem := _unprotected(self) or self.contradiction():
            raise ValueError(problem)
        return self

    def contradiction(self) -> str | None:
        """Say which of these settings do not go together; None where all do."""
        own = f"{Topics(self.topic_root, self.device_id).base}/#"
        for name, model in self.models.items():
            if model.bundle is None and self.update is None:
                return f"models.{name}.bundle: missing, and without [update] nobody brings one"
        for name, route in self.routes.items():
            unknown = sorted(set(route.models) - set(self.models))
            if unknown:
                return f"routes.{name}.models: no [models.{unknown[0]}]"
            if overlap(route.topic, own):
                return f"routes.{name}.topic: would read our own results under {own}"
            if (told := self.homeassistant) is not None:
                config = f"{told.discovery_prefix}/device/#"
                if overlap(route.topic, config):
                    return f"routes.{name}.topic: would read what Home Assistant is told, {config}"
        for (name, route), (other, wide) in itertools.combinations(self.routes.items(), 2):
            a, b = route.topic, wide.topic
            apart = not set(route.models) & set(wide.models) or not overlap(a, b)
            if not (apart or covers(a, b) or covers(b, a)):
                return (
                    f"routes.{other}.topic: some topics match {b} and {a} of routes.{name}, but "
                    "neither holds the other: a model would get such messages twice"
                )
        return None

    @property
    def input_broker(self) -> Broker:
        return self.input or self.uplink

    @property
    def topics(self) -> Topics:
        return Topics(self.topic_root, self.device_id)

    @property
    def unacknowledged(self) -> int:
        """Most inputs that were taken and whose acknowledgement the broker may not have."""
        return sum(model.receive_maximum for model in self.models.values())


def load_settings(path: Path) -> AgentSettings:
    """Return the settings in the TOML file `path`, with `EDGESLM_*` over it.

    With [provision], the device's id and the uplink's certificate are those that it has got.

    Raises:
        ConfigError: no such file, not TOML, or a key or variable is unknown or wrong; names each.
            Or the device has not been provisioned, and the file does not say who it is.
    """
    settings = read_settings(path)
    if settings.provision is None:
        return settings
    identity = read_identity(settings.provision.dir)
    if identity is not None:
        settings = settings.model_copy(update={"device_id": identity.device})
    elif settings.device_id == UNPROVISIONED:
        problems = [("device_id", "missing, and this device has not been told who it is")]
        remedy = "Give `edgeslm provision` first, or say it here."
        raise NotProvisionedError(str(path), problems, remedy=remedy)
    return settings.model_copy(update={"uplink": certified(settings)})


def _unprotected(settings: AgentSettings) -> str | None:
    """Say by what a device that gets a certificate would not use it, or could get it only once."""
    uplink, provision = settings.uplink, settings.provision
    if provision is None or uplink.host.startswith("/"):  # a tunnel, or what is beside us
        return None
    if uplink.tls is None:
        if uplink.stays_here:
            return None
        return "uplink.tls: missing; with [provision], what is said is encrypted"
    if provision.pkcs11 is not None and (uplink.proxy or uplink.transport != "tcp"):
        return "uplink: stunnel, which has the key of provision.pkcs11, knows no proxy or WebSocket"
    if provision.broker is None and uplink.username is None and uplink.tls.cert_file is None:
        return (
            "provision.broker: missing; [uplink] lets in who has a certificate, and this is where "
            "to get the first, and another where it has ended"
        )
    return None


def certified(settings: AgentSettings) -> Broker:
    """Return [uplink] with the certificate of [provision], where it names none of its own."""
    uplink, provision = settings.uplink, settings.provision
    if provision is None or uplink.tls is None or uplink.tls.cert_file is not None:
        return uplink
    if provision.pkcs11 is not None:
        # stunnel has the key, and does TLS; who may open its socket is the folder's mode.
        here = {"host": str(provision.dir / SOCKET), "port": None, "others": (), "tls": None}
        return uplink.model_copy(update=here)
    folder = provision.dir / CURRENT
    own = {"cert_file": folder / CERT, "key_file": folder / KEY}
    return uplink.model_copy(update={"tls": uplink.tls.model_copy(update=own)})


def read_settings(path: Path) -> AgentSettings:
    """Return what the file and the variables say, whoever the device is by now.

    Where neither says `device_id`, and there is [provision], it is `UNPROVISIONED`.

    Raises:
        ConfigError: as `load_settings`, but for the last.
    """
    if strangers := _strangers():
        problems = [(name, "unknown variable") for name in strangers]
        where = "environment"
        raise ConfigError(where, problems, remedy=REMEDY)
    try:
        raw = path.read_bytes()
    except OSError as err:
        remedy = "Check the path, and who may read it."
        raise ConfigError(str(path), [("", err.strerror or str(err))], remedy=remedy) from None
    data: dict[str, Any] = read_toml(raw, file=str(path), remedy=REMEDY, error=ConfigError)
    given = {name.upper() for name in os.environ} | {f"EDGESLM_{key.upper()}" for key in data}
    if "EDGESLM_DEVICE_ID" not in given and "EDGESLM_PROVISION" in {
        name.partition("__")[0] for name in given
    }:
        data["device_id"] = UNPROVISIONED
    try:
        return AgentSettings(**data)
    except ValidationError as err:
        problems = [(_culprit(field), what) for field, what in problems_of(err)]
        raise ConfigError(str(path), problems, remedy=REMEDY) from None
    except ValueError as err:  # pydantic-settings: a variable that should hold JSON and does not
        field = re.search(r'field "(\w+)"', str(err))
        name = f"EDGESLM_{field[1].upper()}" if field else ""
        problems = [(name, "not JSON, which a table or a list given whole must be")]
        where = "environment"
        raise ConfigError(where, problems, remedy=REMEDY) from None


def _strangers() -> list[str]:
    """Return the variables that look like ours and are not: pydantic-settings reads past them."""
    known = {f"EDGESLM_{name.upper()}" for name in AgentSettings.model_fields} | OTHER_VARIABLES
    given = (name for name in os.environ if name.upper().startswith("EDGESLM_"))
    return sorted(name for name in given if name.upper().partition("__")[0] not in known)


def _culprit(field: str) -> str:
    """Return `field`, or the variable that gave its value instead of the file."""
    given = {name.upper() for name in os.environ}
    parts = field.upper().split(".")
    for depth in range(len(parts), 0, -1):
        if (name := "EDGESLM_" + "__".join(parts[:depth])) in given:
            return f"{name} ({field})"
    # A variable for a key below one that is no table.
    deeper = f"EDGESLM_{'__'.join(parts)}__"
    return next((f"{name} ({field})" for name in sorted(given) if name.startswith(deeper)), field)
