"""Structured logs: one JSON object a line on stderr, an event name in the past tense and fields."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Log:
    """A logger whose messages are events: `log.info("bundle_loaded", version=3)`.

    Field names carry their units; values are what JSON can say, anything else its `str`.
    Secrets and payloads are never passed in. Of texts, only what an alarm was of is, in short
    (docs/adr/0026): the unseen word, the number.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._say(logging.ERROR, event, fields)

    def record(self, event: str, **fields: object) -> None:
        """Log what the device is to have on record, whatever the level is."""
        told, name = self._logger, self._logger.name
        extra = {"fields": fields}
        told.handle(told.makeRecord(name, logging.INFO, "", 0, event, (), None, extra=extra))

    def fault(self, event: str, err: BaseException, **fields: object) -> None:
        """Log a fault of ours, with where it was."""
        self._logger.error(event, extra={"fields": fields}, exc_info=err)

    def _say(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """One record, one line."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def format(self, record: logging.LogRecord) -> str:
        whole = int(record.created)
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            + f".{int((record.created - whole) * 1000):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            "device": self._device,
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(*, device: str, level: str) -> None:
    """Send this process's logs to stderr. Called once, by a command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(device))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
