"""Intents: labels that starve, texts that stand under several, lines that look mislabelled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

from edgeslm.runtime.tokenizer import Tokenizer
from exporters.data import OUT_OF_SCOPE, Row, Split
from exporters.heads.intent import IntentHead
from exporters.inspection.findings import WORST, Finding, Inspection, line, named, pair, quoted
from exporters.inspection.shingles import near
from exporters.inspection.suspects import Suspect, suspects
from exporters.labels import folded
from exporters.tune.lock import Train
from exporters.workbench import Workbench

FEW: Final = 8
"""Different texts of a label below which what is learnt of it depends on which they are."""
_ALL_FEW: Final = "where nearly all have few, take --train few"
_RATIO: Final = 20  # of the most texts of a label to the fewest
_ALIKE: Final = 0.75  # share of the runs of four letters in common
_SAME_KEY: Final = 100  # pairs that one text under many labels can make, at most
_PARTIAL: Final = (
    "texts are so alike that not all were held against each other: near {} may be more"
)
_NO_MODEL: Final = "without a model, mislabelled lines were not looked for; give --model"
_LEARNT: Final = (
    "mislabelled lines were not looked for, since the teacher has learnt from them: "
    "`edgeslm-export data --model SOURCE` looks for them with what it was made of"
)


def inspect(split: Split, bench: Workbench | None, train: Train | None = None) -> Inspection:
    """See `exporters.inspection.Inspector.inspect`."""
    notes = []
    found = _starving(split, train)
    found += _unjudged(split)
    by_text = _by_text([*split.train, *split.held_out])
    found += _contradictions(by_text)
    found += _repeated(split)
    alike, whole = _near(by_text)
    found += alike
    if not whole:
        notes.append(_PARTIAL.format("duplicates"))
    if bench is None:
        notes.append(_LEARNT if train == "student" else _NO_MODEL)
    else:
        found += _mislabelled(split, bench)
        found += _cut(split, bench)
    counts = {
        str(label): {"train": train, "held_out": judged} for label, train, judged in _counts(split)
    }
    return Inspection("intent", "label", counts, found, notes)


def _counts(split: Split) -> Iterator[tuple[str, int, int]]:
    """Yield each label with how many lines it has to learn from and to judge by, most first."""
    train, judged = (Counter(str(r.label) for r in rows) for rows in (split.train, split.held_out))
    for label in sorted({*train, *judged}, key=lambda name: (-train[name], name)):
        yield label, train[label], judged[label]


def _starving(split: Split, train: Train | None) -> list[Finding]:
    """Labels with few different texts, and labels with far fewer than others.

    Counted are those of the training file, with what is held out of it: others nobody could add to.
    """
    texts: defaultdict[str, set[str]] = defaultdict(set)
    first: dict[str, Row] = {}
    files = {row.file for row in split.train}
    for row in (*split.train, *(row for row in split.held_out if row.file in files)):
        if row.label != OUT_OF_SCOPE:
            texts[str(row.label)].add(folded(row.text))
            first.setdefault(str(row.label), row)
    ordered = sorted((len(found), label) for label, found in texts.items())

    def columns(n: int, label: str) -> dict[str, str | int | float]:
        row = first[label]
        return {"label": label, "texts": n, "file": row.file, "line": row.line}

    findings = []
    if thin := [(n, label) for n, label in ordered if n < FEW]:
        findings.append(
            Finding(
                "few",
                f"labels with fewer than {FEW} different texts",
                len(thin),
                [columns(*one) for one in thin[:WORST]],
                [f"{named(label)} {n}, {first[label].place}" for n, label in thin],
                "Expect them to be missed: give each more texts, in other words"
                + ("." if train in {"few", "student"} else f"; {_ALL_FEW}."),
            )
        )
    least, most = ordered[0], ordered[-1]
    if most[0] >= _RATIO * least[0]:
        rare = [one for one in ordered if _RATIO * one[0] <= most[0]]
        findings.append(
            Finding(
                "imbalance",
                f"labels with a {_RATIO}th of the texts of {named(most[1])} ({most[0]}) or less",
                len(rare),
                [columns(*one) for one in rare[:WORST]],
                [f"{named(label)} {n}, {first[label].place}" for n, label in rare],
                "Rare labels lose against frequent ones: give more of them, or fewer of those.",
            )
        )
    return findings


def _unjudged(split: Split) -> list[Finding]:
    """Labels that are learnt, and that nothing held out has."""
    judged = {row.label for row in split.held_out}
    bare = [(n, label) for label, n, _ in _counts(split) if label not in judged]
    bare = [(n, label) for n, label in bare if label != OUT_OF_SCOPE]
    if not bare:
        return []
    return [
        Finding(
            "unjudged",
            "labels without a held-out text",
            len(bare),
            [{"label": label, "texts": n} for n, label in bare[:WORST]],
            [named(label) for _, label in bare],
            "No figure says how well they are told: give texts of each to judge by, with --eval.",
        )
    ]


def _by_text(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return of each text, folded, the first line under each of its labels."""
    found: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[folded(row.text)].setdefault(str(row.label), row)
    return found


