"""What is imported where: a device pays only for what it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "paho", "onnxruntime", "torch", "tokenizers", "transformers", "rich")


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module", ["manifest", "messages", "profile", "settings", "topics"], ids=str
)
def test_the_contract_loads_pydantic_only(module: str) -> None:
    loaded = imported_by(f"import edgeslm.contract.{module}")
    assert loaded.isdisjoint(HEAVY)
    assert "edgeslm" in loaded


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["nonsense"]], ids=str)
def test_naming_no_command_loads_none(args: list[str]) -> None:
    loaded = imported_by(f"from edgeslm.cli.main import main\nmain({args})")
    assert loaded.isdisjoint({*HEAVY, "pydantic", "sqlite3"})


def test_an_agent_without_an_updater_loads_nothing_of_updates() -> None:
    code = "import edgeslm.cli.run"
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "edgeslm.agent.agent" in loaded
    assert loaded.isdisjoint(
        {
            *("edgeslm.contract.fleet", "edgeslm.contract.slots", "edgeslm.contract.control"),
            *("edgeslm.agent.control", "edgeslm.agent.shelf", "edgeslm.adapters.unix_socket"),
        }
    )


def test_an_agent_with_an_updater_loads_nothing_that_verifies_signatures() -> None:
    loaded = imported_by("import edgeslm.cli.run, edgeslm.agent.control, edgeslm.agent.shelf")
    assert loaded.isdisjoint({"tuf", "securesystemslib", "cryptography", "zstandard", "bsdiff4"})
