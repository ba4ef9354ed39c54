"""What is on record is logged whatever the level is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from edgeslm.logs import Log, configure


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before = logger.level, logger.handlers[:]
    yield logger
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]


@pytest.mark.usefixtures("root")
def test_what_is_to_be_on_record_is_logged_whatever_the_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(device="dev1", level="error")
    log = Log("edgeslm.agent.responder")
    log.warning("not_said")
    log.record("alarm_explained", causes=[{"channel": "text"}])
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["causes"]) == ("alarm_explained", [{"channel": "text"}])
    assert (said["logger"], said["device"]) == ("edgeslm.agent.responder", "dev1")
