"""Manual pages and completion know every command, as the commands know themselves."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest
from packages import commands

from edgeslm.cli.main import COMMANDS

PARSERS = commands.parsers()
PAGES = commands.pages()


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "edgeslm"
    path.write_text(commands.completion("bash"))
    return path


def completed(bash: Path, *words: str) -> set[str]:
    """Return what bash offers after these words, the last of them begun."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        "compopt() { :; }; _shtab_edgeslm; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(bash), "edgeslm", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def options(parser: argparse.ArgumentParser) -> list[str]:
    return [
        option
        for action in parser._actions  # noqa: SLF001 -- argparse tells by no other way
        if action.help is not argparse.SUPPRESS
        for option in action.option_strings
    ]


def test_every_command_has_its_parser_read() -> None:
    assert PARSERS.keys() == COMMANDS.keys()
    assert argparse.ArgumentParser().parse_args([]) == argparse.Namespace()  # as it was


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_page_with_every_option(words: tuple[str, ...]) -> None:
    page = PAGES["-".join(("edgeslm", *words)) + ".1"].replace("\\-", "-")
    assert f"\n.SH NAME\n{'-'.join(('edgeslm', *words))} \\- ".replace("\\-", "-") in page
    assert all(option in page for option in options(PARSERS[words]))
    overview = PAGES["edgeslm.1"].replace("\\-", "-")
    assert f".BR {'-'.join(('edgeslm', *words))} (1)" in overview


def test_pages_say_nothing_of_when_they_were_made() -> None:
    assert commands.pages() == PAGES


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man (Debian's man-db)")
@pytest.mark.parametrize("name", ["edgeslm.1", "edgeslm-infer.1", "edgeslm-fleet-rollout.1"])
def test_troff_takes_a_page_without_a_warning(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(PAGES[name])
    done = subprocess.run(
        ["man", "--warnings=w", "--local-file", str(path)], capture_output=True, check=True
    )
    assert done.stderr == b""
    assert b"NAME" in done.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_bash_completes_a_command_and_its_options(bash: Path, words: tuple[str, ...]) -> None:
    assert words[-1] in completed(bash, *words[:-1], words[-1][:1])
    offered = completed(bash, *words, "--")
    assert set(options(PARSERS[words])) - {"-h"} <= offered | {"-h"}


def test_bash_offers_nothing_that_is_not_there(bash: Path) -> None:
    assert completed(bash, "zzz") == set()
    assert "rollout" not in completed(bash, "bundle", "")


@pytest.mark.parametrize("shell", commands.SHELLS)
def test_completion_is_the_same_bytes_again(shell: str) -> None:
    assert commands.completion(shell) == commands.completion(shell)


def test_zsh_knows_every_command() -> None:
    text = commands.completion("zsh")
    assert text.startswith("#compdef edgeslm\n")
    assert all(f"    {words[-1]}:'" in text for words in COMMANDS)
