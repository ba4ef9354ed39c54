"""Log files of any kind: who said what, without the time stamp."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.demo import replay
from edgeslm.demo.errors import ReplayError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "Nov 22 06:02:26 host sshd[123]: Failed password for root",
            ("sshd", "Failed password for root"),
        ),
        ("Nov  2 06:02:26 host kernel: [1.2] usb 1-1: new", ("kernel", "[1.2] usb 1-1: new")),
        ("<34>Nov 22 06:02:26 host su: bad", ("su", "bad")),
        (
            "2026-11-22T06:02:26.123456+01:00 host systemd[1]: Started x.",
            ("systemd", "Started x."),
        ),
        ("2026-11-22 06:02:26,123 INFO ready", (None, "INFO ready")),
        ("[2026-11-22 06:02:26] pump on", (None, "pump on")),
        ("no stamp at all: 5", (None, "no stamp at all: 5")),
        ("2026-11-22T06:02:26Z", (None, "2026-11-22T06:02:26Z")),
    ],
)
def test_who_said_what(line: str, expected: tuple[str | None, str]) -> None:
    assert replay.read_line(line) == expected


@given(st.text(max_size=300))
def test_any_line_gives_a_text_that_ends_it(line: str) -> None:
    source, text = replay.read_line(line)
    assert line.endswith(text)
    assert source is None or source in line


def test_the_first_part_trains_and_the_rest_is_played(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"\n\n".join(b"line %d \xff" % n for n in range(1000)))
    found = replay.read(log)
    assert [len(found.train), len(found.play)] == [600, 400]
    assert found.train[0].text == "line 0 \ufffd"
    assert found.train[0].source == "a.log"
    assert len({m.id for m in found.train + found.play}) == 1000
    assert [m.text for m in found.train + found.play] == [f"line {n} \ufffd" for n in range(1000)]


@pytest.mark.parametrize("content", [b"", b"\n" * 5000, b"one line\n" * 399])
def test_too_few_lines_are_refused_with_their_number(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(content)
    with pytest.raises(ReplayError, match=r"only \d+ lines"):
        replay.read(log)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="No such file"):
        replay.read(tmp_path / "none.log")
    with pytest.raises(ReplayError, match="directory"):
        replay.read(tmp_path)
