"""Examples, from their bytes to what is said of them before anything is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from edgeslm.core.calibration import BudgetError
from exporters import recipes
from exporters.data import DataError
from exporters.inspection import inspect
from tests.fuzz.harness import fuzz

INTENTS: Final = b"""\
{"text": "start the pump", "label": "start"}
{"text": "start it", "label": "start"}
{"text": "stop the pump", "label": "stop"}
{"text": "Stop the pump!", "label": "start"}
{"text": "\\u00e9teins", "label": "stop"}
{"text": "a joke", "label": "oos"}
"""
TABLE: Final = b"""\
\xef\xbb\xbftext,label
start it,start
start now,start
stop it,stop
"stop
now",stop
"""
LINES: Final = b"""\
{"text": "ram 71.9 C", "source": "p", "time": 1.5}
{"text": "ram 72.9 C", "source": "p"}
{"text": "ram 71.9 C", "label": "anomaly", "source": "p"}
{"text": "x", "label": "normal"}
"""


@pytest.mark.parametrize(("task", "seeds"), [("intent", (INTENTS, TABLE)), ("anomaly", (LINES,))])
def test_examples_are_looked_through(
    task: str, seeds: tuple[bytes, ...], tmp_path: Path, targets: int
) -> None:
    recipe = recipes.load(task)

    def parse(raw: bytes) -> None:
        file = tmp_path / ("a.csv" if raw.startswith(b"\xef\xbb\xbf") else "a.jsonl")
        file.write_bytes(raw)
        # Judged by themselves, at a share that few lines support.
        found = inspect(task, recipe.split(file, file, share=0.5, seed=0), None)
        assert json.loads(found.to_bytes())["task"] == task
        for finding in found.findings:
            assert finding.count > 0
            assert finding.worst
            assert len(finding.caution()) < 1_000

    fuzz(parse, seeds, allowed=(DataError, BudgetError), targets=targets)
