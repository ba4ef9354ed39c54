"""A task for tests whose texts say themselves how unusual they are: "0.03 pump 3 ready"."""

from __future__ import annotations

from collections.abc import Mapping

from edgeslm.core.drift import Trained
from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor


class WaryTask:
    """The first word is the p-value of the channel `text`, the others are the template."""

    trained = Trained({"text": 1.0}, 0.05)

    def memory(self) -> None:
        """It needs none."""

    def prepare(self, request: Request) -> Prepared:
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
        word, _, template = prepared.request.text.partition(" ")
        p = float(word)
        return Answer(
            label="normal",
            confidence=1.0,
            score=1 - p,
            p_value=p,
            channels={"text": p},
            truncated=truncated,
            template=template,
        )


def load(parameters: bytes) -> WaryTask:
    """Whatever the parameters are."""
    del parameters
    return WaryTask()