def _contradictions(by_text: dict[str, dict[str, Row]]) -> list[Finding]:
    double = [list(labels.values()) for labels in by_text.values() if len(labels) > 1]
    if not double:
        return []
    double.sort(key=lambda rows: -len(rows))
    pairs = [two for rows in double[:WORST] for two in combinations(rows[:_SAME_KEY], 2)]
    return [
        Finding(
            "contradiction",
            "texts under several labels",
            len(double),
            [line(one) | line(other, "other_") for one, other in pairs[:WORST]],
            [", ".join(f"{row.place} {named(row.label)}" for row in rows) for rows in double],
            "One label at most can be right: keep that one.",
        )
    ]


def _repeated(split: Split) -> list[Finding]:
    """Lines to judge by that are learnt, too, under the same label."""
    learnt: dict[tuple[str, str], Row] = {}
    for row in split.train:
        learnt.setdefault((folded(row.text), str(row.label)), row)
    twice = [
        (row, other)
        for row in split.held_out
        if (other := learnt.get((folded(row.text), str(row.label))))
    ]
    if not twice:
        return []
    return [
        Finding(
            "leak",
            f"of {len(split.held_out)} lines to judge by, those that are learnt from too",
            len(twice),
            [line(row) | line(other, "other_") for row, other in twice[:WORST]],
            [f"{row.place} is {other.place}" for row, other in twice],
            "They flatter the figures: remove them from one of the two.",
        )
    ]


def _near(by_text: dict[str, dict[str, Row]]) -> tuple[list[Finding], bool]:
    """Texts that are nearly the same, under different labels; and whether all were compared."""
    rows = [next(iter(labels.values())) for labels in by_text.values()]
    letters = [_letters(text) for text in by_text]
    pairs, whole = near(letters, [str(row.label) for row in rows], at_least=_ALIKE)
    if not pairs:
        return [], whole
    worst, shown = [], []
    seen: set[int] = set()
    for each in pairs:
        if each.one in seen or each.other in seen:
            continue  # a text that resembles many is listed once
        seen |= {each.one, each.other}
        one, other = rows[each.one], rows[each.other]
        worst.append(line(one) | line(other, "other_") | {"alike": round(each.similarity, 3)})
        shown.append(pair(one, other))
        if len(worst) == WORST:
            break
    finding = Finding(
        "near_duplicate",
        f"pairs of texts that are {_ALIKE:.0%} or more alike, under different labels",
        len(pairs),
        worst,
        shown,
        "Right where a word decides; else give both the same label.",
    )
    return [finding], whole


def _letters(text: str) -> str:
    """Return `text`, folded before, without what is neither letter nor digit."""
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def _mislabelled(split: Split, bench: Workbench) -> list[Finding]:
    """Lines that a model which has not learnt from them would put under another label."""
    head = bench.fit()
    assert isinstance(head, IntentHead)  # noqa: S101 -- of this task
    assert head.opinions is not None  # noqa: S101 -- the encoder is as it came
    found = suspects(head.opinions, split.held_out, bench.reference_answers(split.held_out))
    if not found:
        return []

    def columns(one: Suspect) -> dict[str, str | int | float]:
        return line(one.row) | {"looks_like": one.label, "sure": round(one.sure, 3)}

    return [
        Finding(
            "mislabelled",
            "lines that look mislabelled",
            len(found),
            [columns(one) for one in found[:WORST]],
            [f"{one.row.place} {named(one.row.label)}, rather {named(one.label)}" for one in found],
            "Most of them are hard rather than wrong: look at the list, and mend what is wrong.",
        )
    ]


def _cut(split: Split, bench: Workbench) -> list[Finding]:
    """Texts of which the model reads the beginning alone."""
    tokenizer = Tokenizer(bench.encoder.tokenizer, max_tokens=bench.max_tokens)
    # A token is a byte at least.
    long = [
        row
        for row in (*split.train, *split.held_out)
        if len(row.text.encode()) >= bench.max_tokens - 2 and tokenizer.encode(row.text)[1]
    ]
    if not long:
        return []
    long.sort(key=lambda row: -len(row.text))
    return [
        Finding(
            "cut",
            f"texts of more than the {bench.max_tokens} tokens that the model reads",
            len(long),
            [
                {
                    "file": row.file,
                    "line": row.line,
                    "label": row.label or "",
                    "characters": len(row.text),
                    "text": quoted(row.text),
                }
                for row in long[:WORST]
            ],
            [f"{row.place}, {len(row.text)} characters" for row in long],
            "What follows is not seen: put first what tells, or raise --max-tokens.",
        )
    ]
