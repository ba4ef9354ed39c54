"""Labels: can they be learnt, and judged? Asked before any long work starts."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from edgeslm.tasks.intent import MAX_LABELS
from exporters.data import (
    ANOMALY,
    NORMAL,
    OUT_OF_SCOPE,
    SHOWN,
    DataError,
    Problems,
    Row,
    UnknownLabelError,
    at_lines,
)

_SHOWN: Final = 3  # labels that are named
MAX_LOGITS: Final = 10**8
"""Texts times labels: each text's logit of each label is held while a head is fitted, in several
copies of 8 bytes."""


def check_intent(
    train: Sequence[Row], held_out: Sequence[Row] | None, files: tuple[str, str]
) -> None:
    """Make sure that intents can be learnt from `train` and judged on `held_out`.

    Args:
        train: parsed examples.
        held_out: the user's own, if given.
        files: names of the two, for messages.

    Raises:
        DataError: a row without a label, labels that are one to a reader, fewer than two labels, a
            label with one text only, more labels than a bundle carries or can be fitted, or a
            label to judge by that was not learnt.
    """
    remedy = "Give each line a label, and each label several different texts."
    _check_labelled(train, files[0], remedy)
    _check_spelling(train, files[0])
    first = _first_of_each_label(train)
    texts = Counter(label for label, _ in {(row.label, row.text) for row in train})
    texts.pop(OUT_OF_SCOPE, None)
    if len(texts) < 2:  # noqa: PLR2004 -- one label leaves nothing to choose
        what = f"{len(texts)} label besides {OUT_OF_SCOPE!r}; at least 2 are needed"
        raise DataError(files[0], [("label", what)], remedy=remedy)
    _check_size(len(texts), sum(row.label != OUT_OF_SCOPE for row in train), files[0])
    if thin := [first[str(label)] for label, n in texts.items() if n < 2]:  # noqa: PLR2004
        problems = at_lines(thin, lambda r: f"label: only one text under {r.label!r}")
        raise DataError(files[0], problems, remedy=remedy)
    if held_out is not None:
        check_judged(held_out, texts, files[1])


def check_judged(rows: Sequence[Row], labels: Iterable[str | None], file: str) -> None:
    """Make sure that a model which has learnt `labels` can be judged on `rows`.

    Raises:
        DataError: a row without a label, or one that was not learnt, or none but out of scope.
    """
    _check_labelled(rows, file, "Give each line a label.")
    known = {*labels, OUT_OF_SCOPE}
    if unknown := [row for row in rows if row.label not in known]:
        alike = {folded_label(str(label)): str(label) for label in known}

        def foreign(row: Row) -> str:
            near = alike.get(folded_label(str(row.label)))
            hint = "" if near is None else f"; there it is spelt {near!r}"
            return f"label: not in the training data: {row.label!r}{hint}"

        remedy = "Train on them, spell them as there, or remove them."
        raise UnknownLabelError(file, at_lines(unknown, foreign), remedy=remedy)
    if all(row.label == OUT_OF_SCOPE for row in rows):
        what = f"nothing but {OUT_OF_SCOPE!r}"
        raise DataError(file, [("label", what)], remedy="Add texts of the intents.")


def _check_labelled(rows: Sequence[Row], file: str, remedy: str) -> None:
    """Make sure that every row has a label.

    Raises:
        DataError: one has none; where none has any, that is said once.
    """
    bare = [row for row in rows if row.label is None]
    if len(bare) == len(rows):
        what = "no line has one, and intents are told apart by it"
        remedy = (
            'Give each line a field "label" (in CSV a column) with what its text asks for; lines '
            "without labels are for `edgeslm-export anomaly`."
        )
        raise DataError(file, [("label", what)], remedy=remedy)
    if bare:
        raise DataError(file, at_lines(bare, lambda _: "label: missing"), remedy=remedy)


def folded(text: str) -> str:
    """Return of `text` what readers tell texts apart by.

    Without case, the width of gaps, signs that are not seen, and Unicode's several forms of the
    same letters.
    """
    if not text.isascii():  # else the same, many times slower
        wide = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in wide if unicodedata.category(c) != "Cf")
    return " ".join(text.casefold().split())


def folded_label(label: str) -> str:
    """Return `folded` of a label, which gaps do not tell apart at all."""
    return folded(label).replace(" ", "")


def _first_of_each_label(rows: Iterable[Row]) -> dict[str, Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(str(row.label), row)
    return first


def _check_spelling(rows: Sequence[Row], file: str) -> None:
    """Make sure that no two labels, `oos` among them, are one to whoever reads them.

    Raises:
        DataError: some are: they would be learnt as two intents that nothing tells apart.
    """
    first = _first_of_each_label(rows)
    spelt: dict[str, list[str]] = defaultdict(list)
    for label in dict.fromkeys((OUT_OF_SCOPE, *first)):
        spelt[folded_label(label)].append(label)
    problems: Problems = []
    for same in spelt.values():
        for label in same[1:]:
            before = first.get(same[0])
            where = "" if before is None else f" of line {before.line}"
            what = f"label: {label!r} differs from {same[0]!r}{where} only by {_by(label, same[0])}"
            problems.append((f"line {first[label].line}", what))
    if not problems:
        return
    shown = problems[:SHOWN]
    if len(problems) > SHOWN:
        shown.append(("", f"and {len(problems) - SHOWN} more such labels"))
    raise DataError(file, shown, remedy="Spell each label in one way.")


def _by(one: str, other: str) -> str:
    """Return what tells two labels apart that are the same when folded."""
    if one.casefold() == other.casefold():
        return "case"
    if "".join(one.split()) == "".join(other.split()):
        return "spaces"
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return "Unicode's normal form"
    return "case, spaces, signs that are not seen, or Unicode's normal form"


def _check_size(labels: int, texts: int, file: str) -> None:
    """Make sure that a bundle can carry so many labels, and that they can be fitted.

    Raises:
        DataError: it cannot; says how many it can, and why.
    """
    if labels > MAX_LABELS:
        what = (
            f"{labels} labels; {MAX_LABELS} are the most that a bundle carries: each is a column "
            "of the graph's last layer and a name in the parameters, and every answer weighs all "
            "of them"
        )
        remedy = "Is a label a text's id? Merge labels, or export several models."
        raise DataError(file, [("label", what)], remedy=remedy)
    if labels * texts > MAX_LOGITS:
        what = (
            f"{labels} labels for {texts} texts; {MAX_LOGITS // labels} texts are the most for so "
            f"many: fitting holds a number for each text and label, {MAX_LOGITS} at most"
        )
        remedy = "Give fewer texts of each label, merge labels, or export several models."
        raise DataError(file, [("label", what)], remedy=remedy)


def check_anomaly(rows: Sequence[Row], file: str) -> None:
    """Make sure that every label is one that anomaly detection knows.

    Raises:
        UnknownLabelError: another one.
    """
    if unknown := [row for row in rows if row.label not in {None, NORMAL, ANOMALY}]:
        remedy = f"Use {NORMAL!r}, {ANOMALY!r} or none."
        problems = at_lines(unknown, lambda row: f"label: unknown: {row.label!r}")
        if len(unknown) == len(rows):
            labels = list(_first_of_each_label(rows))
            shown = ", ".join(map(repr, labels[:_SHOWN])) + ", ..." * (len(labels) > _SHOWN)
            problems = [("label", f"known on no line ({shown})")]
            remedy += " Labels of what texts ask for are for `edgeslm-export intent`."
        raise UnknownLabelError(file, problems, remedy=remedy)
