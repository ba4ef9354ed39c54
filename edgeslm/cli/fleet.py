"""What the commands of `edgeslm fleet` share: their options, and the repository they open."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm.cli.text import printable
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.errors import FleetExtraError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgeslm.fleet.repository import Repository

NEEDED: Final = (
    *("alembic", "bsdiff4", "cryptography", "securesystemslib", "sqlalchemy", "tuf", "zstandard"),
)
EPILOG: Final = """\
exit status:
  0   done
  65  refused: says which file, what is wrong, and what to do
  75  not now: a key is not there, the disk is full, another command writes, the database is down,
      or a package is missing
  78  fleet.toml, a configuration or the database cannot be used
"""


def parser(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all of them have."""
    made = argparse.ArgumentParser(
        prog=prog,
        description=(doc or "").partition(": ")[2],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--repository", type=Path, default=Path("fleet"), metavar="DIR", help="default: fleet"
    )
    made.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="passphrase of the keys; else EDGESLM_FLEET_PASSPHRASE, else it is asked for",
    )
    return made


def add_database(options: argparse.ArgumentParser) -> None:
    """Add the option of commands that need the fleet's database."""
    options.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///FILE or postgresql://USER@HOST/NAME; else what fleet.toml says, else "
        "fleet.db in the repository",
    )


def require_extra() -> None:
    """Say which extra is missing, before it is imported.

    Raises:
        FleetExtraError: one is.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        msg = f"{', '.join(missing)}: not installed. pip install 'edgeslm[fleet]'"
        raise FleetExtraError(msg)


def opened(args: argparse.Namespace) -> Repository:
    """Return the repository that the options name.

    Raises:
        EdgeSLMError: a package is missing, or there is no repository.
    """
    require_extra()
    from edgeslm.fleet.passphrases import Passphrases  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.repository import Repository  # noqa: PLC0415

    return Repository(args.repository, Passphrases(args.passphrase_file))


@contextlib.contextmanager
def using_database(args: argparse.Namespace, repository: Repository) -> Iterator[Engine]:
    """Open the database that the options name, and close it.

    Raises:
        EdgeSLMError: as `database`.
    """
    engine = database(args, repository)
    try:
        yield engine
    finally:
        engine.dispose()


def note(args: argparse.Namespace, repository: Repository, what: str, **detail: Any) -> None:
    """Write into the audit log what is done already; where that cannot be, say so and go on.

    Args:
        args: options, of which `database` counts.
        repository: whose.
        what: past tense, stable, such as bundles.added.
        detail: what it was done to; JSON.
    """
    from edgeslm.fleet.database import audit  # noqa: PLC0415 -- needs the extra

    try:
        with using_database(args, repository) as engine, engine.begin() as conn:
            audit.record(conn, audit.at_terminal(), what, now=repository.now(), **detail)
    except EdgeSLMError as err:  # it is signed all the same: no database is needed for that
        said = f"done, but {what} is not in the audit log: {err} [{err.code}]\n"
        sys.stderr.write(printable(f"edgeslm fleet: {said}"))


def database(args: argparse.Namespace, repository: Repository) -> Engine:
    """Return the database that the options name.

    Raises:
        EdgeSLMError: it is down, of another version, or none.
    """
    from edgeslm.fleet.config import database_url  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import open_database  # noqa: PLC0415

    return open_database(args.database or database_url(repository.config, repository.folder))
