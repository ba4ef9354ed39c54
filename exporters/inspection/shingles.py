"""Pairs of texts that share most of their letters, without holding each against each.

A text is the set of all its runs of four letters; two are near if they share most of these (Jaccard
similarity). Of each set 80 least hashes are kept: two sets agree in each with the probability of
their similarity. Texts that agree in five neighbouring ones are held against each other in full.

Source:
    Broder 1997, "On the resemblance and containment of documents"; the bands are those of
    Leskovec, Rajaraman, Ullman 2014, "Mining of massive datasets", section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LETTERS: Final = 4
# 1 - (1 - .75 ** 5) ** 16: of pairs that are 75 % alike, all but 1 in 80 are found.
_BANDS: Final = 16
_ROWS: Final = 5
_LONGEST: Final = 2_000  # letters of a text that are looked at: more than models read
_BLOCK: Final = 4_096  # texts whose hashes are in memory at once
_CROWD: Final = 256  # texts of one bucket that are all held against each other, at most
_MOST: Final = 1_000_000  # pairs that come into question, about at most
_COMPARED: Final = 50_000  # of these, pairs that are held against each other in full, at most
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits all over: 2 ** 64 / golden ratio
_HALF: Final = np.uint64(32)
_SIGMAS: Final = 4.0
Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]
"""Two texts a row by their numbers, the lower first."""


@dataclass(frozen=True, slots=True)
class Near:
    """Two texts by their numbers, the lower first, and the share of letters' runs in common."""

    one: int
    other: int
    similarity: float


def near(
    texts: Sequence[str], groups: Sequence[str], *, at_least: float
) -> tuple[list[Near], bool]:
    """Return pairs of texts that are alike and of different groups.

    Args:
        texts: all different.
        groups: of each text.
        at_least: least similarity; below .6 many are missed.

    Returns:
        The pairs, most alike first; and whether there were so many like each other that some were
        not held against all others.
    """
    if len(texts) < 2:  # noqa: PLR2004 -- a pair
        return [], True
    number = {group: n for n, group in enumerate(sorted(set(groups)))}
    kinds = np.array([number[group] for group in groups])
    signatures = np.concatenate(
        [_signatures(texts[i : i + _BLOCK]) for i in range(0, len(texts), _BLOCK)]
    )
    pairs, whole = _candidates(signatures, kinds)
    runs: dict[int, frozenset[int]] = {}

    def of(text: int) -> frozenset[int]:
        if text not in runs:
            runs[text] = frozenset(_hashes([texts[text]])[0].tolist())
        return runs[text]

    likely = _likely(pairs, signatures, at_least)
    found = []
    for one, other in likely[:_COMPARED].tolist():
        a, b = of(one), of(other)
        common = len(a & b)
        if (similarity := common / (len(a) + len(b) - common)) >= at_least:
            found.append(Near(one, other, similarity))
    found.sort(key=lambda pair: (-pair.similarity, pair.one, pair.other))
    return found, whole and len(likely) <= _COMPARED


def _likely(pairs: Pairs, signatures: Hashes, at_least: float) -> Pairs:
    """Return of `pairs` those that may be so similar, most hashes in common first."""
    agree = [
        (signatures[block[:, 0]] == signatures[block[:, 1]]).mean(axis=1)
        for block in np.split(pairs, range(_BLOCK, len(pairs), _BLOCK))
    ]
    shares = np.concatenate(agree)
    order = np.argsort(-shares, kind="stable")
    least = at_least - _SIGMAS * (at_least * (1 - at_least) / signatures.shape[1]) ** 0.5
    found: Pairs = pairs[order[shares[order] >= least]]
    return found


def _hashes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return a hash of each run of letters of all texts, and where each text's begin."""
    padded = [f" {text[:_LONGEST]} ".ljust(_LETTERS) for text in texts]
    whole = "".join(padded).encode("utf-32-le", "surrogatepass")
    letters = np.frombuffer(whole, np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded])
    begins = np.cumsum(lengths) - lengths
    mixed = np.zeros(len(letters) - _LETTERS + 1, np.uint64)
    for i in range(_LETTERS):
        mixed = (mixed ^ letters[i : i + len(mixed)]) * _MIX
        mixed ^= mixed >> _HALF
    # A run that begins in one text and ends in the next is of neither.
    inside = np.ones(len(letters), bool)
    for back in range(1, _LETTERS):
        inside[begins[1:] - back] = False
    counts = lengths - _LETTERS + 1
    return mixed[inside[: len(mixed)]], np.cumsum(counts) - counts


def _signatures(texts: Sequence[str]) -> Hashes:
    """Return the least of each text's hashes under each of 80 orders, uint64 [n, 80]."""
    hashes, begins = _hashes(texts)
    random = np.random.default_rng(0)
    columns = []
    for factor in random.integers(1 << 62, size=_BANDS * _ROWS, dtype=np.uint64):
        shuffled = hashes * (factor * np.uint64(2) + np.uint64(1))
        shuffled ^= shuffled >> _HALF
        columns.append(np.minimum.reduceat(shuffled * _MIX, begins))
    return np.stack(columns, axis=1)


def _candidates(signatures: Hashes, kinds: NDArray[np.int64]) -> tuple[Pairs, bool]:
    """Return pairs of different kinds that agree in some band, and whether it is all of them."""
    pairs = np.empty(0, np.int64)
    whole, n = True, len(signatures)
    for band in range(_BANDS):
        keys = np.zeros(len(signatures), np.uint64)
        for column in range(band * _ROWS, (band + 1) * _ROWS):
            keys = (keys ^ signatures[:, column]) * _MIX
            keys ^= keys >> _HALF
        order = np.argsort(keys, kind="stable")
        begins = np.concatenate([[0], np.flatnonzero(np.diff(keys[order])) + 1])
        ends = np.append(begins[1:], len(order))
        ordered = kinds[order]
        mixed = np.minimum.reduceat(ordered, begins) != np.maximum.reduceat(ordered, begins)
        new, room = [pairs], _MOST - len(pairs)
        for bucket in np.flatnonzero(mixed).tolist():
            if room < 0:
                break
            members = order[begins[bucket] : ends[bucket]]  # ascending: the sort is stable
            if len(members) > _CROWD:
                members, whole = _spread(members, kinds), False
            one, other = np.triu_indices(len(members), 1)
            unlike = kinds[members[one]] != kinds[members[other]]
            new.append((members[one] * n + members[other])[unlike])
            room -= len(new[-1])
        pairs = np.unique(np.concatenate(new))
        if room < 0:
            whole = False
            break
    return np.stack(np.divmod(pairs, n), axis=1), whole


def _spread(members: NDArray[np.int64], kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `_CROWD` of a bucket's texts, of as many kinds as there are, in order."""
    seen: dict[int, int] = {}
    ranked = []
    for text in members.tolist():
        kind = int(kinds[text])
        seen[kind] = seen.get(kind, -1) + 1
        ranked.append((seen[kind], text))
    return np.array(sorted(text for _, text in sorted(ranked)[:_CROWD]))
