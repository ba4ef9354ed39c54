"""What a source has learnt can be taken back on the device, and who did is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.adapters.lessons import NAME, LessonLog
from edgeslm.cli import feedback
from edgeslm.cli.feedback import NoLessonError
from edgeslm.core.learning import Learnt
from tests.agent.kit import toml


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = {
        "device_id": "d",
        "state_dir": str(tmp_path),
        "models": {"m": {"bundle": str(tmp_path)}},
        "routes": {"all": {"topic": "in/#", "models": ["m"]}},
    }
    path = tmp_path / "agent.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in settings.items()))
    return path


def test_a_source_is_made_to_learn_anew(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20)
    for model in ("m", "n"):
        log.keep(model, Learnt("press 9", 40, 0, frozenset({"t"}), {}))
    told = ["--config", str(config)]
    assert feedback.main(["forget", "press 9", "--model", "n", *told]) == 0
    assert (len(log.learnt("m")), log.learnt("n")) == (1, [])
    assert feedback.main(["forget", "press 9", *told]) == 0
    assert log.learnt("m") == []
    capsys.readouterr()
    assert feedback.main(["list", *told]) == 0
    said = capsys.readouterr().out
    assert "m: press 9 was made to learn anew  by " in said
    assert said.count("(on the device)") == 2
    with pytest.raises(NoLessonError, match="press 9 has learnt nothing"):
        feedback.main(["forget", "press 9", *told])
    with pytest.raises(SystemExit):
        feedback.main(["forget", *told])
    with pytest.raises(SystemExit):
        feedback.main(["undo", "press", *told])
    assert "'press' is not a whole number" in capsys.readouterr().err
