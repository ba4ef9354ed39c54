"""An agent that does what a test says, on a real socket, in the words of the contract."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from edgeslm.contract.control import ORDERS, Done, Failed, Leaving, Report, ServingModel

A, B = "a" * 64, "b" * 64
FAIL: Final = {"code": "golden.failed", "message": "1 of 2 golden cases differ"}


class ScriptedAgent:
    """Serves one updater at a time, from a thread of its own.

    Attributes:
        serving: bundle of each model, and whether it is on trial.
        orders: what it was ordered, in order.
        failed: models that no bundle serves, and why.
        refuse: orders (by `do`) that it answers with an error.
        before: called with each order before it is carried out.
    """

    def __init__(self, path: Path, instance: str = "first") -> None:
        self.instance = instance
        self.serving: dict[str, tuple[str, bool]] = {}
        self.before_trial: dict[str, str] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.config: tuple[int, bool] = (0, False)
        self.orders: list[Any] = []
        self.refuse: dict[str, dict[str, str]] = {}
        self.before: Callable[[Any], None] = lambda _: None
        self.answered = self.errors = 0
        self.p99_ms: float | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """End as a killed process does."""
        for each in (self._connection, self._listener):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def leave(self) -> None:
        """End as one that was asked to stop."""
        self._say(Leaving())
        self.die()

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
                with self._connection, self._connection.makefile("rb") as lines:
                    self._say(self._report())
                    for line in lines:
                        self._obey(ORDERS.validate_json(line))
            except (OSError, ValueError):
                if self._listener.fileno() < 0:
                    return

    def _obey(self, order: Any) -> None:
        if order.do == "query":
            self._say(self._report())
            return
        self.orders.append(order)
        self.before(order)
        if order.do in self.refuse:
            self._say(
                Failed.model_validate(
                    {
                        "do": order.do,
                        "model": getattr(order, "model", None),
                        "error": self.refuse[order.do],
                    }
                )
            )
            return
        model: str | None = getattr(order, "model", None)
        if order.do == "configure":
            self.config = (order.seq, True)
        elif order.do in {"commit", "revert"} and model is None:
            self.config = (self.config[0], False)
        elif model is not None:
            self._change(order, model)
        self._say(Done(do=order.do, model=model))

    def _change(self, order: Any, model: str) -> None:
        bundle, trial = self.serving.get(model, (None, False))
        if order.do == "try":
            if bundle is not None and not trial:
                self.before_trial[model] = bundle
            self.serving[model] = (order.bundle, True)
        elif order.do == "commit" and bundle is not None:
            self.serving[model] = (bundle, False)
        elif order.do == "revert" and trial:
            old = self.before_trial.pop(model, None)
            if old is None:
                del self.serving[model]
            else:
                self.serving[model] = (old, False)

    def _report(self) -> Report:
        models = [
            ServingModel(
                model=name,
                state="serving",
                bundle=bundle,
                trial=trial,
                answered=self.answered,
                errors=self.errors,
                p99_ms=self.p99_ms,
            )
            for name, (bundle, trial) in self.serving.items()
        ]
        models += [
            ServingModel.model_validate({"model": name, "state": "failed", "error": error})
            for name, error in self.failed.items()
        ]
        seq, trial = self.config
        return Report(
            instance=self.instance, models=tuple(models), config_seq=seq, config_trial=trial
        )

    def _say(self, news: Any) -> None:
        if self._connection is not None:
            self._connection.sendall(news.model_dump_json().encode() + b"\n")
