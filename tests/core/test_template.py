"""Splitting: lossless, idempotent, linear, and right about what a number is."""

from __future__ import annotations

import math
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeslm.core.template import MARK, MAX_CHARS, canonical, join, number, readable, split, tokens

# Any code point, lone surrogates and NUL included; and texts made of what slots are made of.
ANY = st.text(st.characters(), max_size=200)
PIECES = [*"0123456789", *"+-.,:/_ eExXaAfFmMzZ#", MARK, "nan", "Inf", "Jan ", "Mon ", "0x", "C:\\",
          "deadbeef", "1,234", "12:30:01", "\n", "\0", "°", "\ud800", "@", "@a.", "://", "::",
          "[::", "]:", "%", "fe80", "2001:db8:", "aa:bb:cc:", "aa-bb-cc-", "1a2b.", "10.0.0.1",
          "550e8400-e29b-41d4-a716-446655440000"]  # fmt: skip
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
@example("5bob@example.com")
@example("5http://a")
@example("1" * (MAX_CHARS - 5) + " a://5")
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
        ("fpr29=0xffffffff ffffffff DEADBEEFfeedface", "fpr¤=¤ ¤ ¤"),
        ("defaced facades ffffffffff", "defaced facades ffffffffff"),
        ("open /var/lib/nova/x.img now", "open ¤ now"),
        ("open C:\\data\\x.log now", "open ¤ now"),
        ("5 kg/h and I/O", "¤ kg/h and I/O"),
        ("host x1y2z3 up", "host ¤ up"),
        ("costs ¤ 5", "costs ¤ ¤"),
    ],
)
def test_identifiers_times_and_paths_are_slots(text: str, template: str) -> None:
    assert split(text).template == template


UUID = "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("text", "template", "slots"),
    [
        ("mac 00:1a:2b:3c:4d:5e up", "mac ¤ up", ["00:1a:2b:3c:4d:5e"]),
        ("mac:AA-BB-CC-DD-EE-FF.", "mac:¤.", ["AA-BB-CC-DD-EE-FF"]),
        ("mac 1e-05-00-11-22-33", "mac ¤", ["1e-05-00-11-22-33"]),
        ("eth0:00:1a:2b:3c:4d:5e", "eth¤:¤", ["0", "00:1a:2b:3c:4d:5e"]),
        ("(FF:F2:9F:16:EB:27:00:0D:60:E9:14:D8)", "(¤)", ["FF:F2:9F:16:EB:27:00:0D:60:E9:14:D8"]),
        ("mac 001a.2b3c.4d5e, a01a.2b3c.4d5e", "mac ¤, ¤", ["001a.2b3c.4d5e", "a01a.2b3c.4d5e"]),
        ("at 10:20:30:40:50:60.5", "at ¤", ["10:20:30:40:50:60.5"]),
        ("at 10:20:30:40:50:6f", "at ¤", ["10:20:30:40:50:6f"]),
        ("v 1001.2002.3003.4004", "v ¤", ["1001.2002.3003.4004"]),
        ("from 2001:0db8:85a3:0:0:8a2e:0370:7334 to", "from ¤ to",
         ["2001:0db8:85a3:0:0:8a2e:0370:7334"]),
        ("from:2001:db8::1: refused", "from:¤: refused", ["2001:db8::1"]),
        ("from 2a02::1, 2001:db8::, 2606:4700::1111", "from ¤, ¤, ¤",
         ["2a02::1", "2001:db8::", "2606:4700::1111"]),
        ("via fe80::1%eth0 and FD00:a::b", "via ¤ and ¤", ["fe80::1%eth0", "FD00:a::b"]),
        ("net fe80::/10", "net ¤/¤", ["fe80::", "10"]),
        ("from ::1. ::ffff:10.0.0.1", "from ¤. ¤", ["::1", "::ffff:10.0.0.1"]),
        ("to [fe80::1%eth0]:22 or [::1]", "to ¤ or [¤]", ["[fe80::1%eth0]:22", "::1"]),
        ("to [::1]:8080, [2001:db8::5]:443", "to ¤, ¤", ["[::1]:8080", "[2001:db8::5]:443"]),
        ("on [::]:22 and :: port 22", "on ¤ and :: port ¤", ["[::]:22", "22"]),
        ("get https://a.b:80/c?d=1&e=2, ok", "get ¤, ok", ["https://a.b:80/c?d=1&e=2"]),
        ("(see file:///var/x.log).", "(see ¤).", ["file:///var/x.log"]),
        ("jdbc:mysql://db/x", "jdbc:¤", ["mysql://db/x"]),
        ("to opc.tcp://[fe80::1]:4840/", "to ¤", ["opc.tcp://[fe80::1]:4840/"]),
        ("http://x/a,72.4;5|6", "¤,¤;¤|¤", ["http://x/a", "72.4", "5", "6"]),
        ('{"url":"http://x/a","t":5}', '{"url":"¤","t":¤}', ["http://x/a", "5"]),
        ("mail <bob.b+x@a-1.example.co.uk>.", "mail <¤>.", ["bob.b+x@a-1.example.co.uk"]),
        ("user=root@node17.plant.local down", "user=¤ down", ["root@node17.plant.local"]),
        (f"id=-{UUID} +{UUID}", "id=-¤ +¤", [UUID, UUID]),
        (f"id=.{UUID} job-{UUID}", "id=.¤ job-¤", [UUID, UUID]),
        (f"a/1/2/{UUID} 1.2.{UUID}", "a/¤/¤/¤ ¤.¤", ["1", "2", UUID, "1.2", UUID]),
        (f"2024-01-02-{UUID}", "¤-¤", ["2024-01-02", UUID]),
        ("id=-00:1a:2b:3c:4d:5e", "id=-¤", ["00:1a:2b:3c:4d:5e"]),
    ],
)  # fmt: skip
def test_an_address_is_one_slot_that_is_no_number(
    text: str, template: str, slots: list[str]
) -> None:
    assert split(text) == (template, slots)
    assert all(math.isnan(number(slot)) for slot in slots if not slot.replace(".", "").isdigit())


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("std::vector a::b a::b1 feed::bad ns::1", "std::vector a::b a::b¤ feed::bad ns::¤"),
        ("x[1::2] 2024::date 2024::5 ::add", "x[¤::¤] ¤::date ¤::¤ ::add"),
        ("f ::1.5 ::5", "f ::¤ ::¤"),
        ("at 12:30:01 3:4:5 temp:12.5 db:1", "at ¤ ¤ temp:¤ db:¤"),
        ("dead:beef a:b:c:d:e:f face.dead.beef", "dead:beef a:b:c:d:e:f face.dead.beef"),
        ("[12:30:01]:5 x", "[¤]:¤ x"),
        ("root@node-17 root@plant root@10.0.0.1", "root@node-¤ root@plant root@¤"),
        ("pump@3 t@72.4.C 5 @ 3", "pump@¤ t@¤.C ¤ @ ¤"),
        ("node17.plant.local web-01", "node¤.plant.local web-¤"),
        ("http:// a://. I/O", "http:// a://. I/O"),
        ("¤@b.cd a¤://b a://¤", "¤@b.cd a¤://b a://¤"),
    ],
)  # fmt: skip
def test_what_only_resembles_an_address_stays_words_and_numbers(text: str, template: str) -> None:
    assert split(text).template == template


