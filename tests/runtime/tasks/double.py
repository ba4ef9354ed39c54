"""A task for tests: says which of the graph's logits is largest."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgeslm.errors import InvalidFileError
from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor

FILE = "parameters.json"


class DoubleTask:
    """The text is the model's text; "no model" is answered without it."""

    def __init__(self, labels: list[str]) -> None:
        self._labels = labels

    def memory(self) -> None:
        """It needs none."""

    def prepare(self, request: Request) -> Prepared:
        return Prepared(request, None if request.text == "no model" else request.text)

    def finish(
        self,
        prepared: Prepared,
        outputs: Mapping[str, Tensor] | None,
        *,
        truncated: bool,
        memory: Memory | None = None,
    ) -> Answer:
        del prepared, memory
        if outputs is None:
            return Answer(label="none", confidence=1.0, score=0.0)
        logits = outputs["logits"]
        best = int(logits.argmax())
        return Answer(
            label=self._labels[best],
            confidence=0.5,
            score=float(logits[best]),
            accepted=True,
            truncated=truncated,
            explanation=({"channel": "text", "token": "a"},),
        )


def load(parameters: bytes) -> DoubleTask:
    """Read a JSON list of labels."""
    try:
        labels = json.loads(parameters)
    except ValueError:
        labels = None
    if not isinstance(labels, list):
        raise InvalidFileError(FILE, [("", "not a list")], remedy="Export it again.")
    return DoubleTask(labels)
