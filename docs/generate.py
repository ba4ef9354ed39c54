"""Write the documents that come from the code; with --check, say which are stale.

Run it from anywhere: `python docs/generate.py [--check]`. Same code, same bytes.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import _asyncapi
import _errors
import _providers
import _rollouts
import _tables
import _updates
from pydantic import BaseModel

from edgeslm.agent.metrics import METRICS
from edgeslm.contract.feedback import FEEDBACK_REPLY, Feedback
from edgeslm.contract.golden import GoldenCase
from edgeslm.contract.manifest import Manifest
from edgeslm.contract.measurement import MEASUREMENT
from edgeslm.contract.messages import ADAPTERS
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.rollout import Plan
from edgeslm.contract.settings import AgentSettings
from edgeslm.contract.vocabulary import BROKER_ERRORS, DROPS, EVENTS, INPUT_ERRORS, SELF_ERRORS

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
MODELS: Final[dict[str, type[BaseModel]]] = {
    "manifest": Manifest,
    "profile": DeviceProfile,
    "settings": AgentSettings,
    "golden": GoldenCase,
    "plan": Plan,
    "feedback": Feedback,
}
# tests/cli/test_surroundings.py and tests/provision have each.
SURROUNDINGS: Final = (
    (
        "The state or runtime directory is read-only, or another user's; or a file in it is",
        "75 `folder.unavailable`, `slots.unavailable`",
        "75",
        "75 `provision.disk`",
    ),
    (
        "The disk is full",
        "goes on: `outbox_blocked`; 75 `trust.unavailable`, `disk.full`",
        "75",
        "75 `provision.disk`",
    ),
    (
        "Another agent, or updater, has the directory; an agent says which process",
        "75 `agent.running`, `updater.running`",
        "-",
        "75 `provision.busy`",
    ),
    (
        "A device node or driver is missing, or a provider's library is of another version",
        "goes on with other models: `model_failed`, `bundle.no_artifact`",
        "65",
        "-",
    ),
    (
        "The broker's certificate has expired",
        "goes on: `uplink_disconnected` in the log",
        "75",
        "75 `provision.broker_expired`",
    ),
    (
        "The broker's certificate is not valid yet",
        "goes on: `uplink_disconnected` in the log",
        "75",
        "75 `provision.clock`",
    ),
    (
        "The broker's certificate is signed by an unknown CA, or for another name",
        "goes on: `uplink_disconnected` in the log",
        "78",
        "65 `provision.unknown_ca`",
    ),
    (
        "The clock is at 1970, or otherwise before the release",
        "goes on: results, states and events have `clock: untrusted`",
        "75",
        "75 `provision.clock`; 0 where there is a certificate",
    ),
    (
        "This device has no certificate yet, and [provision] is to get it",
        "75 `config.not_provisioned`; with `--wait`, as their units have it, goes on: it waits",
        "75",
        "0: gets it",
    ),
    (
        "This device's certificate has expired",
        "goes on: `uplink_disconnected` in the log",
        "78",
        "0: renews it",
    ),
    (
        "This device was revoked",
        "goes on: `uplink_disconnected` in the log",
        "78",
        "65 `provision.revoked`",
    ),
    ("The token has been used", "-", "-", "65 `provision.token_used`"),
    ("The host has another name", "goes on under the same id: that of the settings", "0", "0"),
)
MADE: Final = "<!-- Made from the code by `make docs`; edit the code instead. -->"


def documents() -> Iterator[tuple[Path, str]]:
    """Yield every generated document: where it lies and what it holds."""
    schemas: dict[str, dict[str, Any]] = {
        name: model.model_json_schema() for name, model in MODELS.items()
    }
    written = {**ADAPTERS, "bench": MEASUREMENT, "feedback-reply": FEEDBACK_REPLY}
    schemas |= {name: a.json_schema(mode="serialization") for name, a in written.items()}
    for name, schema in schemas.items():
        head = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:edgeslm:schema:1:{name}",
        }
        yield DOCS / "schemas" / f"{name}.json", _json(head | schema)
    yield DOCS / "asyncapi.json", _json(_asyncapi.document(DOCS / "examples"))
    yield DOCS / "settings.md", settings_page(schemas["settings"])
    yield DOCS / "device-profiles.md", profile_page(schemas["profile"])
    yield DOCS / "providers.md", _providers.page(ROOT, MADE)
    yield DOCS / "updates.md", _updates.page(MADE)
    example = (DOCS / "examples" / "plan.toml").read_text()
    yield DOCS / "rollouts.md", _rollouts.page(MADE, schemas["plan"], example)
    yield DOCS / "metrics.md", metrics_page()
    errors = _errors.error_classes(ROOT)
    yield DOCS / "error-codes.md", error_page(errors)
    yield DOCS / "exit-codes.md", exit_page(errors)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def settings_page(schema: dict[str, Any]) -> str:
    """Return the reference of the agent's settings."""
    lines = [
        "# Settings of the agent",
        "",
        MADE,
        "",
        "`edgeslm run --config FILE` reads one TOML file. Every key can be overridden by an",
        "environment variable, given beside it; tables and lists may also be given whole, as JSON",
        "(`EDGESLM_ROUTES='{...}'`). Variables win. NAME stands for a name of your own; in a",
        "variable it is in capitals. A shell's variables have neither `-` nor `.` in their names:",
        "what is below a name with one of them is set in the file, or with its whole table as",
        "JSON. An unknown key, an unknown variable `EDGESLM_*` or a wrong type stops the start,",
        "with its name and status 78. An example is at the end.",
    ]
    for table in _tables.tables(schema):
        lines += ["", _heading(table), "", table.meaning or "Keys outside any table.", ""]
        lines += _tables.rows(
            "Key",
            "Variable",
            "Value",
            "Default",
            "Meaning",
            of=[
                (
                    f"`{key.path[-1]}`",
                    f"`EDGESLM_{'__'.join(key.path).upper()}`",
                    key.kind,
                    key.default or "**required**",
                    key.meaning,
                )
                for key in table.keys
            ],
        )
    example = (DOCS / "examples" / "agent.toml").read_text().rstrip()
    lines += ["", "## Example", "", "```toml", example, "```", ""]
    return "\n".join(lines)


