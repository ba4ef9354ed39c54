"""A task for tests that does what a text tells it: end the process, raise, take its time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping

from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor


class BrittleTask:
    """Answers every other text with its length, without a model."""

    def __init__(self, label: str) -> None:
        self._label = label

    def memory(self) -> None:
        """It needs none."""

    def prepare(self, request: Request) -> Prepared:
        word, _, rest = request.text.partition(" ")
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "raise":
            raise RuntimeError(rest)
        if word == "sleep":
            time.sleep(float(rest))
        return Prepared(request, None)

    def finish(
        self,
        prepared: Prepared,
        outputs: Mapping[str, Tensor] | None,
        *,
        truncated: bool,
        memory: Memory | None = None,
    ) -> Answer:
        del outputs, memory
        score = float(len(prepared.request.text))
        return Answer(label=self._label, confidence=1.0, score=score, truncated=truncated)


def load(parameters: bytes) -> BrittleTask:
    """Of parameters that name a label, that is what every text gets."""
    found = json.loads(parameters)
    return BrittleTask(found["label"] if isinstance(found, dict) else "read")
