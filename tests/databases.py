"""Databases of a test's own: SQLite in its folder, and a real PostgreSQL on a socket of ours.

PostgreSQL refuses to run as root: there it runs as a user that may do nothing. One server for all
tests, started when the first asks for it; a database for each.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine

from edgeslm.fleet.database.engine import open_database

START_S: Final = 30.0
PROGRAMS: Final = Path("/usr/lib/postgresql")
KINDS: Final = ("sqlite", "postgresql")
_SETTINGS: Final = {
    "listen_addresses": "",  # the socket alone
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",  # else `kill` takes half a second's commits with it
    "max_connections": "200",
}


class Postgresql:
    """One server: `kill` is a power cut of its processes, `start` comes back."""

    def __init__(self) -> None:
        self._initdb, self._postgres = _program("initdb"), _program("postgres")
        self.folder = Path(tempfile.mkdtemp(prefix="edgeslm-pg-"))
        self._data = self.folder / "data"
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = _unprivileged()
            ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
            self._as = ["setpriv", *ids, "--pdeathsig=INT"]
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        options = ("--auth=trust", "--username=edgeslm", "--encoding=UTF8", "--no-sync")
        argv = [*self._as, self._initdb, "-D", str(self._data), "--locale=C.UTF-8", *options]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"initdb: {done.stderr}")

    def start(self) -> None:
        assert self._process is None
        settings = {**_SETTINGS, "unix_socket_directories": str(self.folder)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = [*self._as, self._postgres, "-D", str(self._data), *options]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                pytest.fail((self.folder / "server.log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """Let it end, whoever is connected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        """Stop it, and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str) -> str:
        """Of a database, whether it is there or not."""
        return f"postgresql://edgeslm@/{name}?host={self.folder}"

    def new(self, like: str = "template1") -> str:
        """Make a database like another, empty by default; return its URL."""
        name = f"fleet{next(self._numbers)}"
        self.say(f"CREATE DATABASE {name} TEMPLATE {like}")
        return self.url(name)

    @functools.cached_property
    def fresh(self) -> str:
        """Name of a fleet's database with nothing in it."""
        url = self.new()
        open_database(url).dispose()
        return _name(url)

    def say(self, statement: str, database: str = "postgres") -> None:
        import psycopg  # noqa: PLC0415 -- an extra of its own

        where = f"host={self.folder} user=edgeslm dbname={database}"
        with psycopg.connect(where, autocommit=True) as conn:
            conn.execute(statement.encode())

    def drop(self, url: str) -> None:
        self.say(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def _answers(self) -> bool:
        import psycopg  # noqa: PLC0415

        try:
            self.say("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _program(name: str) -> str:
    folders = [str(path) for path in sorted(PROGRAMS.glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip("no postgresql: install the package postgresql")
    return found


def _unprivileged() -> pwd.struct_passwd:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv: PostgreSQL does not run as root")
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A running server."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    server = Postgresql()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def fresh_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's SQLite database with nothing in it, to be copied."""
    file = tmp_path_factory.mktemp("database") / "fleet.db"
    open_database(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fleet.db'}"
        return
    server: Postgresql = request.getfixturevalue("postgresql")
    url = server.new()
    yield url
    server.drop(url)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A fleet's database, of each kind, with nothing in it."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("fresh_file"), tmp_path / "fleet.db")
        engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
        yield engine
        engine.dispose()
        return
    server: Postgresql = request.getfixturevalue("postgresql")
    url = server.new(like=server.fresh)
    engine = open_database(url)
    yield engine
    engine.dispose()
    server.drop(url)
