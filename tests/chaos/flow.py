"""Numbered messages from several sources, and an exact account of what came of them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tests.agent.kit import AgentProcess, Plant, poll

# The key tells which message was meant, the id how the agent names it.
ROUTE: dict[str, Any] = {"topic": "in/+", "models": ["m"], "text": "/text", "key": "/n"}
OWN_IDS: dict[str, Any] = {**ROUTE, "id": "/n"}
SOURCES = ("a", "b", "c")


class Flow:
    """Args: who publishes, who hears the results (the same, if absent), and texts, numbered."""

    def __init__(
        self, plant: Plant, hears: Plant | None = None, *, text: str = "reading {}"
    ) -> None:
        self.sent: list[int] = []
        self._plant = plant
        self._hears = hears or plant
        self._text = text

    def send(self, count: int) -> list[int]:
        """Publish that many, each source in turn; return their numbers."""
        first = len(self.sent)
        numbers = list(range(first, first + count))
        self.sent += numbers
        self.send_again(numbers)
        return numbers

    def send_again(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            topic = f"in/{SOURCES[n % len(SOURCES)]}"
            self._plant.publish(topic, json.dumps({"text": self._text.format(n), "n": str(n)}))

    @contextlib.contextmanager
    def running(self, per_s: int = 1000) -> Iterator[None]:
        """Publish on and on until the end of the block; then see that the broker has it all."""
        ended = threading.Event()

        def run() -> None:
            began, sent = time.monotonic(), 0
            while not ended.wait(0.01):
                due = int((time.monotonic() - began) * per_s)
                if self._plant.unconfirmed < per_s:  # else the machine is too busy for more
                    self.send(min(due - sent, per_s))
                sent = due

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self._plant.flush()

    def results(self, model: str) -> list[dict[str, Any]]:
        """Those of the bundle of this name, in order."""
        return [r for r in list(self._hears.results) if r["model"]["name"] == model]

    def answered(self, model: str = "brittle") -> set[int]:
        """Numbers of the messages that have a result."""
        return {int(r["key"]) for r in self.results(model)}

    def advance(self, count: int) -> None:
        """Wait until so many more messages have their first result."""
        goal = len(self.answered()) + count
        poll(lambda: len(self.answered()) >= goal, f"{count} more results")

    def settle(self, model: str = "brittle", within_s: float = 60.0) -> None:
        """Wait until every message sent so far has a result."""
        missing: set[int] = set()

        def none_missing() -> bool:
            missing.clear()
            missing.update(set(self.sent) - self.answered(model))
            return not missing

        poll(none_missing, f"a result for each of {len(self.sent)}; {missing}", within_s)

    def close(
        self, agent: AgentProcess, model: str = "brittle", *, republished: bool = False
    ) -> list[dict[str, Any]]:
        """Wait for all results, end the agent, hear it out, and settle the account: see `audit`."""
        self.settle(model)
        assert agent.stop() < 5
        # It leaves by the connection that results take, so nothing comes after it.
        poll(lambda: self._hears.last["status"]["reason"] == "stopped", "its goodbye")
        return self.audit(model, republished=republished)

    def audit(self, model: str = "brittle", *, republished: bool = False) -> list[dict[str, Any]]:
        """Nothing lost, nothing invented, no id given twice, each source in order.

        Args:
            model: whose results.
            republished: the broker was gone for a while, and the source's client may have
                published what it had taken once more, and out of turn. The agent cannot know.

        Returns:
            the results that came a second time.
        """
        meant: dict[str, int] = {}
        again: list[dict[str, Any]] = []
        for result in self.results(model):
            assert "error" not in result
            n = int(result["key"])
            assert result["topic"] == f"in/{SOURCES[n % len(SOURCES)]}"
            if result["id"] in meant:
                assert meant[result["id"]] == n, "two messages under one id"
                again.append(result)
            meant[result["id"]] = n
        assert set(meant.values()) == set(self.sent)
        assert republished or len(meant) == len(self.sent), "a duplicate that cannot be seen"
        for source in range(len(SOURCES)):
            mine = {id_: n for id_, n in meant.items() if n % len(SOURCES) == source}
            numbers = list(mine.values())
            assert republished or numbers == sorted(numbers)
            if ":" in next(iter(mine)):  # an id of the agent's, which numbers what came in
                numbers = [int(id_.rsplit(":", 1)[1]) for id_ in mine]
                assert numbers == sorted(numbers)
        return again
