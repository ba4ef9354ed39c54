"""How new the words of a line are, given the templates seen in training."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Final

from edgeslm.core.template import canonical, tokens

# What a new template scores at least, and what new words and new pairs of words add at most.
UNSEEN: Final = 0.2
WORDS: Final = 0.4
PAIRS: Final = 0.4
CACHED: Final = 4096
"""New templates whose novelty is kept, so that a line that repeats is looked at once."""


class Vocabulary:
    """Templates seen in training, with their words and pairs of neighbouring words.

    Upper and lower case are one, except in units (see `template.canonical`). Immutable.

    Args:
        templates: distinct canonical forms; a template's place in the order is its index.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        self._exact: dict[str, int] = {}
        self._canonical: dict[str, int] = {}
        self._words: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        for i, template in enumerate(templates):
            self._exact[template] = i
            plain = canonical(template)
            self._canonical[plain] = i
            words = ["", *tokens(plain), ""]
            self._words.update(words)
            self._pairs.update(pairwise(words))
        self._look = lru_cache(maxsize=CACHED)(self._look_closely)

    def look(self, template: str) -> tuple[int | None, float]:
        """Return the index of `template` (None: new) and how new its words are, in [0, 1].

        Known templates are 0; new ones at least 0.2, however familiar their words.
        """
        known = self._exact.get(template)
        return self._look(template) if known is None else (known, 0.0)

    def _look_closely(self, template: str) -> tuple[int | None, float]:
        plain = canonical(template)
        if (known := self._canonical.get(plain)) is not None:
            return known, 0.0
        words = ["", *tokens(plain), ""]
        pairs = list(pairwise(words))
        new_words = sum(word not in self._words for word in words) / max(1, len(words) - 2)
        new_pairs = sum(pair not in self._pairs for pair in pairs) / len(pairs)
        return None, UNSEEN + WORDS * new_words + PAIRS * new_pairs

    def unseen(self, template: str) -> str:
        """Return the first word that is new in `template`, else the first pair, else all of it."""
        words = ["", *tokens(canonical(template)), ""]
        for word in words:
            if word not in self._words:
                return word
        for a, b in pairwise(words):
            if (a, b) not in self._pairs:
                return f"{a} {b}".strip()
        return template
