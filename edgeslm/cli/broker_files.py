"""Files that a broker's settings name, tried before anything is started."""

from __future__ import annotations

from pathlib import Path

from edgeslm.adapters.mqtt_open import password_of, tls_context
from edgeslm.contract.brokers import Broker, Tls
from edgeslm.contract.settings import REMEDY
from edgeslm.errors import ConfigError


def try_files(config: Path, section: str, broker: Broker) -> None:
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
