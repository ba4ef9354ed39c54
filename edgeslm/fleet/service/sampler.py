"""Which results are kept as evidence: all alarms, and of the rest a few of each device and day."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

DAY_S: Final = 86_400.0
SAMPLES: Final = 48  # of one device in a day, spread over it
BURST: Final = 4  # of them at once, after a silence
MAX_ALARMS: Final = 10_000  # of one device in a day: more is a device gone mad
MAX_DEVICES: Final = 100_000  # that are remembered; the longest silent are forgotten
_ALARM: Final = "anomaly"


class Sampler:
    """Says of each result whether it is kept. Time is an argument. One thread's.

    Args:
        samples: of results that are no alarm, of one device in a day.
    """

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples = samples
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # and since when
        self._alarms: OrderedDict[str, tuple[int, int]] = OrderedDict()  # day, and how many

    def keeps(self, device: str, result: Mapping[str, Any], now: float) -> bool:
        """Whether a result of a device is kept; one that is no answer is not."""
        if "error" in result or "label" not in result:
            return False
        if result["label"] == _ALARM:
            return self._keeps_alarm(device, int(now // DAY_S))
        left, since = self._left.get(device, (float(BURST), now))
        left = min(float(BURST), left + max(0.0, now - since) * self._samples / DAY_S)
        kept = left >= 1.0
        self._note(self._left, device, (left - 1.0 if kept else left, now))
        return kept

    def _keeps_alarm(self, device: str, today: int) -> bool:
        day, count = self._alarms.get(device, (today, 0))
        count = count if day == today else 0
        self._note(self._alarms, device, (today, count + 1))
        return count < MAX_ALARMS

    @staticmethod
    def _note(of: OrderedDict[str, Any], device: str, what: tuple[float, float]) -> None:
        of[device] = what
        of.move_to_end(device)
        if len(of) > MAX_DEVICES:
            of.popitem(last=False)
