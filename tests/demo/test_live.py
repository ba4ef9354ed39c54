"""The screen: it fits every terminal from 80x24 up, and shows what matters."""

from __future__ import annotations

from itertools import islice

import pytest

pytest.importorskip("rich", reason="the live view's extra is not installed")

from rich.cells import cell_len
from rich.console import Console

from edgeslm.contract.messages import Result
from edgeslm.demo.factory import Factory, play
from edgeslm.demo.live import LiveView
from edgeslm.demo.show import Vitals
from edgeslm.demo.tally import Tally


def screen(width: int, height: int, *, messages: int, truth_known: bool = True) -> list[str]:
    console = Console(width=width, height=height, color_system=None, legacy_windows=False)
    view, tally = LiveView(console), Tally(truth_known=truth_known)
    vitals = Vitals(elapsed_s=61, progress=0.4, pss_mb=123.4)
    view.attach(tally, vitals)
    for n, message in enumerate(islice(play(Factory("screen", fault_share=0.3), 0.0), messages)):
        tally.sending(message, float(n))
        view.sent(message)
        alarm = (bool(message.fault) and n % 5 > 0) or n % 41 == 0
        result: Result = {"id": message.id, "label": "anomaly" if alarm else "normal"}  # type: ignore[typeddict-item]  # only what is read
        if alarm:
            result["explanation"] = [
                {"channel": "number", "slot": 3, "value": "1234.5", "expected": "100.25 to 120.75"}
            ]
        if outcome := tally.received(result, n + 0.0123):
            view.outcome(outcome)
    with console.capture() as capture:
        console.print(view.screen(width, height), end="")
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 50), (240, 70)])
@pytest.mark.parametrize("messages", [0, 3, 4000])
@pytest.mark.parametrize("truth_known", [True, False])
def test_it_fits(width: int, height: int, messages: int, truth_known: bool) -> None:  # noqa: FBT001 -- pytest names it
    lines = screen(width, height, messages=messages, truth_known=truth_known)
    assert len(lines) <= height
    assert max(cell_len(line) for line in lines) <= width
    if messages == 4000:
        assert len(lines) == height


def test_small_terminals_lose_rows_and_nothing_else() -> None:
    assert len(screen(80, 12, messages=500)) <= 12
    assert screen(20, 5, messages=500)


def test_it_shows_figures_machines_and_causes() -> None:
    text = "\n".join(screen(80, 24, messages=2000))
    for what in ("2,000 of 2,000", "12.3 / 12.3", "123 MB", "press-1", "agv-2", "faults caught"):
        assert what in text
    assert "number 4: 1234.5, seen 100.25 to 120.75" in text


def test_a_wide_screen_shows_the_lines_that_alarmed() -> None:
    assert "from cache" in "\n".join(screen(160, 40, messages=200))
