"""The real parts of the updater, put together from the device's settings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.slot_store import FileSlotStore
from edgeslm.adapters.systemd import Notifier
from edgeslm.adapters.tuf import Trust, root_of
from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.profile import Trial
from edgeslm.contract.settings import AgentSettings, UpdateSettings
from edgeslm.core.slots import slots_of
from edgeslm.core.trust import TRUST
from edgeslm.errors import ConfigError, RejectedError
from edgeslm.ports import SlotStore
from edgeslm.runtime.device import platform_of, this_device
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.slot import whole_slot
from edgeslm.updater.broker import BrokerSource, NoBroker
from edgeslm.updater.control import SOCKET, Control
from edgeslm.updater.diagnostics import CommandModelError, Diagnostics
from edgeslm.updater.door import Door
from edgeslm.updater.driver import Driver
from edgeslm.updater.source import Switch
from edgeslm.updater.updater import Broker, Updater
from edgeslm.updater.voice import Failure, Voice

DOWNLOADS: Final = "download"
MAX_ROOT_BYTES: Final = 128 * 1024
_SETTINGS: Final = "settings"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_REMEDY: Final = "Flash the root.json of the device's fleet: `edgeslm fleet keys export-root`."


@contextlib.contextmanager
def opened(
    settings: AgentSettings, update: UpdateSettings, *, online: bool, config: Path | None = None
) -> Iterator[Updater]:
    """Give the updater of a device, with its directory held.

    Args:
        settings: of the device.
        update: their [update].
        online: listen to the broker; else only sticks bring anything.
        config: file of the settings; None: it makes no diagnoses.

    Raises:
        ConfigError: the root of trust cannot be read, or is none.
        UpdaterRunningError: another updater has the directory.
        EdgeSLMError: the directory, or what was trusted before, cannot be used.
    """
    root = flashed_root(update)
    _try_root(root, update)
    logging.getLogger("tuf").setLevel(logging.WARNING)  # it tells of each signature
    profile = load_profile(settings.profile) if settings.profile else None
    clock = SystemClock()
    with contextlib.ExitStack() as stack:
        store = FileSlotStore(update.dir, whole_slot)
        stack.callback(store.close)
        switch = Switch()
        trust = Trust(update.dir / TRUST, root, switch.fetch)
        broker: Broker = NoBroker()
        notifier = Notifier.from_environment()
        real: BrokerSource | None = None
        if online:
            real = BrokerSource(settings, update, downloads=update.dir / DOWNLOADS, clock=clock)
            stack.callback(real.close)
            broker = real
        switch.source = broker
        device = this_device()
        voice = Voice(
            settings.topics,
            clock,
            broker.send,
            store.read,
            platform=platform_of(device, profile),
            seq=trust.accepted,
        )
        control = Control(settings.runtime_dir / SOCKET)
        stack.callback(control.close)
        driver = Driver(
            store=store,
            control=control,
            voice=voice,
            clock=clock,
            trial=profile.trial if profile is not None else Trial(),
            load_s=update.load_s,
            keep_free=update.min_free_mb * 2**20,
            boot=_boot(),
        )
        updater = Updater(
            device_id=settings.device_id,
            device=device,
            profile=profile,
            store=store,
            trust=trust,
            driver=driver,
            voice=voice,
            clock=clock,
            broker=broker,
            switch=switch,
            idle_exit_s=update.idle_exit_s,
        )
        driver.check = broker.check = updater.check
        if real is not None:
            updater.door = Door(update.dir, real.wake)
            stack.callback(updater.door.close)
            updater.progress = control.progress = notifier.feed
            if config is not None:
                updater.diagnostics = Diagnostics(
                    settings.topics,
                    config=config,
                    bundle=partial(_bundle_of, settings, store),
                    clock=clock,
                    send=broker.send,
                )
                stack.callback(updater.diagnostics.close)
        broker.waiting = voice.waiting
        if store.damaged is not None:
            error: ErrorInfo = {"code": store.damaged.code, "message": str(store.damaged)}
            voice.trouble("slots_rebuilt", Failure(error), {})
        notifier.ready("listening")
        yield updater
        notifier.stopping()


def flashed_root(update: UpdateSettings) -> bytes:
    """Return the root of trust that the device was flashed with.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with update.root.open("rb") as file:
            return file.read(MAX_ROOT_BYTES)
    except OSError as err:
        what = f"{update.root}: {err.strerror}"
        raise ConfigError(_SETTINGS, [("update.root", what)], remedy=_REMEDY) from None


def _try_root(root: bytes, update: UpdateSettings) -> None:
    """Say at the beginning that nothing can ever be trusted by a root."""
    try:
        root_of(root)
    except RejectedError as err:
        what = f"{update.root}: no root of trust: {err}"
        raise ConfigError(_SETTINGS, [("update.root", what)], remedy=_REMEDY) from None


def _bundle_of(settings: AgentSettings, store: SlotStore, model: str | None) -> Path:
    """Return the folder of the bundle that a model runs.

    Raises:
        CommandModelError: there is no such model, or it has none.
    """
    names = sorted(settings.models)
    name = names[0] if model is None and len(names) == 1 else model
    if name not in settings.models:
        msg = f"which model? There are {', '.join(names) or 'none'}."
        raise CommandModelError(msg)
    active = slots_of(store.read(), name).active
    folder = settings.models[name].bundle if active is None else store.folder(name, active)
    if folder is None:
        msg = f"{name}: it has no bundle yet"
        raise CommandModelError(msg)
    return folder.absolute()


def _boot() -> str:
    """Return what no two boots of a machine share; on systems that do not say, nothing."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""
