"""Splitting: lossless, idempotent, linear, and right about what a number is."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeslm.core.template import MARK, MAX_CHARS, canonical, join, number, readable, split, tokens

# Any code point, lone surrogates and NUL included; and texts made of what slots are made of.
ANY = st.text(st.characters(), max_size=200)
PIECES = [*"0123456789", *"+-.,:/_ eExXaAfFmMzZ#", MARK, "nan", "Inf", "Jan ", "Mon ", "0x", "C:\\",
          "deadbeef", "1,234", "12:30:01", "\n", "\0", "°", "\ud800"]  # fmt: skip
SLOTTY = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
TEXTS = st.one_of(ANY, SLOTTY)


@given(TEXTS)
@example(MARK)
@example("x" * (MAX_CHARS + 1))
@example("1" * (MAX_CHARS + 1))
def test_template_and_slots_give_the_text_back(text: str) -> None:
    parts = split(text)
    assert join(parts) == text
    assert len(parts.slots) == parts.template.count(MARK)


@settings(max_examples=300)
@given(TEXTS)
@example("5nan")
@example("5/a/b")
def test_a_template_is_its_own_template(text: str) -> None:
    template = split(text).template
    assert split(template).template == template


@given(TEXTS)
def test_no_ascii_digit_stays_in_a_template(text: str) -> None:
    assert not set("0123456789") & set(split(text).template)


@given(TEXTS)
def test_a_canonical_template_is_canonical_and_has_as_many_slots(text: str) -> None:
    template = split(text).template
    plain = canonical(template)
    assert canonical(plain) == plain
    assert plain.count(MARK) == template.count(MARK)
    assert tokens(plain) == tokens(canonical(plain))


@given(st.floats(), st.sampled_from(["{!r}", "{:.3f}", "{:e}", "{:,.2f}", "{:+g}"]))
def test_every_form_of_a_number_is_one_slot_of_one_template(value: float, form: str) -> None:
    written = form.format(value)
    parts = split(f"motor temp={written} C")
    assert parts == (f"motor temp={MARK} C", [written])
    expected = float(written.replace(",", ""))
    assert number(written) == expected or (math.isnan(number(written)) and not _finite(expected))


def _finite(value: float) -> bool:
    return math.isfinite(value)


@pytest.mark.parametrize(
    ("text", "template", "values"),
    [
        ("t=72.4 C", "t=¤ C", [72.4]),
        ("t=7.24e1 C", "t=¤ C", [72.4]),
        ("t=-72.4 C", "t=¤ C", [-72.4]),
        ("t=+5", "t=¤", [5.0]),
        ("t=-.5", "t=¤", [-0.5]),
        ("t=-0", "t=¤", [0.0]),
        ("t=1,234.5 C", "t=¤ C", [1234.5]),
        ("t=-1,234,567", "t=¤", [-1234567.0]),
        ("t=72,4 C", "t=¤,¤ C", [72.0, 4.0]),
        ("t=0,123 C", "t=¤,¤ C", [0.0, 123.0]),
        ("10,200,30", "¤,¤,¤", [10.0, 200.0, 30.0]),
        ("1,2345", "¤,¤", [1.0, 2345.0]),
        ("1,2,3", "¤,¤,¤", [1.0, 2.0, 3.0]),
        ("t=nan C", "t=¤ C", [math.nan]),
        ("t=-inf C", "t=¤ C", [math.nan]),
        ("t=1e308 C", "t=¤ C", [1e308]),
        ("t=1e999 C", "t=¤ C", [math.nan]),
        ("t= C", "t= C", []),
        ("t=null C", "t=null C", []),
        ("nanny in Infinity pool", "nanny in ¤ pool", [math.nan]),
        ("72.9C 64K 12.5kg/h", "¤C ¤K ¤kg/h", [72.9, 64.0, 12.5]),
        ("1500m3/h", "¤m¤/h", [1500.0, 3.0]),
        ("node-28 ok", "node-¤ ok", [28.0]),
        ("pump1 AIR003_3 V160", "pump¤ AIR¤_¤ V¤", [1.0, 3.0, 3.0, 160.0]),
        ("5-10 V", "¤-¤ V", [5.0, 10.0]),
        ("done 5.", "done ¤.", [5.0]),
        ("core.886", "core.¤", [886.0]),
    ],
)
def test_numbers(text: str, template: str, values: list[float]) -> None:
    parts = split(text)
    assert parts.template == template
    assert [number(s) for s in parts.slots] == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("at 12:30:01.250 on", "at ¤ on"),
        ("at 7:05 on", "at ¤ on"),
        ("2015-07-29 19:04:29,071 - WARN", "¤ ¤ - WARN"),
        ("[Sun Dec 04 04:51:08 2005] x", "[¤ ¤ ¤] x"),
        ("Jun 14 15:16:02 combo", "¤ ¤ combo"),
        ("04/Dec/2005 x", "¤ x"),
        ("from 10.251.73.220:50010 to", "from ¤ to"),
        ("id d54b44eb-2d1a-4aa2-ba6b-074d35f8f12c ok", "id ¤ ok"),
        ("id a54b44eb-2d1a-4aa2-ba6b-074d35f8f12c ok", "id ¤ ok"),
        ("id 123e4567-e89b-12d3-a456-426614174000 ok", "id ¤ ok"),
        ("id 1234567e-1234-4aa2-ba6b-074d35f8f12c ok", "id ¤ ok"),
        ("iar 0014a150 dear 00106570", "iar ¤ dear ¤"),
        ("sha a489c868f0c37da93b76227c91bb03908ac0e742", "sha ¤"),
        ("at 0x1b719940, mask 0x02", "at ¤, mask ¤"),
        ("open /var/lib/nova/x.img now", "open ¤ now"),
        ("open C:\\data\\x.log now", "open ¤ now"),
        ("5 kg/h and I/O", "¤ kg/h and I/O"),
        ("host x1y2z3 up", "host ¤ up"),
        ("costs ¤ 5", "costs ¤ ¤"),
    ],
)
def test_identifiers_times_and_paths_are_slots(text: str, template: str) -> None:
    assert split(text).template == template


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("FEED A FLOW HIGH ALM 1", "FEED A FLOW LOW ALM 1"),
        ("valve 3 opened", "valve 3 not opened"),
        ("valve 3 opened", "valve 3 closed"),
        ("temp=1 C", "temp=1 F"),
        ("power 5 mW", "power 5 MW"),
        ("FEED A", "FEED B"),
    ],
)
def test_words_of_direction_and_units_stay_in_the_template(one: str, other: str) -> None:
    assert canonical(split(one).template) != canonical(split(other).template)


def test_upper_and_lower_case_words_are_one() -> None:
    assert canonical("Motor TEMP=¤ C") == canonical("motor temp=¤ C")


def test_a_model_reads_zeros() -> None:
    assert readable(split("motor temp=72.4 C").template) == "motor temp=0 C"


def test_a_long_text_is_cut_and_its_rest_is_one_slot() -> None:
    parts = split("a " * MAX_CHARS)
    assert len(parts.template) == MAX_CHARS + 1
    assert parts.slots == ["a " * (MAX_CHARS // 2)]


HOSTILE = ["1.1.", "1", "/", "/a/", "a/", "=/a", "deadbeef", "a1", "1a", "1:", "1-", "1,234,", "1e",
           "1e1", "Mon  ", "Jan  ", "0x", "-", "+.", "1,", "nan", "C:\\a", "f", "deadbeef-", "1/2",
           MARK, " ", "\0", "1 Jan "]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_lines_cost_no_more_per_character_than_plain_ones(unit: str) -> None:
    """The bound is relative: the same length of ordinary text, in the same process."""

    def cost(text: str) -> float:
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            split(text)
            best = min(best, time.perf_counter() - start)
        return best

    def line(unit: str, size: int) -> str:
        return (unit * size)[:size]

    plain = cost(line("motor temp=72.4 C at 12:30:01 ", MAX_CHARS))
    assert cost(line(unit, 100_000)) < 20 * plain
