"""Progress without a terminal: a line as a stage begins, and one in half a minute after."""

from __future__ import annotations

import io
import sys

import pytest

from exporters.progress import EVERY_S, Lines, progress


def test_a_log_has_each_stage_as_it_begins_and_how_far_a_long_one_has_come(
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = iter([0.0, 1.0, EVERY_S + 1, EVERY_S + 2, 2 * EVERY_S + 1])
    lines = Lines(clock=lambda: next(times))
    with lines("fine-tuning", 40) as advance:
        assert capsys.readouterr().err == "edgeslm-export: stage: fine-tuning\n"
        for _ in range(3):
            advance(10)
        assert capsys.readouterr().err == "edgeslm-export: stage: fine-tuning: 20 of 40\n"
        advance(10)
    assert capsys.readouterr().err == "edgeslm-export: stage: fine-tuning: 40 of 40\n"


def test_a_stage_that_comes_again_is_announced_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for name in ("timing", "drawing", "timing"):
        with lines(name, None) as advance:
            advance(1)
        lines.tell("so few")
    assert capsys.readouterr().err.splitlines() == [
        "edgeslm-export: stage: timing",
        "edgeslm-export: note: so few",
        "edgeslm-export: stage: drawing",
    ]


def test_a_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as stage, stage("timing", 2) as advance:
        advance(2)
        stage.tell("so few")
    assert "stage: timing" not in err.getvalue()
    assert "timing" in err.getvalue()
    assert "2/2" in err.getvalue()
    assert "note: so few" in err.getvalue()
