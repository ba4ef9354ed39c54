"""`edgeslm COMMAND`: every command is there, and what ends one early is no traceback."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from edgeslm.cli.main import COMMANDS, main

INTERRUPTED = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
from edgeslm.cli.main import main
sys.exit(main(["infer", "x"]))
"""


def test_every_command_is_a_module_with_a_main() -> None:
    for module, _ in COMMANDS.values():
        assert callable(import_module(module).main), module


def edgeslm(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_interrupt_while_packages_load_is_no_traceback() -> None:
    done = edgeslm("-c", INTERRUPTED)
    assert (done.returncode, done.stderr) == (130, "edgeslm infer: interrupted\n")


def test_an_unknown_profile_stops_the_agent_before_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'device_id = "d"\nprofile = "toaster"\nstate_dir = "{tmp_path / "state"}"\n')
    done = edgeslm("-m", "edgeslm", "run", "--config", str(file))
    assert done.returncode == 78
    assert done.stderr.startswith("edgeslm run: toaster: no such device profile")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--seconds", "0"], "'0' is not a number above 0"),
        (["--seconds", "nan"], "'nan' is not a number above 0"),
        (["--rate", "-1"], "'-1' is not a number of 0 or more"),
        (["--messages", "x"], "'x' is not a whole number"),
    ],
)
def test_numbers_that_are_none_are_called_so(
    words: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeslm.cli import demo  # noqa: PLC0415 -- it brings the demo's parts

    with pytest.raises(SystemExit):
        demo.main(words)
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("group", ["fleet", "bundle"])
def test_a_group_lists_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group, "--help"]) == 0
    helped = capsys.readouterr().out
    shown = {tuple(line.split()[:2]) for line in helped.splitlines() if line.startswith("  ")}
    assert {words for words in COMMANDS if words[0] == group} == shown - {("--help",)}
    assert main([group]) == 64
    assert capsys.readouterr().out == helped


def test_a_command_that_a_group_does_not_have_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "nope"]) == 64
    err = capsys.readouterr().err
    assert err.startswith("edgeslm: no command 'fleet nope'")
    assert "bundle inspect" not in err
