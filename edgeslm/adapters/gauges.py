"""How hard this machine is pressed: temperature, memory and load, read by a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from edgeslm.adapters.meters import temperature_c
from edgeslm.core.pressure import Reading
from edgeslm.logs import Log

log = Log(__name__)
SAMPLE_S: Final = 5.0


def read() -> Reading:
    """Return what this machine says of itself; what it does not say is None."""
    import psutil  # noqa: PLC0415 -- a device without limits does without it, and its memory

    try:
        available_mb: float | None = psutil.virtual_memory().available / 2**20
    except OSError:
        available_mb = None
    try:
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return Reading(temperature_c(), available_mb, None)
    return Reading(temperature_c(), available_mb, load)


class Gauge:
    """Reads every few seconds: a sensor may take its time, and holds up nobody else.

    Args:
        sink: is given each reading, on the gauge's own thread.
        reader: where readings come from.
    """

    def __init__(
        self, sink: Callable[[Reading], None], reader: Callable[[], Reading] | None = None
    ) -> None:
        self._sink = sink
        self._read = reader or read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stop.set()

    def _run(self) -> None:
        told = False
        while not self._stop.is_set():
            try:
                reading = self._read()
            except Exception as err:  # noqa: BLE001 -- no driver's fault may end the watch
                if not told:
                    told = True
                    log.fault("gauge_failed", err)
                reading = Reading()
            self._sink(reading)
            self._stop.wait(SAMPLE_S)
