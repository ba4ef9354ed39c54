"""Training and evaluation examples: JSON lines or CSV, checked before any long work starts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from edgeslm.errors import InvalidFileError

OUT_OF_SCOPE: Final = "oos"
"""Label of texts that no intent covers."""
NORMAL: Final = "normal"
ANOMALY: Final = "anomaly"
MAX_BYTES: Final = 1 << 30
MAX_TEXT: Final = 65_536
"""Characters: as many as a device reads, and a golden file holds."""
_MAX_LABEL: Final = 200
SHOWN: Final = 20
"""Bad lines that are named, at most."""
_FEW: Final = 3  # examples of what is only a caution
_REMEDY: Final = "Mend or remove these lines; docs/exporting.md shows the format."


class DataError(InvalidFileError):
    """Examples cannot be used: names each bad line, up to a bound."""

    code = "data.invalid"


class UnknownLabelError(DataError):
    """A label that the task does not know, or that was not learnt."""

    code = "data.unknown_label"


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    text: str
    label: str | None = None
    source: str = ""
    time: float | None = None
    key: str | None = None
    line: int = field(default=0, compare=False)
    """Where it ends in its file, from 1; 0 of a row that we made."""
    file: str = field(default="", compare=False)
    """Name of its file."""
    taught: bool = field(default=False, compare=False)
    """An operator has confirmed it, among others: it has the number of a `lesson`."""

    @property
    def place(self) -> str:
        """Where it stands, as compilers say it: `train.jsonl:7`."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Split:
    """Examples by what they are used for; the two share no text where we split them.

    Args:
        train: to learn from.
        held_out: to judge by.
    """

    train: list[Row]
    held_out: list[Row]


