"""`edgeslm fleet rollout` and `devices` as people type them: done, or told what is wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from edgeslm.cli.fleet_rollout import _options as options
from edgeslm.cli.fleet_rollout import plan_of
from edgeslm.cli.main import main
from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import DeviceState, Progress, State
from edgeslm.fleet.database import registry, rollouts
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.repository import Repository
from tests.fleet import kit as fleet_kit
from tests.fleet.service import kit

Edgeslm = Callable[..., tuple[int, str, str]]
START = ("rollout", "start", "--model", kit.MODEL)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return kit.repository_of(tmp_path_factory.mktemp("fleet"), versions=2)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with three devices; one of them is a machine that the model is not for."""
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    engine = open_database(url)
    for name, provider in (("dev-1", "cpu"), ("dev-2", "cpu"), ("arm-1", "qnn")):
        register(url, name, provider)
    engine.dispose()
    return url


def register(url: str, name: str, provider: str) -> None:
    who = {"schema": 1, "device": name, "time": time.time()}
    platform = {"arch": "x86_64", "cpu_features": kit.FEATURES, "socs": [], "profile": kit.PROFILE}
    update: dict[str, Any] = {**who, "updater_version": "1", "phase": "idle", "seq": 0}
    update |= {"config_seq": 0, "models": [{"name": kit.MODEL, "version": 1}]}
    update |= {"platform": {**platform, "providers": [provider]}}
    state = {**who, "profile": kit.PROFILE, "models": [], "tags": {"hall": "A"}}
    engine = open_database(url)
    with engine.begin() as conn:
        registry.heard(conn, [registry.Heard(name, "update", update, time.time())])
        registry.heard(conn, [registry.Heard(name, "state", state, time.time())])
    engine.dispose()


