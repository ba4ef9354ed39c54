"""`edgeslm feedback`: what an operator of the device lists, takes back and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.lessons import NAME, LessonLog, Taught
from edgeslm.cli.feedback import NoLessonError, WhichError, main
from edgeslm.core.overlay import Lesson
from tests.agent import lines


class Device:
    """A device without an agent."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._config = folder / "agent.toml"
        models = {"press": lines.bundle(folder / "press"), "orders": lines.intents(folder / "o")}
        rows = [f"[models.{name}]\nbundle = {str(path)!r}" for name, path in models.items()]
        rows.append("[models.gone]\nbundle = '/nowhere'")
        head = f"device_id = 'd'\nstate_dir = {str(folder)!r}\n[feedback]\nmax_lessons = 4\n"
        self._config.write_text(head + "\n".join(rows))
        self.log = LessonLog(folder / NAME, max_lessons=4, max_bytes=2**20)

    def teach(self, model: str, kind: Any, text: str, *, token: str = "t" * 16) -> int:
        lesson = Lesson(0, kind, text, label="red" if kind == "intent" else "")
        return self.log.add(Taught(model, lesson, token=token))[0].lesson.id

    def runs(self, *argv: str) -> list[str]:
        """Return the lines that a command prints."""
        assert main([*argv, "--config", str(self._config)]) == 0
        return self._capsys.readouterr().out.splitlines()

    def exports(self, *argv: str) -> dict[str, str]:
        found = [json.loads(row) for row in self.runs("export", *argv)]
        texts = {each.lesson.id: each.lesson.text for each in self.log.all()}
        assert all(texts[row["lesson"]] == row["text"] for row in found)
        return {row["text"]: row["label"] for row in found}


@pytest.fixture
def device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Device:
    return Device(tmp_path, capsys)


def test_an_export_is_of_one_model_for_its_own_task(device: Device) -> None:
    device.teach("press", "normal", "valve 3")
    device.teach("orders", "anomaly", "sing")
    device.teach("orders", "intent", "paint it")
    with pytest.raises(WhichError, match="orders, press"):
        device.exports()
    assert device.exports("--model", "orders") == {"sing": "oos", "paint it": "red"}
    assert device.exports("--model", "press") == {"valve 3": "normal"}
    with pytest.raises(WhichError, match="task is anomaly"):
        device.exports("--model", "press", "--task", "intent")


def test_where_no_bundle_says_the_task_lessons_do_or_one_says_it(device: Device) -> None:
    device.teach("gone", "anomaly", "sing")
    with pytest.raises(WhichError, match="--task"):
        device.exports()
    assert device.exports("--task", "intent") == {"sing": "oos"}
    device.teach("gone", "normal", "hum")
    assert device.exports() == {"sing": "anomaly", "hum": "normal"}


def test_what_was_said_without_a_token_is_listed_and_taken_back_at_once(device: Device) -> None:
    kept = device.teach("press", "normal", "valve 3")
    junk = [device.teach("press", "anomaly", f"junk {x}", token="") for x in "ab"]
    listed = [json.loads(row)["lesson"] for row in device.runs("list", "--unsigned", "--json")]
    assert listed == junk
    assert "press: anomaly  without a token" in device.runs("list", "--unsigned")[0]
    assert len(device.runs("undo", "--unsigned")) == 2
    assert [each.id for each in device.log.counting("press")] == [kept]
    with pytest.raises(NoLessonError):
        device.runs("undo", "--unsigned")
    with pytest.raises(SystemExit):
        device.runs("undo", "--unsigned", "--token", "t" * 16)


def test_what_the_record_lost_is_listed(device: Device) -> None:
    for text in ("a", "b", "c", "d", "e"):
        device.log.undo([device.teach("press", "normal", text)], at=1.0, by="x")
    rows = device.runs("list")
    assert [row.split()[0] for row in rows[:-1]] == ["2", "3", "4", "5"]
    assert rows[-1].startswith("and 1 that")