def read_rows(path: Path) -> list[Row]:
    """Return the examples in `path`: CSV with a header if it ends in .csv, else JSON lines.

    Raises:
        DataError: not readable, empty, or lines are wrong; names each line, up to a bound.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        why = (err.strerror if isinstance(err, OSError) else None) or str(err)
        raise DataError(str(path), [("", why)], remedy="Check the path.") from None
    if len(raw) > MAX_BYTES:
        raise DataError(str(path), [("", f"over {MAX_BYTES} bytes")], remedy="Take a sample.")
    parse = parse_csv if path.suffix.lower() == ".csv" else parse_json_lines
    rows, problems = parse(raw, path.name)
    if problems:
        raise DataError(str(path), _shown(problems, rows), remedy=_REMEDY)
    if not rows:
        raise DataError(str(path), [("", "holds no example")], remedy=_REMEDY)
    if all(row.taught for row in rows):  # there are no others to judge by
        return [replace(row, taught=False) for row in rows]
    return rows


Problems = list[tuple[str, str]]


def _shown(problems: Problems, rows: Sequence[Row]) -> Problems:
    """Return the bad lines, up to a bound; what is wrong with every line is said once."""
    kinds = {what for _, what in problems}
    if not rows and len(kinds) == 1 < len(problems):
        return [(f"all {len(problems)} lines", kinds.pop())]
    more = len(problems) - SHOWN
    return problems[:SHOWN] + [("", f"and {more} more bad lines")] * (more > 0)


def parse_json_lines(raw: bytes, file: str = "") -> tuple[list[Row], Problems]:
    """Return the rows, and ("line N", what is wrong) of each bad line. Total for any bytes."""
    rows: list[Row] = []
    problems: Problems = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as err:
            problems.append((f"line {number}", f"not UTF-8 at byte {err.start}"))
        except (ValueError, RecursionError) as err:
            problems.append((f"line {number}", f"not JSON: {str(err)[:100]}"))
        else:
            _take(value, (file, number), rows, problems)
    return rows, problems


def parse_csv(raw: bytes, file: str = "") -> tuple[list[Row], Problems]:
    """Return the rows, and ("line N", what is wrong) of each bad line. Total for any bytes.

    The first line names the columns. An empty cell is a missing value.
    """
    rows: list[Row] = []
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        number = raw.count(b"\n", 0, err.start) + 1
        return rows, [(f"line {number}", f"not UTF-8 at byte {err.start}")]
    problems: Problems = []
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "text" not in (reader.fieldnames or ()):
            what = "the header names no column `text`"
            if found := [c for c in ";\t|" if c in (reader.fieldnames or ("",))[0]]:
                what += f"; separate cells with commas, not with {found[0]!r}"
            return rows, [("line 1", what)]
        for cells in reader:
            number = reader.line_num
            if None in cells or None in cells.values():
                problems.append((f"line {number}", "not as many cells as the header"))
                continue
            value: dict[str, object] = {name: cell for name, cell in cells.items() if cell}
            if "time" in value:
                try:
                    value["time"] = float(str(value["time"]))
                except ValueError:
                    problems.append((f"line {number}", "time: not a number"))
                    continue
            _take(value, (file, number), rows, problems)
    except csv.Error as err:
        problems.append((f"line {reader.reader.line_num}", f"not CSV: {err}"))
    return rows, problems


def _take(value: object, at: tuple[str, int], rows: list[Row], problems: Problems) -> None:
    """Append `value` as a row, or what is wrong with it. Keys we do not know are left alone."""
    file, number = at
    if not isinstance(value, dict):
        problems.append((f"line {number}", "not an object"))
    elif wrong := _wrong(value):
        problems.append((f"line {number}", wrong))
    else:
        time = value.get("time")
        rows.append(
            Row(
                value["text"],
                value.get("label"),
                value.get("source") or "",
                None if time is None else float(time),
                value.get("key"),
                number,
                file,
                str(value.get("lesson")).removesuffix(".0").isdecimal(),  # 7.0: through a table
            )
        )


def _wrong(value: Mapping[str, object]) -> str | None:  # noqa: PLR0911 -- one per fault
    text = value.get("text")
    if not isinstance(text, str):
        return "text: missing" if text is None else "text: not a string"
    if not text.strip():
        return "text: empty"
    if len(text) > MAX_TEXT:
        return (
            f"text: {len(text)} characters, more than the {MAX_TEXT} that a device reads: cut it, "
            "or give the part that tells"
        )
    for name in ("text", "label", "source", "key"):
        field = value.get(name)
        if not isinstance(field, str | None):
            return f"{name}: not a string"
        if field is not None and any("\ud800" <= c <= "\udfff" for c in field):
            return f"{name}: holds half of a surrogate pair"
    label = value.get("label")
    if isinstance(label, str) and not 0 < len(label) <= _MAX_LABEL:
        return f"label: not 1 to {_MAX_LABEL} characters"
    time = value.get("time")
    if time is None:
        return None
    if isinstance(time, bool) or not isinstance(time, int | float):
        return "time: not a number"
    return None if _is_finite(time) else "time: not finite"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def spread(rows: Sequence[Row], parts: int, *, seed: int) -> list[int]:
    """Give each row a part in [0, parts): equal texts get the same, each label is dealt evenly.

    Depends on texts, labels and seed, not on the order of rows. A text under several labels is
    dealt with the first of them.
    """
    label_of: dict[str, str] = {}
    for row in sorted(rows, key=lambda r: r.label or ""):
        label_of.setdefault(row.text, row.label or "")
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for text, label in label_of.items():
        texts[label].append(text)
    part_of: dict[str, int] = {}
    for members in texts.values():
        members.sort(key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())
        part_of.update((text, i % parts) for i, text in enumerate(members))
    return [part_of[row.text] for row in rows]


def sample(rows: Sequence[Row], size: int) -> list[Row]:
    """Return `size` of the rows, or all: every label with its share, spread evenly over the file.

    The same rows give the same sample.
    """
    if len(rows) <= size:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: (rows[i].label or "", i))
    step = len(rows) / size
    chosen = sorted(order[int((i + 0.5) * step)] for i in range(size))
    return [rows[i] for i in chosen]


def at_lines(rows: Sequence[Row], what: Callable[[Row], str]) -> Problems:
    """Name what is wrong with each of `rows` by its line, up to a bound."""
    shown = [(f"line {row.line}", what(row)) for row in rows[:SHOWN]]
    return shown + ([("", f"and {len(rows) - SHOWN} more bad lines")] * (len(rows) > SHOWN))


def contradictions(rows: Sequence[Row], file: str) -> list[str]:
    """Return a caution about the texts that stand under several labels, if there are any."""
    first: dict[str, dict[str | None, Row]] = defaultdict(dict)
    for row in rows:
        first[row.text].setdefault(row.label, row)
    double = [list(by_label.values()) for by_label in first.values() if len(by_label) > 1]
    if not double:
        return []
    shown = "; ".join(
        ", ".join(f"line {row.line}: {row.label!r}" for row in same) for same in double[:_FEW]
    )
    more = "; ..." if len(double) > _FEW else ""
    return [f"{file}: texts under several labels: {len(double)} ({shown}{more})"]


def last_fifth(rows: Sequence[Row]) -> list[bool]:
    """Return for each row whether it is in the last fifth of its source, in file order.

    A block, since neighbours in a stream resemble each other: shuffled, they would leak. What was
    taught is in none: it comes last, and is to be learnt from.
    """
    totals = Counter(row.source for row in rows if not row.taught)
    seen: Counter[str] = Counter()
    late: list[bool] = []
    for row in rows:
        seen[row.source] += not row.taught
        late.append(not row.taught and (seen[row.source] - 1) * 5 >= totals[row.source] * 4)
    return late


def without_halves(parts: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return the rows of two parts, without the keys of sessions that lie in both.

    Half a session, learnt from, would teach that one may end there; and the other half is none to
    judge. Where more than half of the sessions would be lost so, their keys come again and again:
    they are left as they are.
    """
    first, second = ({row.key for row in part if row.key is not None} for part in parts)
    cut = first & second
    if 2 * len(cut) > len(first):
        return [list(part) for part in parts]
    return [[replace(row, key=None) if row.key in cut else row for row in part] for part in parts]
