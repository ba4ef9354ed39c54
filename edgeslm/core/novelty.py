"""How new the words of a line are, given the templates seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

from edgeslm.core.template import WILD, canonical, shape, tokens, wildcards

K = TypeVar("K")

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


class Familiar:
    """Words that count as known beside those of a vocabulary, and their pairs: of some templates.

    One writer beside any number of readers.
    """

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.looks: dict[str, Look] = {}
        """What was found since the last change, of one vocabulary."""

    def __bool__(self) -> bool:
        return bool(self.words)

    def add(self, template: str) -> None:
        """Let the words of a template be known."""
        words = _words(canonical(template))
        self.words.update(words)
        self.pairs.update(pairwise(words))
        self.looks = {}

    def join(self, other: Familiar) -> None:
        """Let what another knows be known, too."""
        self.words.update(other.words)
        self.pairs.update(other.pairs)
        self.looks = {}

    def remove(self, template: str) -> None:
        """Be as if a template that was added had not been."""
        words = _words(canonical(template))
        _take(self.words, words)
        _take(self.pairs, pairwise(words))
        self.looks = {}


_NOTHING: Final = Familiar()


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
            words = _words(plain)
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

    def look_beside(self, template: str, familiar: Familiar) -> Look:
        """Return what is known of `template` where `familiar` words are, too."""
        looks = familiar.looks
        if (found := looks.get(template)) is None:
            found = self.look(template)
            if found.place is None:
                found = self._compare(template, canonical(template), familiar)
            if len(looks) < CACHED:
                looks[template] = found
        return found

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
        if self._merged:
            for _, key in wildcards(tuple(tokens(plain))):
                if known := self._merged.get(key):
                    return known
        return self._compare(template, plain, _NOTHING)

    def _compare(self, template: str, plain: str, familiar: Familiar) -> Look:
        """Look at a new template, whose canonical form is `plain`."""
        words = _words(plain)
        pairs = list(pairwise(words))
        new_words = [x for x in words if x not in self._words and x not in familiar.words]
        new_pairs = [x for x in pairs if x not in self._pairs and x not in familiar.pairs]
        share = len(new_words) / max(1, len(words) - 2)
        new = UNSEEN + WORDS * share + PAIRS * len(new_pairs) / len(pairs)
        neighbours = [" ".join(pair) for pair in new_pairs if all(pair)]
        edges = [" ".join(pair).strip() for pair in new_pairs]  # a word that never began a line
        unseen = new_words or neighbours or edges or [template]
        return Look(None, new, tuple(dict.fromkeys(unseen))[:NAMED])


def _words(plain: str) -> list[str]:
    """Return the words of a canonical template, between where a line begins and where it ends."""
    return ["", *tokens(plain), ""]


def _take(counter: Counter[K], gone: Iterable[K]) -> None:
    """Count those once less, and know no more of what is counted out."""
    for each in gone:
        counter[each] -= 1
        if not counter[each]:
            del counter[each]
