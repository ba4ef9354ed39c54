"""`edgeslm-export` as users run it: statuses, messages, and nothing left after Ctrl-C."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.runtime.profiles import detect_profile
from exporters import cli, export
from exporters.quality import QualityError
from tests.exporters.conftest import without_notes, without_stages, write_lines

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _own_signals() -> object:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def args(toy_model: Path, orders: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "--model": str(toy_model),
        "--data": str(orders),
        "--profile": detect_profile().name,
        "--name": "toy",
        "--version": "1",
        "--out": str(tmp_path / "export"),
    }


def flat(args: dict[str, str], task: str = "intent") -> list[str]:
    return [task, *(word for pair in args.items() for word in pair)]


def test_a_bundle_says_until_when_somebody_answers_for_it(
    args: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*flat(args), "--allow-drop"]
    assert cli.main([*given, "--supported-until", "2031-12-31"]) == 0
    manifest = Path(args["--out"]) / "bundle" / "manifest.json"
    assert json.loads(manifest.read_bytes())["supported_until"] == "2031-12-31"
    assert cli.main(given) == 0
    assert "supported_until" not in json.loads(manifest.read_bytes()), "older devices read it"
    with pytest.raises(SystemExit):
        cli.main([*given, "--supported-until", "2031-02-29"])
    assert "not a day" in capsys.readouterr().err


def test_the_ml_bom_says_of_the_base_model_what_was_said_of_it(
    args: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*flat(args), "--allow-drop"]
    assert cli.main([*given, "--base-license", "Apache-2.0", "--base-supplier", "Us"]) == 0
    found = json.loads((Path(args["--out"]) / "bom.cdx.json").read_bytes())
    base = found["components"][0]
    assert (base["licenses"], base["supplier"]) == ([{"expression": "Apache-2.0"}], {"name": "Us"})
    sets = found["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]
    digest = hashlib.sha256(Path(args["--data"]).read_bytes()).hexdigest()
    assert digest in {said["value"] for said in sets[0]["contents"]["properties"]}
    with pytest.raises(SystemExit):
        cli.main([*given, "--base-license", "as we like; ask"])
    assert "SPDX" in capsys.readouterr().err


def test_an_export_prints_its_report_and_its_stages_and_no_bars_into_a_pipe(
    args: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*flat(args), "--allow-drop"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["out"] == args["--out"]
    assert report["cautions"]  # so few rows are held out
    notes = [f"edgeslm-export: note: {caution}" for caution in report["cautions"]]
    assert "\x1b" not in err
    stages = [line for line in err.splitlines() if line.startswith("edgeslm-export: stage: ")]
    assert "edgeslm-export: stage: exporting the encoder" in stages
    assert len(set(stages)) == len(stages), "each begins once"
    said = without_stages(err).splitlines()
    assert said[: len(notes)] == notes
    claimed, *proofs = said[len(notes) :]  # two lines for each graph
    assert claimed.startswith(f"edgeslm-export: profile {args['--profile']}: verified silicon")
    assert len(proofs) == 2 * len(report["variants"])
    assert proofs[0].endswith("/model.onnx: verified silicon (run on such a chip)")
    assert re.search(r"(\d+) of \1 nodes on cpu, in 1 piece; 100\.0% of about", proofs[1])


Change = Callable[[Path], dict[str, str]]
REFUSALS: list[tuple[str, Change, int, str]] = [  # what, how, exit status, part of the message
    ("no such data", lambda _: {"--data": "/nowhere"}, 65, "[data.invalid]"),
    ("bad lines", lambda p: {"--data": write(p, "{\n")}, 65, "line 1: not JSON"),
    ("empty data", lambda p: {"--data": write(p, "")}, 65, "holds no example"),
    (
        "one class",
        lambda p: {"--data": write(p, *[labelled(t, "x") for t in "abc"])},
        65,
        "at least 2 are needed",
    ),
    (
        "too few texts",
        lambda p: {"--data": write(p, *[labelled(t, t[0]) for t in ("a1", "a2", "b1", "b2")])},
        65,
        "none can be spared",
    ),
    (
        "unknown label",
        lambda p: {"--eval": write(p, labelled("a", "unheard"))},
        65,
        "[data.unknown_label]",
    ),
    ("no such model", lambda _: {"--model": "/nowhere"}, 65, "[source.unusable]"),
    ("no such profile", lambda _: {"--profile": "toaster"}, 78, "[profile.invalid]"),
    (
        "bad profile",
        lambda p: {"--profile": write(p, "nmae = 1", name="p.toml")},
        78,
        "nmae: unknown key",
    ),
    ("bad name", lambda _: {"--name": "Not A Name"}, 65, "[export.identity]"),
    ("no tokens", lambda _: {"--max-tokens": "3"}, 65, "[export.max_tokens]"),
    ("too many tokens", lambda _: {"--max-tokens": "9000"}, 65, "takes 4 to 8192"),
]


def labelled(text: str, label: str) -> str:
    return json.dumps({"text": text, "label": label})


def write(folder: Path, *lines: str, name: str = "data.jsonl") -> str:
    (folder / name).write_text("\n".join(lines))
    return str(folder / name)


@pytest.mark.parametrize("refusal", REFUSALS, ids=[r[0] for r in REFUSALS])
def test_a_refusal_is_one_line_and_a_status(
    args: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refusal: tuple[str, Change, int, str],
) -> None:
    _, change, status, what = refusal
    assert cli.main(flat({**args, **change(tmp_path)})) == status
    out, err = capsys.readouterr()
    err = without_stages(err)
    assert out == ""
    assert what in err
    assert err.startswith("edgeslm-export: ")
    assert err.count("\n") == 1
    assert not Path(args["--out"]).exists()


def test_a_budget_the_data_cannot_support_says_how_many_lines_it_needs(
    args: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_lines(tmp_path / "few.jsonl", [{"text": f"temp pump {i} C"} for i in range(50)])
    words = flat({**args, "--data": str(data), "--alarm-budget": "0.001"}, "anomaly")
    assert cli.main(words) == 65
    err = capsys.readouterr().err
    assert f"{data}: an alarm budget of 0.001 needs at least 1000 normal lines" in err
    assert err.endswith(" [calibration.budget]\n")


def options_of(task: str) -> dict[str, argparse.Action]:
    """Return what the parser takes of one task, by option."""
    every = cli._parser()._actions  # noqa: SLF001 -- a parser tells of itself nowhere else
    (tasks,) = (action.choices for action in every if isinstance(action.choices, dict))
    actions = tasks[task]._actions  # noqa: SLF001
    return {
        option: a for a in actions for option in a.option_strings if option not in {"-h", "--help"}
    }


def test_the_docs_have_each_option_of_a_task_once() -> None:
    text = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text()
    (table,) = re.findall(r"\n## What you choose\n\n(.*?)\n\n", text, re.DOTALL)
    found: dict[str, list[str]] = {"intent": [], "anomaly": []}
    for row in table.splitlines()[2:]:
        option, task, _ = re.split(r" (?<!\\)\| ", row.strip("| "), maxsplit=2)
        for of in found if task == "both" else [task]:
            found[of] += re.findall(r"--[a-z-]+", option)
    for task, told in found.items():
        assert sorted(told) == sorted(options_of(task)), task
    (ways,) = re.findall(r"\n\| `--train (.*?)` \|", table)
    assert ways.split("\\|") == list(options_of("intent")["--train"].choices or ())


def test_help_and_docs_name_each_way_that_leaves_a_trained_encoder() -> None:
    text = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text()
    (row,) = re.findall(r"\n\| `trained/` \|.*", text)
    for way in set(options_of("intent")["--train"].choices or ()) - {"head"}:
        assert f"`--train {way}`" in row or f"or `{way}`" in row, way
        assert way in cli._EPILOG, way  # noqa: SLF001 -- what `--help` ends with


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["poetry"],
        ["intent"],
        ["intent", "--version", "0"],
        ["intent", "--reject-share", "2"],
        ["intent", "--reject-share", "x"],
        ["anomaly", "--reject-share", ".1"],
        ["intent", "--alarm-budget", ".1"],
    ],
)
def test_wrong_usage_is_said_by_the_parser(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_names_the_tasks_and_the_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for word in ("intent", "anomaly", "quality.json", "exit status"):
        assert word in out


def test_help_shows_an_option_of_a_task_with_one_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["anomaly", "--help"])
    out = capsys.readouterr().out
    assert "[--windows WINDOWS]" in out
    assert "[--sessions SESSIONS]" in out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(28, "No space left on device"), 75),
        (KeyboardInterrupt(), 130),
        (QualityError({"accuracy": 3.0}, limit=0.5, rows=9, fp32={}, artifact={}), 65),
    ],
)
def test_what_stops_an_export_has_its_status(
    args: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(export, "export", fail)
    assert cli.main(flat(args)) == status
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(
    args: dict[str, str], tmp_path: Path, own_cache: Path, number: int
) -> None:
    """As soon as the scratch folder is there, the process is told to stop."""
    place = tmp_path / "place"
    place.mkdir()
    words = flat({**args, "--out": str(place / "export")})
    process = subprocess.Popen(
        [sys.executable, "-m", "exporters.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EDGESLM_CACHE": str(own_cache)},
    )
    deadline = time.monotonic() + 120
    while not any(place.iterdir()):
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert without_notes(err) == "edgeslm-export: interrupted\n"
    assert list(place.iterdir()) == []


def test_missing_packages_are_named_with_their_remedy(
    args: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "NEEDED", ("rich", "no-such-package-of-ours"))
    assert cli.main(flat(args)) == 78
    err = capsys.readouterr().err
    assert "exporting needs no-such-package-of-ours: " in err
    assert "pip install '.[export]' -c packaging/constraints.txt" in err
    assert "[export.not_installed]" in err


def test_the_packages_looked_for_are_those_of_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["export"]
    assert [re.split("[<>=]", package)[0] for package in extra] == list(cli.NEEDED)


INTERRUPTED = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
from exporters.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("package", ["numpy", "onnx", "pydantic", "rich"])
def test_an_interrupt_while_packages_load_is_no_traceback(
    args: dict[str, str], package: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, package, *flat(args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "edgeslm-export: interrupted\n")


def test_a_number_that_is_none_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    for words, what in [
        (["--version", "one"], "'one' is not a whole number of 1 or more"),
        (["--reject-share", "x"], "'x' is not a number between 0 and 1"),
    ]:
        with pytest.raises(SystemExit):
            cli.main(["intent", *words])
        assert what in capsys.readouterr().err
