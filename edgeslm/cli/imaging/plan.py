"""What a working set-up consists of, for one device profile: all of it checked, nothing written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from edgeslm.adapters.slot_store import FILE_MODE, FOLDER_MODE
from edgeslm.adapters.tuf import root_of
from edgeslm.cli.imaging import units
from edgeslm.cli.imaging.accounts import (
    AGENT,
    GROUP,
    PROVISIONING,
    UPDATER,
    Accounts,
    accounts,
)
from edgeslm.cli.imaging.root import File, ImageRefusedError, Item, Link, Tree, packaged, resolve
from edgeslm.contract.base import problems_of, read_toml
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.settings import (
    REMEDY,
    UNPROVISIONED,
    AgentSettings,
    ProvisionSettings,
    UpdateSettings,
)
from edgeslm.contract.slots import BUNDLES, SLOTS_FILE, ModelSlots, Slot, SlotTable
from edgeslm.errors import ConfigError, RejectedError
from edgeslm.runtime.bundle import MANIFEST, Bundle, open_bundle
from edgeslm.runtime.device import Device
from edgeslm.runtime.variants import CPU

SETTINGS: Final = "etc/edgeslm/agent.toml"
_SETTINGS_MODE: Final = 0o640
_STATE_MODE: Final = 0o700
_STATE: Final = Path("/var/lib/edgeslm")
_RUNTIME: Final = Path("/run/edgeslm")
_OURS: Final = Path("/etc/edgeslm")
# What the units write, and what is empty after each start.
_WRITTEN: Final = (
    *map(str, (_STATE, UpdateSettings().dir, ProvisionSettings().dir)),
    *("/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"),  # noqa: S108 -- of the device
)
_SLOT: Final = "a"
_READ_ONLY: Final = (0o755, 0o644)


class _OfFile(AgentSettings):
    """Settings as the file says them: variables of the machine that builds are not the device's."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Given:
    """What `edgeslm image` is told.

    Args:
        root: of the device: a root file system, or what is laid over one.
        overlay: it is the latter.
        profile: of the device.
        profile_file: where that is a file, and not one that ships.
        config: the agent's settings; None: the profile's drop-in is all that is laid.
        bundles: folders.
        root_of_trust: the fleet's root.json.
    """

    root: Path
    overlay: bool
    profile: DeviceProfile
    profile_file: Path | None
    config: Path | None
    bundles: Sequence[Path]
    root_of_trust: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is laid, and what the settings name that somebody else has to bring."""

    items: tuple[Item, ...]
    missing: tuple[str, ...]


def plan(given: Given) -> Plan:
    """Return what to lay.

    Raises:
        ConfigError: the settings cannot be used, or not on this image.
        ImageRefusedError: the root, a bundle or the root of trust does not fit; says which.
        RejectedError: a bundle, or the root of trust, is none.
    """
    _expect_root(given)
    drop_in = File(
        f"{units.DROP_INS}/{units.AGENT}.d/50-profile.conf",
        units.profile_drop_in(given.profile).encode(),
    )
    if given.config is None:
        return Plan((drop_in,), ())
    raw, settings = _read(given.config)
    _expect_profile(given, settings)
    who = accounts(given.root)
    items: list[Item] = [*who.files, drop_in]
    items.append(File(SETTINGS, raw, _SETTINGS_MODE, (0, who.gid), follow=True))
    if given.profile_file is not None and settings.profile is not None:
        laid = given.profile_file.read_bytes()
        items.append(File(settings.profile.removeprefix("/"), laid, follow=True))
    items += _unit_items(given.root, settings, who)
    items.append(Tree(str(_STATE).removeprefix("/"), {}, _STATE_MODE, 0o600, who.owner(AGENT)))
    if settings.provision is not None:
        path = str(settings.provision.dir).removeprefix("/")
        items.append(Tree(path, {}, FOLDER_MODE, FILE_MODE, who.owner(PROVISIONING)))
    items += _trust(given, settings)
    items += _bundle_items(given, settings, who)
    _expect_fresh(given.root, settings)
    return Plan(tuple(items), tuple(_missing(given.root, settings)))


def _expect_root(given: Given) -> None:
    if not given.root.is_dir():
        msg = f"{given.root}: no folder"
        raise ImageRefusedError(msg)
    if given.overlay:
        return
    for needed in ("etc/passwd", "usr/bin/edgeslm"):
        if not resolve(given.root, needed).is_file():
            msg = (
                f"{given.root}: no /{needed} in it. Give the root file system of a device, with "
                "edgeslm installed; or say --overlay, where it is laid over one."
            )
            raise ImageRefusedError(msg)
    if given.config is not None and given.root.resolve() == Path("/"):
        msg = "/ is the system that runs here: install the package. The profile alone may be laid."
        raise ImageRefusedError(msg)


def _read(path: Path) -> tuple[bytes, AgentSettings]:
    """Return the settings as the device's agent will read them; it may have no id yet.

    Raises:
        ConfigError: they cannot be used; names each key.
    """
    try:
        raw = path.read_bytes()
    except OSError as err:
        problem = [("", err.strerror or str(err))]
        raise ConfigError(str(path), problem, remedy="Check the path.") from None
    data = read_toml(raw, file=str(path), remedy=REMEDY, error=ConfigError)
    if "provision" in data:
        data.setdefault("device_id", UNPROVISIONED)
    try:
        settings = _OfFile(**data)  # type: ignore[arg-type]  # it is what checks them
    except ValidationError as err:
        raise ConfigError(str(path), problems_of(err), remedy=REMEDY) from None
    if wrong := list(_not_on_an_image(settings)):
        remedy = "The units allow no other folders, users and groups."
        raise ConfigError(str(path), wrong, remedy=remedy)
    return raw, settings


def _not_on_an_image(settings: AgentSettings) -> Iterator[tuple[str, str]]:
    for key, value, wanted in (
        ("state_dir", settings.state_dir, _STATE),
        ("runtime_dir", settings.runtime_dir, _RUNTIME),
    ):
        if value != wanted:
            yield key, f"{value}, and the unit has {wanted}"
    if (provision := settings.provision) is not None:
        wanted = ProvisionSettings().dir
        if provision.dir != wanted:
            yield "provision.dir", f"{provision.dir}, and the unit has {wanted}"
        if provision.group != GROUP:
            yield "provision.group", f'agent and updater read the key by group "{GROUP}"'
    if settings.update is None:
        return
    wanted = UpdateSettings().dir
    if settings.update.dir != wanted:
        yield "update.dir", f"{settings.update.dir}, and the unit has {wanted}"
    trust = settings.update.root
    if not trust.is_relative_to(_OURS) or trust == _OURS or ".." in trust.parts:
        yield "update.root", f"{trust}: give a file below {_OURS}"
    if settings.update.user != UPDATER:
        yield "update.user", f'the updater\'s unit runs as "{UPDATER}": the agent must know'


def _expect_profile(given: Given, settings: AgentSettings) -> None:
    """The agent must run what the image was made for."""
    named, name = settings.profile, given.profile.name
    wanted = f'profile = "{name}"'
    if given.profile_file is not None:
        wanted = f'profile = "/etc/edgeslm/{given.profile_file.name}", or where it shall lie'
        fits = named is not None and named.startswith("/") and named.endswith(".toml")
    else:
        fits = named == name
    if not fits:
        what = f"{named or 'missing'}, and the image is for {name}"
        raise ConfigError(str(given.config), [("profile", what)], remedy=f"Write {wanted}.")


def _unit_items(root: Path, settings: AgentSettings, who: Accounts) -> Iterator[Item]:
    """Yield units, enabled, and who they run as; a package's own files stay the package's."""
    enabled = [units.AGENT]
    if settings.update is not None:
        enabled.append(units.UPDATER)
    if settings.provision is not None:
        enabled += units.PROVISIONING
        if settings.provision.pkcs11 is not None:
            enabled.append(units.STUNNEL)
    files: list[Item] = [
        File("usr/lib/sysusers.d/edgeslm.conf", who.sysusers()),
        File("usr/lib/tmpfiles.d/edgeslm.conf", units.shipped("tmpfiles.conf").encode()),
    ]
    for unit in enabled:
        text = units.shipped(unit)
        files.append(File(f"{units.UNITS}/{unit}", text.encode()))
        for target in units.targets(text):
            yield Link(f"{units.DROP_INS}/{target}.wants/{unit}", f"/{units.UNITS}/{unit}")
    theirs = packaged(root)
    yield from (item for item in files if item.path not in theirs)


def _trust(given: Given, settings: AgentSettings) -> Iterator[Item]:
    update = settings.update
    if given.root_of_trust is None:
        if update is not None:
            msg = f"{given.config}: has [update], whose root of trust is missing: --root-of-trust"
            raise ImageRefusedError(msg)
        return
    if update is None:
        msg = f"{given.config}: a root of trust is of no use without [update]"
        raise ImageRefusedError(msg)
    try:
        raw = given.root_of_trust.read_bytes()
    except OSError as err:
        msg = f"{given.root_of_trust}: {err.strerror}"
        raise ImageRefusedError(msg) from None
    try:
        root_of(raw)
    except RejectedError as err:
        msg = f"{given.root_of_trust}: no root of trust: {err}"
        raise ImageRefusedError(msg) from None
    yield File(str(update.root).removeprefix("/"), raw, follow=True)


def _bundle_items(given: Given, settings: AgentSettings, who: Accounts) -> Iterator[Item]:
    """Yield each bundle where the device looks for it.

    With [update] that is the updater's slot, as if it had been committed there; where the settings
    name a folder, that one as well, to fall back to.
    """
    slots: dict[str, ModelSlots] = {}
    filled: dict[str, Path | bytes] = {}
    for bundle in map(open_bundle, given.bundles):
        name = bundle.manifest.name
        if name not in settings.models:
            msg = f"{bundle.path}: is {name}, and the settings have no [models.{name}]"
            raise ImageRefusedError(msg)
        if name in slots:
            msg = f"{bundle.path}: {name} is given twice"
            raise ImageRefusedError(msg)
        _expect_runnable(bundle, given.profile)
        files = {a.path: bundle.path / a.path for a in bundle.manifest.artifacts}
        files[MANIFEST] = bundle.path / MANIFEST
        held = Slot(bundle=bundle.hash, version=bundle.manifest.version, whole=True)
        slots[name] = ModelSlots(active=_SLOT, a=held)
        filled |= {f"{BUNDLES}/{name}/{_SLOT}/{path}": file for path, file in files.items()}
        fall_back = settings.models[name].bundle
        if fall_back is not None:
            yield Tree(_laid_at(given.root, name, fall_back), files, *_READ_ONLY)
    if settings.update is None:
        if without := sorted(set(settings.models) - set(slots)):
            msg = f"{given.config}: [models.{without[0]}] has no --bundle, and nothing brings one"
            raise ImageRefusedError(msg)
        return
    if slots:
        filled[SLOTS_FILE] = SlotTable(models=slots).model_dump_json().encode()
    owner = who.owner(UPDATER)
    path = str(settings.update.dir).removeprefix("/")
    yield Tree(path, filled, FOLDER_MODE, FILE_MODE, owner)


def _laid_at(root: Path, name: str, folder: Path) -> str:
    """Return where a bundle that the settings name is laid.

    Raises:
        ImageRefusedError: not there: it is where units write, or something else is in its place.
    """
    inside = str(folder).removeprefix("/")
    there = resolve(root, inside)
    written = any(there.is_relative_to(resolve(root, path)) for path in _WRITTEN)
    if not folder.is_absolute() or written:
        msg = (
            f"models.{name}.bundle: {folder}: give a folder like /usr/share/edgeslm/bundles/{name}"
        )
        raise ImageRefusedError(msg)
    if there.exists() and not (there / MANIFEST).is_file():
        msg = f"{there}: is there, and is no bundle; it would be replaced"
        raise ImageRefusedError(msg)
    return inside


def _expect_runnable(bundle: Bundle, profile: DeviceProfile) -> None:
    """Hold a bundle's variants against what a device of the profile has at least.

    Raises:
        ImageRefusedError: none is for it; says why of each.
    """
    requires = profile.requires
    reasons = []
    for variant in bundle.manifest.variants():
        for graph in bundle.of(variant).artifacts("graph"):
            features = {*requires.cpu_features, *requires.cpu_features_any}
            device = Device(
                requires.arch or graph.requires.arch or "",
                "",
                frozenset(features),
                frozenset(filter(None, [requires.soc])),
            )
            key = graph.provider or CPU
            if key not in profile.providers:
                lacking: str | None = f"for {key}, not one of this profile's providers"
            else:
                lacking = device.lacks(graph.requires)
            if lacking is not None:
                reasons.append(f"{graph.path}: {lacking}")
                break
        else:
            return
    why = "; ".join(reasons)
    msg = f"{bundle.path}: nothing in it runs on {profile.name}: {why}. Export it for that profile."
    raise ImageRefusedError(msg)


def _expect_fresh(root: Path, settings: AgentSettings) -> None:
    """No device has ever run from this root: an id, keys and floors would be copied with it."""
    found = _names(resolve(root, str(_STATE)))
    if settings.update is not None:
        laid = {SLOTS_FILE, BUNDLES}
        found += [n for n in _names(resolve(root, str(settings.update.dir))) if n not in laid]
    if settings.provision is not None:
        found += _names(resolve(root, str(settings.provision.dir)))
    if found:
        msg = f"{root}: a device has run from it ({found[0]} is there). Start from a clean one."
        raise ImageRefusedError(msg)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _missing(root: Path, settings: AgentSettings) -> Iterator[str]:
    """Yield the files of brokers that the settings name and the root has not."""
    provision = settings.provision
    brokers: dict[str, Any] = {"uplink": settings.uplink, "input": settings.input}
    if provision is not None:
        brokers["provision.broker"] = provision.broker
        for key in ("token_file", "factory_key_file"):
            path = getattr(provision, key)
            if path is not None and not resolve(root, str(path)).is_file():
                yield f"provision.{key}: {path}"
    for table, broker in brokers.items():
        if broker is None:
            continue
        named = {f"{table}.password_file": broker.password_file}
        if broker.tls is not None:
            named |= {f"{table}.tls.{key}": value for key, value in dict(broker.tls).items()}
        for key, path in named.items():
            if path is not None and not resolve(root, str(path)).is_file():
                yield f"{key}: {path}"