def profile_page(schema: dict[str, Any]) -> str:
    """Return the reference of device profiles."""
    lines = [
        "# Device profiles",
        "",
        MADE,
        "",
        "One TOML file for each device type, in `device-profiles/`, or anywhere when it is named",
        "by its path. The exporter compiles for it, the agent checks its device against it.",
        "[Adding a device](adding-a-device.md) shows how.",
    ]
    for table in _tables.tables(schema):
        lines += ["", _heading(table), "", table.meaning, ""]
        lines += _tables.rows(
            "Key",
            "Value",
            "Default",
            "Meaning",
            of=[
                (f"`{key.path[-1]}`", key.kind, key.default or "**required**", key.meaning)
                for key in table.keys
            ],
        )
    lines += [
        "",
        "## What shipped profiles leave open",
        "",
        "A shipped profile has a limit where a data sheet or a vendor's document gives the",
        "ground, which stands beside it: `temperature_c` of boards whose kernel or firmware says",
        "from when on it slows down, `memory_mb` of boards of 1 GB. Others are yours, in a profile",
        "of your own:",
        "",
        "- `budget_mb_day` of `[flash]`: cards and modules are chosen with the device. The",
        "  endurance of its data sheet in TB written, times 1,048,576, divided by the days that",
        "  the device shall live, and by what else writes there. A card of 384 TB written, ten",
        "  years, a tenth of it for the agent: 11,000. What the agent writes is in `state` and in",
        "  the [benchmarks](benchmarks.md#flash).",
        "- `memory_available_mb`, `load_per_core`: they depend on what else runs there.",
        "- `temperature_c` of the other boards, PCs and Macs: no document was found that says from",
        "  when on they slow down.",
        "- `cpu_percent`: none is needed where the agent may have what others leave.",
    ]
    example = (DOCS / "examples" / "profile.toml").read_text().rstrip()
    lines += ["", "## Example", "", "```toml", example, "```", ""]
    return "\n".join(lines)


def _heading(table: _tables.Table) -> str:
    return f"## `[{'.'.join(table.path)}]`" if table.path else "## Top level"