_PAIR = st.text("0123456789abcdefABCDEF", min_size=2, max_size=2)
_LABEL = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)
_HOST = st.tuples(_LABEL, _LABEL, st.sampled_from(["com", "local", "co.uk"])).map(".".join)
# All that is given to anybody, but for those that could be names ("fdab::c") or numbers ("2600::").
_V6 = (
    st.one_of([st.ip_addresses(network=net) for net in ("2000::/3", "fc00::/7", "fe80::/10")])
    .map(str)
    .filter(lambda text: re.search("[0-9]", text) and not re.fullmatch("[0-9]{4}::[0-9:]*", text))
)


@given(
    st.one_of(
        st.builds(":".join, st.lists(_PAIR, min_size=6, max_size=6)),
        st.builds("-".join, st.lists(_PAIR, min_size=6, max_size=6)),
        _V6,
        st.builds("{}%{}".format, _V6, _LABEL),
        st.builds("[{}]:{}".format, _V6, st.integers(0, 65535)),
        st.builds("{}://{}:{}/{}".format, _LABEL, _HOST, st.integers(0, 65535), _LABEL),
        st.builds("{}@{}".format, _LABEL, _HOST),
        st.uuids().map(str),
    ),
    st.sampled_from([" ", "=", ":", "(", '"', "<", "from "]),
    st.sampled_from(["", ",", ")", '"', ">", ": x", ".", " x"]),
)
def test_any_address_gives_the_same_template(address: str, before: str, after: str) -> None:
    assert split(f"at{before}{address}{after}") == (f"at{before}{MARK}{after}", [address])


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
           MARK, " ", "\0", "1 Jan ", "aa:", "1a:", "aa-", "0a:bb:cc:dd:ee:f:", "1a2b.",
           "a01a.2b3c.", "2001:", "2001::", "2001:a:b:c:d:e:f:g", "fe80:", "fe80::", "::", "::1",
           "::ffff:", "[::", "[fe80:", "a.", "a@", "a@b.", "a@b.c1.", "a@b.cc", "a://", "a://.",
           "a://. ", "://", "-fe80:", "-2001:db8:", "550e8400-", "1:00:1a:2b:3c:4d:",
           "1-550e8400-e29b-41d4-a716-44665544000g"]  # fmt: skip


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
