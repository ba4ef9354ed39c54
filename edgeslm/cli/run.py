"""`edgeslm run`: the agent, in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from edgeslm import logs
from edgeslm.adapters.mqtt_open import password_of, tls_context
from edgeslm.agent.agent import Agent
from edgeslm.agent.wiring import RealParts
from edgeslm.contract.settings import REMEDY, Broker, Tls, load_settings
from edgeslm.errors import ConfigError
from edgeslm.runtime.profiles import load_profile

# A thread that wants the interpreter waits so long for one that computes. Python's 5 ms would be
# paid several times on the way of each message; much less would spend the time on switching.
SWITCH_INTERVAL_S: Final = 0.0005


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads the settings."""
    parser = argparse.ArgumentParser(prog="edgeslm run", description="Run the agent.")
    parser.add_argument("--config", type=Path, required=True, help="settings, TOML")
    args = parser.parse_args(argv)
    settings = load_settings(args.config)
    if settings.profile:  # a wrong one is said at once, and not of each model
        load_profile(settings.profile)
    for field in ("uplink", "input"):
        if (broker := getattr(settings, field)) is not None:
            _try_files(args.config, field, broker)
    logs.configure(device=settings.device_id, level=settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    agent = Agent(settings, RealParts(args.config, settings))

    def on_stop(_signal: int, _frame: FrameType | None) -> None:
        agent.stop()

    def on_reload(_signal: int, _frame: FrameType | None) -> None:
        agent.reload()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGHUP, on_reload)
    if not agent.run():
        # A thread is still inside native code, which would abort in an interpreter that is gone.
        logging.shutdown()
        os._exit(0)
    return 0


def _try_files(config: Path, section: str, broker: Broker) -> None:
    """Read the files that a broker's section names: what is wrong now is wrong at each attempt.

    Raises:
        ConfigError: one cannot be used; says which.
    """
    tls = broker.tls or Tls()
    files = {
        "password_file": broker.password_file,
        "tls.ca_file": tls.ca_file,
        "tls.cert_file": tls.cert_file,
        "tls.key_file": tls.key_file,
    }
    problems: list[tuple[str, str]] = []
    for key, path in files.items():
        if path is not None:
            try:
                path.read_bytes()
            except OSError as err:
                problems.append((f"{section}.{key}", f"{path}: {err.strerror or err}"))
    try:
        password_of(broker)
    except ValueError:
        problems.append((f"{section}.password_file", f"{broker.password_file}: not UTF-8"))
    except OSError:  # told above
        pass
    if broker.tls is not None and not problems:
        try:
            tls_context(Tls(ca_file=tls.ca_file))
        except OSError as err:
            problems.append((f"{section}.tls.ca_file", f"{tls.ca_file}: no certificates ({err})"))
        try:
            tls_context(tls.model_copy(update={"ca_file": None}))
        except OSError as err:
            what = f"{tls.cert_file} and {tls.key_file}: no certificate and its key ({err})"
            problems.append((f"{section}.tls.cert_file", what))
    if problems:
        raise ConfigError(str(config), problems, remedy=REMEDY)
