"""Names of labels as texts: what they were called often says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from exporters.data import Row

_JOINTS: Final = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")  # card_arrival, PlayMusic, pump.stop


def named(labels: Iterable[str], rows: Sequence[Row]) -> list[Row]:
    """Return the name of each label as a text of it, in words.

    Names that have no words are left out, and those that `rows` have as a text.
    """
    known = {_words(row.text) for row in rows}
    names = [Row(_words(label), label) for label in labels]
    return [name for name in names if name.text and name.text not in known]


def _words(label: str) -> str:
    return _JOINTS.sub(" ", label).strip().lower()
