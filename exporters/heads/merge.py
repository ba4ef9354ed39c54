"""Keep templates few: those that differ by a name alone become one.

`core.template.split` masks what looks like a number, an id, an address or a path. A host or a user
that is a plain word does not: "session opened for user alice", ... for bob. Where so many
templates are alike but for one word, that word is a name and no state, and any other will do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeslm.core.template import WILD, canonical, shape, wildcards

NAMES: Final = 16
"""Different words in one place, from which on they are names: machines have fewer states."""
MAX_TEMPLATES: Final = 16_384
"""Most templates of a bundle; those seen least are new to a device again."""


class Merged(NamedTuple):
    """Templates, fewer than before.

    Args:
        templates: distinct.
        places: of each template of before, the index of the one that it is now.
        merged: how many of before share theirs with others.
    """

    templates: list[str]
    places: list[int]
    merged: int


def merge(templates: Sequence[str]) -> Merged:
    """Merge templates that differ by one word, where `NAMES` do."""
    shapes = [shape(template) for template in templates]
    alike: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, words in enumerate(shapes):
        for place, key in wildcards(words):
            alike[key][words[place]].append(i)
    # Those with most names first, so that a template joins the largest group that it is of.
    groups = sorted(
        ((len(names), key) for key, names in alike.items() if len(names) >= NAMES),
        key=lambda group: (-group[0], group[1]),
    )
    joined: dict[int, tuple[str, ...]] = {}
    for _, key in groups:
        free = [i for members in alike[key].values() for i in members if i not in joined]
        if len(free) >= NAMES:
            joined |= dict.fromkeys(free, key)
    found: list[str] = []
    index: dict[object, int] = {}
    places = []
    for i, template in enumerate(templates):
        form: object = joined[i] if i in joined else canonical(template)
        place = index.setdefault(form, len(index))
        if place == len(found):
            found.append(_wild(template, shapes[i], joined[i]) if i in joined else template)
        places.append(place)
    return Merged(found, places, len(joined))


def rarest(templates: Sequence[int], *, most: int = MAX_TEMPLATES) -> set[int]:
    """Return the templates that are one too many, of those that lines have."""
    return {template for template, _ in Counter(templates).most_common()[most:]}


def _wild(template: str, words: Sequence[str], key: Sequence[str]) -> str:
    """Return `template` with `WILD` for the word that `key` has it for."""
    place = key.index(WILD)
    # Words come in order, each where it stands first after the one before it.
    at = 0
    plain = canonical(template)
    for word in words[:place]:
        at = plain.index(word, at) + len(word)
    start = plain.index(words[place], at)
    return template[:start] + WILD + template[start + len(words[place]) :]