@pytest.fixture
def fleet(
    repository: Repository,
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Edgeslm:
    """Runs `edgeslm fleet WORDS`; returns status, output and errors."""
    monkeypatch.setenv("EDGESLM_FLEET_PASSPHRASE", fleet_kit.PASSPHRASE)

    def run(*words: str) -> tuple[int, str, str]:
        where = ("--repository", str(repository.folder), "--database", url)
        status = main(["fleet", *words, *where])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def test_a_rollout_is_previewed_started_shown_and_asked(fleet: Edgeslm, url: str) -> None:
    words = ("--model", kit.MODEL, "--version", "2", "--where", "id ~ dev-*", "--waves", "1,100%")
    status, out, _ = fleet("rollout", "preview", *words)
    assert status == 0
    assert "press 2 for 2 devices\n  wave 1 (1): 1 devices: 1 generic-x86_64\n" in out
    assert fleet("rollout", "list")[1] == "no roll-out yet: edgeslm fleet rollout start\n"
    status, out, _ = fleet("rollout", "start", *words, "--soak", "1h", "--json")
    assert (status, json.loads(out)["rollout"]) == (0, 1)
    assert "press 2" in fleet("rollout", "list")[1]
    status, out, _ = fleet("rollout", "show", "1")
    assert out.startswith("roll-out 1: press 2: moving, wave 1 of 2\n  wave 1 (1): 1 waiting\n")
    assert json.loads(fleet("rollout", "show", "1", "--json")[1])["plan"]["soak_s"] == 3600.0
    assert fleet("rollout", "pause", "1")[0] == 0
    assert "(pause asked for)" in fleet("rollout", "list")[1]
    engine = open_database(url)
    with engine.begin() as conn:
        over = Progress(State.ABORTED, 0, 1.0, "aborted by a test")
        rollouts.record(conn, 1, over, now=1.0)
    engine.dispose()
    status, out, _ = fleet("rollout", "show", "1", "--watch")
    assert status == 1
    assert out == (
        "roll-out 1: press 2: aborted, wave 1 of 2: aborted by a test (pause asked for): "
        "2 waiting\n"
    )
    assert fleet("rollout", "show", "1", "--watch", "--json")[0] == 1
    assert fleet("rollout", "show", "1")[0] == 0
    status, _, err = fleet("rollout", "abort", "1")
    assert (status, err.rpartition(" ")[2]) == (65, "[rollout.ended]\n")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--version", "2"), "rollout.unfit", "arm-1"),
        (("--version", "9"), "fleet.unknown_model", "the repository has 1, 2"),
        (("--version", "2", "--where", "id = nobody"), "rollout.nothing_matches", "id = nobody"),
        (("--version", "2", "--where", "id = ("), "fleet.filter", "character 6"),
        (("--version", "2", "--waves", "10%,5%,100%"), "rollout.plan", "further than the one"),
        (("--version", "2", "--waves", "0%,100%"), "rollout.plan", "proves nothing"),
        (("--version", "2", "--waves", "10%"), "rollout.plan", "the last must be 100%"),
        (("--version", "2", "--waves", "many"), "rollout.plan", "such as 20 or 1%. Correct it"),
        (("--version", "2", "--failed", "much"), "rollout.plan", "limits.failed"),
        (("--version", "2", "--hours", "25:00-26:00"), "rollout.plan", "hours"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused_by_its_own_error(
    fleet: Edgeslm, words: tuple[str, ...], code: str, says: str
) -> None:
    status, _, err = fleet(*START, *words)
    assert status == 65
    assert f"[{code}]" in err
    assert says in err
    assert "Tuple" not in err
    assert fleet("rollout", "list")[1].startswith("no roll-out yet")


def test_a_second_rollout_on_the_same_devices_is_refused_with_the_list(fleet: Edgeslm) -> None:
    words = (*START, "--version", "2", "--where", "id = dev-1")
    assert fleet(*words)[0] == 0
    status, out, err = fleet(*words)
    assert (status, "[rollout.overlap]" in err, "dev-1: roll-out 1" in out) == (65, True, True)


def record(url: str, state: State, wave: int, device: str = "") -> None:
    """Write down that the roll-out is there, and that this device has succeeded."""
    engine = open_database(url)
    with engine.begin() as conn:
        found = [each for each in rollouts.targets(conn, 1) if each.device == device]
        done = [replace(each, state=DeviceState.SUCCEEDED) for each in found]
        rollouts.record(conn, 1, Progress(state, wave, time.time()), done, now=time.time())
        rollouts.record(
            conn, 1, Progress(state, wave, time.time()), now=time.time(), log=["a line"]
        )
    engine.dispose()


def test_a_watch_without_a_terminal_says_in_a_line_what_has_changed(
    fleet: Edgeslm, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fleet(*START, "--version", "2", "--where", "id ~ dev-*", "--waves", "1,100%")[0] == 0
    steps = iter(
        [
            (State.MOVING, 0, ""),
            (State.MOVING, 0, "dev-1"),
            (State.MOVING, 0, ""),  # only the log has grown
            (State.SOAKING, 0, ""),
            (State.COMPLETED, 1, "dev-2"),
        ]
    )
    monkeypatch.setattr("edgeslm.cli.fleet_rollout.time.sleep", lambda _: record(url, *next(steps)))
    status, out, _ = fleet("rollout", "show", "1", "--watch")
    assert status == 0
    assert out.replace("roll-out 1: press 2: ", "").splitlines() == [
        "moving, wave 1 of 2: 2 waiting",
        "moving, wave 1 of 2: 1 waiting, 1 succeeded",
        "soaking, wave 1 of 2: 1 waiting, 1 succeeded",
        "completed, wave 2 of 2: 2 succeeded",
    ]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_preview_of_what_cannot_be_started_says_so_by_its_status(
    fleet: Edgeslm, more: tuple[str, ...]
) -> None:
    status, out, err = fleet("rollout", "preview", "--model", kit.MODEL, "--version", "2", *more)
    assert (status, "[rollout.unfit]" in err, "arm-1" in out) == (65, True, True)
    words = ("--model", kit.MODEL, "--version", "2", "--where", "id = dev-1", *more)
    assert fleet("rollout", "start", *words)[0] == 0
    status, out, err = fleet("rollout", "preview", *words)
    assert (status, "[rollout.overlap]" in err, "dev-1" in out) == (65, True, True)


def test_a_fleet_without_devices_is_told_from_a_filter_that_matches_none(
    fleet: Edgeslm,
) -> None:
    for name in ("dev-1", "dev-2", "arm-1"):
        assert fleet("devices", "forget", name)[0] == 0
    for words in ((), ("--where", "id = dev-1")):
        status, _, err = fleet(*START, "--version", "2", *words)
        assert (status, "[rollout.nothing_matches]" in err) == (65, True)
        assert "no device has registered yet" in err


def fields_of(model: type[BaseModel], outer: str = "") -> Iterator[str]:
    """Yield the name of each value in a plan."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, f"{name}.")
        else:
            yield outer + name


def test_what_can_be_said_in_a_plan_can_be_said_by_an_option() -> None:
    said = (
        *("--model", "press", "--version", "2", "--where", "id = a", "--live", "--waves", "100%"),
        *("--canaries", "3", "--soak", "7", "--deadline", "8", "--quiet", "90m", "--late"),
        *("write_off", "--on-breach", "pause", "--hours", "01:00-02:00", "--failed", "6%"),
        *("--silent", "7%", "--error-share", "0.2", "--latency-ratio", "3", "--alarm-ratio", "4"),
        *("--answers", "50"),
    )
    found = plan_of(options().parse_args(["start", *said]))
    default = Plan(model="x", version=1)
    assert (found.quiet_s, found.limits.answers) == (5400.0, 50)
    for path in fields_of(Plan):
        assert attrgetter(path)(found) != attrgetter(path)(default), path


def test_a_plan_may_be_a_file(fleet: Edgeslm, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('model = "press"\nversion = 2\nwhere = "id = dev-2"\nwaves = ["100%"]\n')
    assert fleet("rollout", "start", "--plan", str(file))[0] == 0
    file.write_text('model = "press"\nversoin = 2\n')
    status, _, err = fleet("rollout", "preview", "--plan", str(file))
    assert status in {65, 78}
    assert "versoin" in err
    with pytest.raises(SystemExit, match="2"):
        fleet("rollout", "start", "--plan", str(file), "--soak", "1h")


def test_devices_are_found_shown_tagged_and_forgotten(fleet: Edgeslm) -> None:
    status, out, _ = fleet("devices", "list", "--where", "tag.hall = A", "--sort", "id")
    assert status == 0
    assert re.findall(r"^\S+", out, re.MULTILINE) == ["arm-1", "dev-1", "dev-2", "3"]
    assert fleet("devices", "tag", "dev-1", "--tag", "hall=B")[1] == "1 devices: hall = B\n"
    found = [json.loads(line) for line in fleet("devices", "list", "--json")[1].splitlines()]
    assert {each["id"]: each["tags"]["hall"] for each in found} == {
        "arm-1": "A",
        "dev-1": "B",
        "dev-2": "A",
    }
    assert fleet("devices", "tag", "--where", "tag.hall = B", "--tag", "hall=")[0] == 0
    assert "hall=A" in fleet("devices", "show", "dev-1")[1]
    assert json.loads(fleet("devices", "show", "dev-1", "--json")[1])["update"]["seq"] == 0
    assert fleet("devices", "forget", "arm-1")[1] == "1 devices: forgotten\n"
    for words, code in (
        (("show", "arm-1"), "fleet.unknown_device"),
        (("forget", "dev-1", "arm-1"), "fleet.unknown_device"),
        (("tag", "dev-1", "--tag", "a b=c"), "fleet.tag"),
        (("forget", "--where", "id = arm-1"), "rollout.nothing_matches"),
        (("list", "--where", "colour = red"), "fleet.filter"),
    ):
        status, _, err = fleet("devices", *words)
        assert (status, f"[{code}]" in err) == (65, True)
    assert fleet("devices", "list", "--limit", "1")[1].endswith("1 of 2 devices\n")


@pytest.mark.parametrize(
    "words",
    [
        ("rollout", "start"),
        ("rollout", "start", "--model", "press"),
        ("rollout", "show"),
        ("rollout", "start", "--model", "press", "--version", "2", "--soak", "soon"),
        ("devices", "show"),
        ("devices", "tag", "dev-1"),
        ("devices", "forget"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_opened(
    fleet: Edgeslm, words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fleet(*words)
    assert ended.value.code == 2
