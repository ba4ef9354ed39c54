"""The settings of a service whose device may not have its certificate yet.

At its first boot a device has neither id nor certificate until the fleet has answered: in a second,
or in a week. Its services wait for that, and do not end and begin again all the time.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Final

from edgeslm import logs
from edgeslm.adapters.signals import acting_on
from edgeslm.adapters.systemd import Notifier
from edgeslm.contract.identity import read_identity
from edgeslm.contract.settings import (
    UNPROVISIONED,
    AgentSettings,
    certified,
    load_settings,
    read_settings,
)
from edgeslm.errors import ConfigError, NotProvisionedError
from edgeslm.logs import Log

log = Log(__name__)
HELP: Final = (
    "where [provision] is to get this device its certificate, wait for that; without it: status 75"
)
POLL_S: Final = 1.0  # one look at one file; it begins so soon after
STATUS: Final = "waiting: this device has no certificate yet, see `edgeslm provision`"


def settings_for(config: Path, *, wait: bool) -> AgentSettings | None:
    """Return the settings of a device that has its certificate; None: told to end before it had.

    Args:
        config: the file of them.
        wait: for as long as it takes, fed to systemd's watchdog; SIGHUP reads the file again.

    Raises:
        ConfigError: as `load_settings`.
        NotProvisionedError: it has none, and is not to wait.
    """
    settings = read_settings(config)
    if not _awaited(settings):
        return load_settings(config)
    if wait:
        return _Wait(config, settings).outcome()
    problems = [("provision", "this device has no certificate yet")]
    remedy = "Give `edgeslm provision` first, or wait for it with --wait."
    raise NotProvisionedError(str(config), problems, remedy=remedy)


def _awaited(settings: AgentSettings) -> bool:
    """Whether what [provision] gets is missing and needed: the id, or the certificate."""
    if settings.provision is None or read_identity(settings.provision.dir) is not None:
        return False
    return settings.device_id == UNPROVISIONED or certified(settings) != settings.uplink


class _Wait:
    def __init__(self, config: Path, settings: AgentSettings) -> None:
        self._config = config
        self._settings = settings
        self._woken = threading.Event()
        self._ended = False
        self._changed = False

    def outcome(self) -> AgentSettings | None:
        logs.configure(device=self._settings.device_id, level=self._settings.log_level)
        log.info("certificate_awaited", remedy="edgeslm provision")
        notifier = Notifier.from_environment()
        calls = {signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: self._reload}
        with acting_on(calls):
            # It is ready: whoever waits for the unit, such as the rest of the boot, need not.
            notifier.ready(STATUS)
            fed_at = time.monotonic()
            while not self._ended and _awaited(self._settings):
                self._woken.wait(POLL_S)
                self._woken.clear()
                if self._changed:
                    self._changed = False
                    self._read()
                now = time.monotonic()
                if notifier.interval_s is not None and now >= fed_at + notifier.interval_s:
                    fed_at = now
                    notifier.feed()
        if self._ended:
            notifier.stopping()
            notifier.close()
            return None
        notifier.feed()
        notifier.close()
        log.info("certificate_came")
        return load_settings(self._config)

    def _read(self) -> None:
        try:
            self._settings = read_settings(self._config)
        except ConfigError as err:
            log.warning("reload_failed", code=err.code, message=str(err))

    # Called by another thread.

    def _end(self) -> None:
        self._ended = True
        self._woken.set()

    def _reload(self) -> None:
        self._changed = True
        self._woken.set()