def error_page(errors: list[_errors.ErrorClass]) -> str:
    """Return the list of error codes and the other words that payloads use."""
    lines = [
        "# Error codes",
        "",
        MADE,
        "",
        "Printed in brackets at the end of an error, and sent as `error.code` in results, states",
        "and events. They are stable: a program may compare them. What comes before the code is",
        "for people, names the file or field at fault, and never quotes the text of an input.",
        "",
        "## Of results",
        "",
        "Why an input was not answered. It is acknowledged all the same.",
        "",
        *_tables.rows("Code", "Meaning", of=_words(INPUT_ERRORS)),
        "",
        "## Of commands, bundles, settings and the agent",
        "",
    ]
    of = [(f"`{e.code}`", e.meaning, str(e.exit_status), f"`{e.module}.{e.name}`") for e in errors]
    of += [(code, meaning, "", "") for code, meaning in _words(BROKER_ERRORS | SELF_ERRORS)]
    lines += [
        *_tables.rows("Code", "Meaning", "Exit status", "Class", of=sorted(of)),
        "",
        "## Reasons in `drops`",
        "",
        "A state counts messages that are not answered, and answers that nobody takes.",
        "",
        *_tables.rows("Reason", "Meaning", of=_words(DROPS)),
        "",
        "## Events",
        "",
        *_tables.rows("Event", "Meaning", of=_words(EVENTS)),
        "",
    ]
    return "\n".join(lines)


def _words(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"`{word}`", meaning) for word, meaning in table.items()]


def metrics_page() -> str:
    """Return what Prometheus can read of an agent."""
    lines = [
        "# Metrics",
        "",
        MADE,
        "",
        "With `pip install 'edgeslm[metrics]'` and",
        "",
        "```toml",
        "[metrics]",
        'listen = "127.0.0.1:9464"',
        "```",
        "",
        "in its settings, the agent answers `GET /metrics` in Prometheus's text format. It",
        "listens on loopback alone, for an exporter or a proxy on the device: there is no",
        "password, and names and versions of models and counts of answers are to be read. Texts",
        "are not. A scrape costs the agent one look at its counters, at most once a second;",
        "without a scrape, nothing. Where the address is taken or the package missing, an event",
        "`metrics_unavailable` says so, the agent serves all the same, and a reload (SIGHUP)",
        "tries again. Counters begin at 0 with each start of the agent.",
        "",
        "A sample that does not exist (no answers in the last minute, no sensor) is left out.",
        "",
    ]
    of = [
        (f"`{m.name}`", m.kind, ", ".join(f"`{label}`" for label in m.labels), m.help)
        for m in METRICS
    ]
    lines += _tables.rows("Metric", "Kind", "Labels", "Meaning", of=of)
    return "\n".join([*lines, ""])


def exit_page(errors: list[_errors.ErrorClass]) -> str:
    """Return the list of exit statuses: the fixed ones, then those of errors."""
    roots = {e.name: e for e in errors}
    of = [("0", "Done."), ("2", "The options are wrong; the usage is shown.")]
    for path in ("edgeslm/errors.py", "edgeslm/cli/main.py", "exporters/cli.py"):
        source = (ROOT / path).read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
                name = ast.unparse(node.target)
                if name.startswith("EXIT_"):
                    note = source.splitlines()[node.lineno - 1].partition("#")[2].strip()
                    root = roots.get(f"{name.removeprefix('EXIT_').title()}Error")
                    of.append((str(node.value.value), f"{root.meaning} ({note})" if root else note))
    lines = [
        "# Exit statuses",
        "",
        MADE,
        "",
        "Of `edgeslm` and `edgeslm-export`, as sysexits(3) numbers them. The last line on standard",
        "error says what to do, with its [code](error-codes.md) in brackets.",
        "",
        *_tables.rows("Status", "Meaning", of=sorted(of, key=lambda row: int(row[0]))),
        "",
        "## What is wrong around it",
        "",
        "A service that can go on, or whose surroundings may be mended while it waits, does not",
        "end: it says so in its log and, once it can, in an event. `edgeslm doctor` tells both.",
        "`edgeslm provision` has [more of its own](provisioning.md#on-a-device).",
        "",
        *_tables.rows("What", "`run`, `updater`", "`doctor`", "`provision`", of=SURROUNDINGS),
    ]
    return "\n".join([*lines, ""])


def main() -> int:
    """Write what has changed, or list it and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    check = parser.parse_args().check
    wanted = dict(documents())
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text() != text]
    gone = sorted(set((DOCS / "schemas").glob("*.json")) - set(wanted))
    for path in [*stale, *gone]:
        print(f"{path.relative_to(ROOT)}: {'stale; run `make docs`' if check else 'written'}")
    if not check:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
        for path in gone:
            path.unlink()
    return 1 if check and (stale or gone) else 0


if __name__ == "__main__":
    sys.exit(main())
