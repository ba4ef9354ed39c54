"""What comes over the control socket, on that socket's thread: hostile until it is parsed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from edgeslm.adapters.unix_socket import Line, Opened
from edgeslm.contract.control import MAX_LINE_BYTES, ORDERS, Failed, News, Order
from edgeslm.errors import RejectedError, UnavailableError

MAX_ORDERS: Final = 32  # read and not yet carried out


class OrderInvalidError(RejectedError):
    """What came over the control socket is no order of this version."""

    code = "control.undecodable"


class OrderTooLongError(OrderInvalidError):
    """A line over the control socket is longer than any order."""

    code = "control.too_long"


class ControlBusyError(UnavailableError):
    """Another updater is connected, or another bundle of this model is being tried."""

    code = "control.busy"


def encode(news: News) -> bytes:
    """Return the line that says `news`."""
    return news.model_dump_json().encode("utf-8", "replace") + b"\n"


BUSY: Final = encode(
    Failed(do="", error={"code": ControlBusyError.code, "message": "an updater is connected"})
)


class Intake:
    """Puts orders where the agent's main thread looks for them.

    Args:
        wake: called after each.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.orders: deque[tuple[int, Order | None]] = deque()  # None: somebody has come
        self.wrong: deque[tuple[int, OrderInvalidError]] = deque()
        self._wake = wake

    def room(self) -> bool:
        """Whether another order is taken now."""
        return len(self.orders) + len(self.wrong) < MAX_ORDERS

    def take(self, what: Opened | Line) -> None:
        """Take what the socket brings; total for any bytes."""
        if isinstance(what, Opened):
            self.orders.append((what.peer, None))
        else:
            try:
                self.orders.append((what.peer, parse(what.data)))
            except OrderInvalidError as err:
                self.wrong.append((what.peer, err))
        self._wake()


def parse(line: bytes | None) -> Order:
    """Return the order in a line; None stands for one that was too long.

    Raises:
        OrderInvalidError, OrderTooLongError: it is none.
    """
    if line is None:
        msg = f"longer than {MAX_LINE_BYTES} bytes"
        raise OrderTooLongError(msg)
    try:
        # Strictly: of a configuration, settings have parts that a variable gives as text.
        return ORDERS.validate_json(line, strict=True)
    except ValidationError as err:
        fields = sorted({".".join(map(str, e["loc"])) for e in err.errors(include_input=False)})
        msg = f"not an order of this version: {', '.join(fields)[:200] or 'not JSON'}"
        raise OrderInvalidError(msg) from None
