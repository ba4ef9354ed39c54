"""Which retained inputs were answered: a broker sends them again to each new session."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Final

from edgeslm.adapters.fs import write_durably
from edgeslm.logs import Log

log = Log(__name__)
MAX_TOPICS: Final = 4096


class Retained:
    """The newest retained message of each topic, by digest; the oldest topics are forgotten.

    Args:
        path: where what was answered is kept for the next life; None: nowhere.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._answered = _read(path)
        self._taken = self._answered.copy()  # and what is being answered
        self._unsaved = False

    def take(self, topic: str, what: bytes, *, again: bool) -> bool:
        """Note that this one came; return whether it is to be answered.

        `again`: it is the redelivery of one that was not acknowledged.
        """
        known = self._taken.get(topic) == what.hex()
        _put(self._taken, topic, what.hex())
        return again or not known

    def settle(self, topic: str, what: bytes) -> None:
        """Note that its answer is safe."""
        self._unsaved = self._unsaved or self._answered.get(topic) != what.hex()
        _put(self._answered, topic, what.hex())

    def save(self) -> None:
        """Keep what was settled since the last time."""
        if not self._unsaved or self._path is None:
            return
        self._unsaved = False
        try:
            write_durably(self._path, json.dumps(self._answered).encode())
        except OSError as err:
            log.warning("retained_not_saved", reason=str(err))


def _put(table: OrderedDict[str, str], topic: str, what: str) -> None:
    table[topic] = what
    table.move_to_end(topic)
    if len(table) > MAX_TOPICS:
        table.popitem(last=False)


def _read(path: Path | None) -> OrderedDict[str, str]:
    """What `save` wrote; nothing where it cannot be read: then some are answered again."""
    if path is None:
        return OrderedDict()
    try:
        found = json.loads(path.read_bytes())
        return OrderedDict((str(topic), str(what)) for topic, what in found.items())
    except FileNotFoundError:
        return OrderedDict()
    except (OSError, ValueError, TypeError, AttributeError) as err:
        log.warning("retained_not_read", reason=str(err))
        return OrderedDict()
