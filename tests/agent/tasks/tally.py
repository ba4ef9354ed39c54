"""A task for tests whose answers depend on what came before, and on nothing of its timing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Final, cast

from edgeslm.core.overlay import Kind, Overlay
from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor


class Tally:
    """What was judged so far. Implements `edgeslm.ports.Memory`."""

    ordered: Final = True
    school: Final = None

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.overlay = Overlay(by_template=True)

    def refuses(self, kind: Kind, label: str) -> str | None:
        del kind, label
        return "it learns nothing"

    def counts(self) -> dict[str, int]:
        return {"texts": len(self.texts)}


class TallyTask:
    """The label is the text before this one, the score how many there were before it."""

    def memory(self) -> Tally:
        return Tally()

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
        del outputs
        texts = cast("Tally", memory).texts if memory is not None else []
        before = texts[-1] if texts else "nothing"
        text = prepared.request.text
        if text == "fail":
            raise ValueError(text)
        texts.append(text)
        score = float(len(texts) - 1)
        return Answer(label=before, confidence=1.0, score=score, truncated=truncated)


def load(parameters: bytes) -> TallyTask:
    """Whatever the parameters are."""
    del parameters
    return TallyTask()
