"""How new the words of a line are, given the templates seen in training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from edgeslm.core.template import canonical, tokens

# Weights of the text score; see docs/benchmarks.md for what they reach.
UNSEEN: Final = 0.2
TOKENS: Final = 0.4
PAIRS: Final = 0.4
DISTANCE: Final = 0.5


class Vocabulary:
    """Templates seen in training, with their words and pairs of neighbouring words.

    Upper and lower case are one, except in units (see `template.canonical`). Immutable.

    Args:
        templates: distinct templates; a template's place in the order is its index.
    """

    __slots__ = ("_canonical", "_exact", "_pairs", "_words")

    def __init__(self, templates: Iterable[str]) -> None:
        self._exact: dict[str, int] = {}
        self._canonical: dict[str, int] = {}
        self._words: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        for i, template in enumerate(templates):
            self._exact[template] = i
            plain = canonical(template)
            self._canonical.setdefault(plain, i)
            words = ["", *tokens(plain), ""]
            self._words.update(words)
            self._pairs.update(pairwise(words))

    def index(self, template: str) -> int | None:
        """Return the index of `template`, or None if it is new."""
        found = self._exact.get(template)
        return self._canonical.get(canonical(template)) if found is None else found

    def score(self, template: str, distance: float) -> float:
        """Return how new a template is that has no index, in [0.2, 2.0]; known ones score 0.

        Args:
            template: one for which `index` gives None.
            distance: cosine distance of its embedding to the nearest known one, in [0, 2].
        """
        words = ["", *tokens(canonical(template)), ""]
        pairs = list(pairwise(words))
        new_words = sum(word not in self._words for word in words) / max(1, len(words) - 2)
        new_pairs = sum(pair not in self._pairs for pair in pairs) / len(pairs)
        return UNSEEN + TOKENS * new_words + PAIRS * new_pairs + DISTANCE * distance

    def unseen(self, template: str) -> str | None:
        """Return the first word of `template` that is new, else the first new pair, else None."""
        words = ["", *tokens(canonical(template)), ""]
        for word in words:
            if word not in self._words:
                return word
        for a, b in pairwise(words):
            if (a, b) not in self._pairs:
                return f"{a} {b}".strip()
        return None
