"""How new the words of a line are, given the templates seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from edgeslm.core.template import WILD, canonical, shape, tokens, wildcards

# What a new template scores at least, and what new words and new pairs of words add at most.
UNSEEN: Final = 0.2
WORDS: Final = 0.4
PAIRS: Final = 0.4
CACHED: Final = 4096
"""New templates whose novelty is kept, so that a line that repeats is looked at once."""


NEAR: Final = 3
"""Known templates that are named as the nearest to a new one."""
NAMED: Final = 3
"""New words of it that are named, at most."""
HOLDING: Final = 32
"""Templates that are looked at for each word of a new one: the first that held it."""


class Look(NamedTuple):
    """What a vocabulary knows of one template."""

    place: int | None
    """Index of the known template that it is; None if it is new."""
    words: float
    """How new its words are, in [0, 1]: 0 for a known template, and at least `UNSEEN` for a new
    one, however familiar they are."""
    unseen: tuple[str, ...]
    """The first `NAMED` new words, else new pairs of neighbours, else the template itself."""


class Vocabulary:
    """Templates seen in training, with their words and pairs of neighbouring words.

    Upper and lower case are one, except in units (see `template.canonical`); and in one that was
    merged, any word is known where it has `WILD`. Immutable.

    Args:
        templates: distinct canonical forms; a template's place in the order is its index.
    """

    def __init__(self, templates: Sequence[str]) -> None:
        self._exact: dict[str, Look] = {}
        self._canonical: dict[str, Look] = {}
        self._words: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        for i, template in enumerate(templates):
            plain = canonical(template)
            self._exact[template] = self._canonical[plain] = Look(i, 0.0, (template,))
            words = ["", *tokens(plain), ""]
            self._words.update(words)
            self._pairs.update(pairwise(words))
        self._holding: dict[str, list[int]] = {}
        for i, template in enumerate(templates):
            for word in dict.fromkeys(tokens(canonical(template))):
                holding = self._holding.setdefault(word, [])
                if len(holding) < HOLDING:
                    holding.append(i)
        self._templates = templates
        self._merged = {
            shape(template): self._exact[template] for template in templates if WILD in template
        }
        self._look = lru_cache(maxsize=CACHED)(self._look_closely)
        self._nearest = lru_cache(maxsize=CACHED)(self._look_near)

    def look(self, template: str) -> Look:
        """Return what is known of `template`."""
        return self._exact.get(template) or self._look(template)

    def near(self, template: str) -> tuple[str, ...]:
        """Return the `NEAR` templates that share most words with `template`, the nearest first."""
        return self._nearest(template)

    def _look_near(self, template: str) -> tuple[str, ...]:
        words = set(tokens(canonical(template)))
        shared = Counter(i for word in words for i in self._holding.get(word, ()))
        # Of those that share as much, the one with the fewest words of its own.
        order = sorted(shared, key=lambda i: (-shared[i], len(self._templates[i]), i))
        return tuple(self._templates[i] for i in order[:NEAR])

    def _look_closely(self, template: str) -> Look:
        plain = canonical(template)
        if known := self._canonical.get(plain):
            return known
        words = ["", *tokens(plain), ""]
        if self._merged:
            for _, key in wildcards(tuple(words[1:-1])):
                if known := self._merged.get(key):
                    return known
        pairs = list(pairwise(words))
        new_words = [word for word in words if word not in self._words]
        new_pairs = [pair for pair in pairs if pair not in self._pairs]
        share = len(new_words) / max(1, len(words) - 2)
        new = UNSEEN + WORDS * share + PAIRS * len(new_pairs) / len(pairs)
        neighbours = [" ".join(pair) for pair in new_pairs if all(pair)]
        edges = [" ".join(pair).strip() for pair in new_pairs]  # a word that never began a line
        unseen = new_words or neighbours or edges or [template]
        return Look(None, new, tuple(dict.fromkeys(unseen))[:NAMED])
