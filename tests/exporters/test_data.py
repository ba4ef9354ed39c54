"""Examples: every fault is found, with its line, before any work starts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.tasks.intent import MAX_LABELS
from exporters.data import (
    DataError,
    Row,
    UnknownLabelError,
    last_fifth,
    parse_csv,
    parse_json_lines,
    read_rows,
    spread,
    without_halves,
)
from exporters.labels import check_anomaly, check_intent, folded

BAD_LINES = [
    (b"{", "not JSON"),
    (b"[1]", "not an object"),
    (b"\xff", "not UTF-8 at byte 0"),
    (b"{}", "text: missing"),
    (b'{"text": 3}', "text: not a string"),
    (b'{"text": "  "}', "text: empty"),
    (b'{"text": "a", "label": 3}', "label: not a string"),
    (b'{"text": "a", "label": ""}', "label: not 1 to"),
    (b'{"text": "a", "source": []}', "source: not a string"),
    (b'{"text": "a", "key": 1}', "key: not a string"),
    (b'{"text": "a", "time": "now"}', "time: not a number"),
    (b'{"text": "a", "time": true}', "time: not a number"),
    (b'{"text": "a", "time": NaN}', "time: not finite"),
    (b'{"text": "a", "time": 1' + b"0" * 400 + b"}", "time: not finite"),
    (b'{"text": "\\ud800"}', "surrogate"),
    (
        json.dumps({"text": "a" * 100_000}).encode(),
        "text: 100000 characters, more than the 65536 that a device reads",
    ),
    (b"[" * 100_000, "not JSON"),
    (b"1" * 5000, "not JSON"),
]


@pytest.mark.parametrize(("line", "what"), BAD_LINES, ids=[what for _, what in BAD_LINES])
def test_a_bad_json_line_is_named_with_its_number(line: bytes, what: str) -> None:
    rows, problems = parse_json_lines(b'{"text": "good"}\n\n' + line + b'\n{"text": "too"}\n')
    assert [row.text for row in rows] == ["good", "too"]
    ((where, said),) = problems
    assert where == "line 3"
    assert what in said


def test_all_bad_lines_are_reported_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text("{\n" * 50 + '{"text": "a"}')
    with pytest.raises(DataError, match=r"line 1: .*line 20: .*and 30 more bad lines") as caught:
        read_rows(file)
    assert "line 21" not in str(caught.value)
    file.write_text('{"message": "a"}\n' * 50)
    with pytest.raises(DataError, match=r"bad\.jsonl: all 50 lines: text: missing\. Mend"):
        read_rows(file)


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    rows = [
        Row("pump 1, hot", "fault", "press", 12.5, "k"),
        Row('say "hi"\nthere', None, "", None, None),
    ]
    lines = tmp_path / "rows.jsonl"
    fields = ("text", "label", "source", "time", "key")
    lines.write_text(
        "".join(json.dumps({f: getattr(row, f) for f in fields}) + "\n" for row in rows)
    )
    table = tmp_path / "rows.CSV"
    table.write_text(
        '\ufefftext,label,source,time,key,other\n"pump 1, hot",fault,press,12.5,k,x\n'
        '"say ""hi""\nthere",,,,,\n'
    )
    assert read_rows(lines) == rows == read_rows(table)


BAD_TABLES = [
    (b"label\nx\n", "line 1", "no column `text`"),
    (b"text,label\na\n", "line 2", "not as many cells"),
    (b"text\na,b\n", "line 2", "not as many cells"),
    (b"text,time\na,noon\n", "line 2", "time: not a number"),
    (b"text,time\na,inf\n", "line 2", "time: not finite"),
    (b'text,label\n"a,b\n', "line 2", "not CSV"),
    (b"text\na\n\xff\n", "line 3", "not UTF-8"),
]


@pytest.mark.parametrize(("raw", "where", "what"), BAD_TABLES, ids=[w for _, _, w in BAD_TABLES])
def test_a_bad_csv_line_is_named_with_its_number(raw: bytes, where: str, what: str) -> None:
    _, problems = parse_csv(raw)
    assert problems[0][0] == where
    assert what in problems[0][1]


@given(st.binary(max_size=300))
def test_any_bytes_give_rows_or_problems(raw: bytes) -> None:
    for parse in (parse_json_lines, parse_csv):
        rows, problems = parse(raw)
        assert all(row.text.strip() for row in rows)
        assert all(what for _, what in problems)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda _: None, "No such file"),
        (lambda file: file.write_bytes(b""), "holds no example"),
        (lambda file: file.write_bytes(b"\n \n"), "holds no example"),
        (lambda file: file.mkdir(), "directory"),
    ],
)
def test_a_file_without_examples_is_refused(tmp_path: Path, make: object, what: str) -> None:
    file = tmp_path / "data.jsonl"
    assert callable(make)
    make(file)
    with pytest.raises(DataError, match=what):
        read_rows(file)


def rows_of(*pairs: tuple[str, str | None]) -> list[Row]:
    return [Row(text, label, line=n) for n, (text, label) in enumerate(pairs, 1)]


GOOD = rows_of(("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "oos"))
BAD_INTENTS = [
    (rows_of(("a", None), ("b", "x")), None, DataError, "label: missing"),
    (rows_of(("a", "x"), ("b", "x"), ("c", "oos")), None, DataError, "1 label besides 'oos'"),
    (rows_of(("a", "oos")), None, DataError, "0 label"),
    (
        rows_of(("a", "x"), ("b", "x"), ("c", "y"), ("c", "y")),
        None,
        DataError,
        "line 3: label: only one text under 'y'",
    ),
    (GOOD, rows_of(("z", "unheard")), UnknownLabelError, "not in the training data: 'unheard'"),
    (GOOD, rows_of(("z", None), ("y", "x")), DataError, "label: missing"),
    (rows_of(("a", None), ("b", None)), None, DataError, "label: no line has one"),
    (GOOD, rows_of(("z", None)), DataError, "label: no line has one"),
    (GOOD, rows_of(("z", "oos")), DataError, "nothing but 'oos'"),
]


@pytest.mark.parametrize(("train", "judge", "error", "what"), BAD_INTENTS)
def test_labels_that_cannot_be_learnt_or_judged_are_refused(
    train: list[Row], judge: list[Row] | None, error: type[DataError], what: str
) -> None:
    with pytest.raises(error, match=what):
        check_intent(train, judge, ("train.jsonl", "eval.jsonl"))


def test_labels_of_intents_are_told_once_where_anomalies_are_learnt() -> None:
    rows = [Row("a", label, line=n) for n, label in enumerate("wxyzwxyz", 1)]
    with pytest.raises(
        UnknownLabelError, match=r"known on no line \('w', 'x', 'y', \.\.\.\)"
    ) as told:
        check_anomaly(rows, "train.jsonl")
    assert "`edgeslm-export intent`" in str(told.value)
    with pytest.raises(UnknownLabelError, match="line 2: label: unknown: 'x'"):
        check_anomaly([Row("a", "normal"), rows[1]], "train.jsonl")


SPELT = [
    ("Light", "line 2: label: 'Light' differs from 'light' of line 1 only by case"),
    ("li ght ", "'li ght ' differs from 'light' of line 1 only by spaces"),
    ("lig\u200bht", "only by case, spaces, signs that are not seen, or Unicode's normal form"),
    ("\uff4cight", "signs that are not seen, or Unicode's normal form"),
    ("OOS", "line 2: label: 'OOS' differs from 'oos' only by case"),
]


@pytest.mark.parametrize(("label", "what"), SPELT)
def test_labels_that_readers_take_for_one_are_refused(label: str, what: str) -> None:
    rows = rows_of(("a", "light"), ("b", label), ("c", "light"), ("d", label))
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        check_intent(rows, None, ("train.jsonl", ""))
    assert str(caught.value).endswith("Spell each label in one way.")


def test_the_same_letters_in_another_normal_form_are_called_so() -> None:
    rows = rows_of(("a", "\u00e9tage"), ("b", "e\u0301tage"))
    with pytest.raises(DataError, match="only by Unicode's normal form"):
        check_intent(rows, None, ("train.jsonl", ""))


def test_a_label_to_judge_by_that_is_spelt_otherwise_is_told_how() -> None:
    with pytest.raises(UnknownLabelError, match=r"line 1: .*'X'; there it is spelt 'x'"):
        check_intent(GOOD, rows_of(("z", "X")), ("train.jsonl", "eval.jsonl"))


def test_more_labels_than_a_bundle_carries_are_refused() -> None:
    many = [Row(f"{n} {i}", str(n)) for n in range(MAX_LABELS + 1) for i in range(2)]
    with pytest.raises(DataError, match="10001 labels; 10000 are the most that a bundle carries"):
        check_intent(many, None, ("train.jsonl", ""))
    check_intent(many[: 2 * 5000], None, ("train.jsonl", ""))
    with pytest.raises(DataError, match="10000 labels for 20000 texts; 10000 texts are the most"):
        check_intent(many[:-2], None, ("train.jsonl", ""))


def test_a_hundred_thousand_labels_are_refused_as_too_many() -> None:
    """Also where each has one text: what is wrong is their number."""
    rows = [Row(str(n), str(n)) for n in range(100_000)]
    with pytest.raises(DataError, match="100000 labels; 10000 are the most"):
        check_intent(rows, None, ("train.jsonl", ""))


@settings(deadline=None)  # machines may be busy
@given(st.text(max_size=30))
def test_a_text_in_any_normal_form_is_the_same_when_folded(text: str) -> None:
    forms = {folded(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
    assert forms == {folded(text)} == {folded(f" {text}\t")}


def test_good_labels_pass() -> None:
    check_intent(GOOD, GOOD, ("train.jsonl", "eval.jsonl"))
    check_anomaly(rows_of(("a", None), ("b", "normal"), ("c", "anomaly")), "lines.jsonl")


def test_anomaly_knows_two_labels() -> None:
    with pytest.raises(UnknownLabelError, match="'broken'"):
        check_anomaly(rows_of(("a", "broken"), ("b", None)), "lines.jsonl")


examples = st.lists(
    st.builds(Row, text=st.text(max_size=3), label=st.sampled_from(["x", "y", "oos"])), max_size=60
)


@given(examples, st.integers(2, 6), st.integers(0, 3), st.randoms())
def test_spread_deals_evenly_and_keeps_equal_texts_together(
    rows: list[Row], parts: int, seed: int, random: object
) -> None:
    dealt = spread(rows, parts, seed=seed)
    part_of = {}
    by_label: defaultdict[str, set[str]] = defaultdict(set)
    for row in sorted(rows, key=lambda r: r.label or ""):
        if row.text not in part_of:
            by_label[str(row.label)].add(row.text)
        part_of[row.text] = dealt[rows.index(row)]
    assert dealt == [part_of[row.text] for row in rows]
    for texts in by_label.values():
        sizes = Counter(part_of[text] for text in texts)
        assert max(sizes.values()) - min(sizes.get(p, 0) for p in range(parts)) <= 1
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis types it as object
    again = dict(zip((r.text for r in shuffled), spread(shuffled, parts, seed=seed), strict=True))
    assert again == part_of


@given(st.lists(st.sampled_from("abc"), max_size=80))
def test_the_last_fifth_of_each_source_is_held_out_in_one_block(sources: list[str]) -> None:
    rows = [Row("x", source=source) for source in sources]
    held = last_fifth(rows)
    for source in set(sources):
        mine = [h for h, row in zip(held, rows, strict=True) if row.source == source]
        assert mine == sorted(mine)
        assert sum(mine) == len(mine) // 5


def test_what_operators_taught_is_learnt_wherever_it_stands() -> None:
    """It is put at the end of a stream, where a source's last lines are held out."""
    said = [Row("x", source="a")] * 5 + [Row("y", source="a", taught=True)] * 3
    assert last_fifth(said) == [False] * 4 + [True] + [False] * 3
    assert last_fifth(said[::-1]) == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("others", "lesson", "taught"),
    [
        (True, 7, True),
        (True, 7.0, True),
        (False, 7, False),
        (True, "none", False),
        (True, True, False),
        (True, 7.5, False),
        (True, None, False),
    ],
)
def test_a_lesson_is_told_by_its_number_among_other_examples(
    tmp_path: Path, *, others: bool, lesson: object, taught: bool
) -> None:
    rows = [{"text": "x", "lesson": lesson}] + [{"text": "y"}] * others
    (file := tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rows(file)[0].taught is taught


def keyed(*keys: str | None, source: str = "s") -> list[Row]:
    return [Row("x", source=source, key=key) for key in keys]


def test_a_session_that_lies_in_both_parts_is_one_in_neither() -> None:
    first, second = keyed("a", "a", "b", "c", None), keyed("c", "c", None, "d")
    assert without_halves([first, second]) == [
        keyed("a", "a", "b", None, None),
        keyed(None, None, None, "d"),
    ]


def test_where_keys_come_again_and_again_they_stay() -> None:
    parts = [keyed("a", "b", "c", "a", None), keyed("b", "c", "a")]
    assert without_halves(parts) == parts


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_cells_separated_otherwise_are_called_so(delimiter: str) -> None:
    _, problems = parse_csv(delimiter.join(("text", "label\na", "b\n")).encode())
    ((line, what),) = problems
    assert line == "line 1"
    assert what.endswith(f"; separate cells with commas, not with {delimiter!r}")
