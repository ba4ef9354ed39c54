"""`edgeslm COMMAND`: choose a command, call its one function, map errors to exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from edgeslm import __version__
from edgeslm.cli.text import printable
from edgeslm.errors import EXIT_INTERRUPTED, EdgeSLMError

# words: (module, help). A module is imported only when chosen: a device that runs the agent
# must not pay for the rest. Each exports `main(argv) -> int`.
COMMANDS: Final = {
    ("run",): ("edgeslm.cli.run", "run the agent in the foreground"),
    ("updater",): ("edgeslm.cli.updater", "run the updater in the foreground"),
    ("update",): ("edgeslm.cli.update", "take models from a stick"),
    ("provision",): ("edgeslm.cli.provision", "get or renew this device's certificate"),
    ("status",): ("edgeslm.cli.status", "say what runs here, and how an update goes"),
    ("feedback",): ("edgeslm.cli.feedback", "list, undo and export what was taught here"),
    ("infer",): ("edgeslm.cli.infer", "answer lines from standard input with a bundle"),
    ("bench",): ("edgeslm.cli.bench", "measure a bundle on this machine"),
    ("doctor",): ("edgeslm.cli.doctor", "check this device and say what to mend"),
    ("image",): ("edgeslm.cli.image", "lay a working set-up into a root file system"),
    ("demo",): ("edgeslm.cli.demo", "a factory, a broker and an agent, in one minute"),
    ("bundle", "inspect"): ("edgeslm.cli.bundle_inspect", "show what a bundle holds"),
    ("bundle", "verify"): ("edgeslm.cli.bundle_verify", "check a bundle as a device would"),
    ("fleet", "init"): ("edgeslm.cli.fleet_init", "make a fleet's signed repository"),
    ("fleet", "keys"): ("edgeslm.cli.fleet_keys", "list, replace and export its keys"),
    ("fleet", "add"): ("edgeslm.cli.fleet_add", "sign bundles for the fleet"),
    ("fleet", "assign"): ("edgeslm.cli.fleet_assign", "say what a device is to run"),
    ("fleet", "publish"): ("edgeslm.cli.fleet_publish", "serve the fleet's devices over MQTT"),
    ("fleet", "serve"): ("edgeslm.cli.fleet_serve", "run the fleet's service and its page"),
    ("fleet", "rollout"): ("edgeslm.cli.fleet_rollout", "move devices to a version, and watch"),
    ("fleet", "devices"): ("edgeslm.cli.fleet_devices", "find, tag and forget devices"),
    ("fleet", "enroll"): ("edgeslm.cli.fleet_enroll", "let devices in, and list who is"),
    ("fleet", "revoke"): ("edgeslm.cli.fleet_revoke", "let devices in no more"),
    ("fleet", "authority"): ("edgeslm.cli.fleet_authority", "replace who signs certificates"),
    ("fleet", "accounts"): ("edgeslm.cli.fleet_accounts", "say who may use page and API"),
    ("fleet", "tokens"): ("edgeslm.cli.fleet_tokens", "make and revoke tokens of the API"),
    ("fleet", "token"): ("edgeslm.cli.fleet_token", "let operators silence alarms on devices"),
    ("fleet", "audit"): ("edgeslm.cli.fleet_audit", "say who did what"),
    ("fleet", "collect"): ("edgeslm.cli.fleet_collect", "results for the next export"),
    ("fleet", "doctor"): ("edgeslm.cli.fleet_doctor", "have a device look at itself"),
    ("fleet", "bench"): ("edgeslm.cli.fleet_bench", "have a device measure a model"),
    ("fleet", "broker-config"): (
        "edgeslm.cli.fleet_broker_config",
        "print who may do what on the broker",
    ),
    ("fleet", "simulate"): ("edgeslm.cli.fleet_simulate", "play devices that are not there"),
    ("fleet", "database"): ("edgeslm.cli.fleet_database", "show or upgrade the fleet's database"),
    ("fleet", "stick"): ("edgeslm.cli.fleet_stick", "write models for devices without a network"),
}
_HELP: Final = frozenset({"--help", "-h", "help"})
EXIT_SHORT: Final = 1  # `edgeslm demo` broke a promise of its own; `shortfalls` says which
EXIT_FAULT: Final = 70  # EX_SOFTWARE: a fault of ours in `edgeslm fleet serve`; the log says where
EXIT_ABORTED: Final = 1  # `edgeslm fleet rollout show --watch`: the roll-out was aborted
EXIT_USAGE: Final = 64  # EX_USAGE: no such command


def usage(group: str | None = None) -> str:
    """Return the help text, a line per command: of all, or of those that begin with a word."""
    shown = {words: text for words, (_, text) in COMMANDS.items() if group in {None, words[0]}}
    width = max(len(" ".join(words)) for words in shown)
    rows = (f"  {' '.join(words):<{width}}  {text}" for words, text in shown.items())
    begins, ends = ("", "--version, --help") if group is None else (f"{group} ", "--help")
    return "\n".join(
        (f"usage: edgeslm {begins}COMMAND [--help] ...", "", *rows, "", f"  {ends}", "")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["--version"]:
        sys.stdout.write(f"edgeslm {__version__}\n")
        return 0
    if not args or args[0] in _HELP:
        sys.stdout.write(usage())
        return 0 if args else EXIT_USAGE
    for length in (1, 2):
        if (words := tuple(args[:length])) in COMMANDS:
            return call(COMMANDS[words][0], args[length:], prog=f"edgeslm {' '.join(words)}")
    group = args[0] if args[0] in {words[0] for words in COMMANDS} else None
    if group is not None and (len(args) == 1 or args[1] in _HELP):
        sys.stdout.write(usage(group))
        return 0 if args[1:] else EXIT_USAGE
    unknown = " ".join(args[: 1 if group is None else 2])
    sys.stderr.write(printable(f"edgeslm: no command {unknown!r}\n\n") + usage(group))
    return EXIT_USAGE


def call(module: str, args: list[str], *, prog: str) -> int:
    """Run `module.main(args)`; an error raised on purpose becomes one line and a status."""
    try:
        status: int = import_module(module).main(args)
    except EdgeSLMError as err:
        sys.stderr.write(printable(f"{prog}: {err} [{err.code}]\n"))
        return err.exit_status
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `edgeslm infer ... | head`: not an error, and nothing to say
        # What standard output still holds would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status
