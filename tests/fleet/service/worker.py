"""One worker as a process: `worker.py FOLDER DATABASE PORT LEASE_S [N before|after FILE]`.

With N it kills itself (SIGKILL) before or after its Nth write to the database, in the order in
which they come: INSERT, UPDATE, DELETE, and COMMIT of a transaction that has written. The renewals
of leases by themselves do not count, since they only pass the time; those that fence a decision do.
Each is written to FILE as it comes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

from edgeslm import logs
from edgeslm.contract.brokers import Broker
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.service.wiring import make
from tests.fleet.kit import passphrases

_WRITES: Final = ("INSERT", "UPDATE", "DELETE", "LOCK")
_UNCOUNTED: Final = frozenset({"leases", "MainThread", "prune"})


class Ambush:
    """Counts writes; kills this process at one of them."""

    def __init__(self, engine: Engine, number: int, when: str, count: Path) -> None:
        self._lock = threading.Lock()
        self._seen = 0
        self._own = threading.local()
        self._number = number
        self._when = when
        self._file = count.open("a", encoding="ascii")
        event.listen(engine, "before_cursor_execute", self._execute)
        event.listen(engine, "after_cursor_execute", self._executed)
        self._do_commit = engine.dialect.do_commit
        engine.dialect.do_commit = self._commit  # type: ignore[assignment] # around it

    def _execute(self, _conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._counts() and statement.lstrip().upper().startswith(_WRITES):
            self._own.written = self._next(statement.split(maxsplit=1)[0])

    def _executed(self, _conn: Connection, *_: Any) -> None:
        if self._when == "after" and getattr(self._own, "written", 0) == self._number:
            self._die()

    def _commit(self, connection: Any) -> None:
        """Commit; whatever thread this is, it has one transaction at a time."""
        number = self._next("COMMIT") if getattr(self._own, "written", 0) else 0
        self._own.written = 0
        self._do_commit(connection)
        if number and number == self._number and self._when == "after":
            self._die()

    @staticmethod
    def _counts() -> bool:
        return threading.current_thread().name not in _UNCOUNTED

    def _next(self, what: str) -> int:
        with self._lock:
            self._seen += 1
            thread = threading.current_thread().name
            self._file.write(f"{self._seen} {thread} {what}\n")
            self._file.flush()
            if self._seen == self._number and self._when == "before":
                self._die()
            return self._seen

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    folder, database, port, lease_s, *ambush = sys.argv[1:]
    logs.configure(device="worker", level="warning")
    engine = open_database(database)
    if ambush:
        number, when = int(ambush[0]), ambush[1]
        Ambush(engine, number, when, Path(f"{ambush[2]}"))
    repository = Repository(Path(folder), passphrases())
    broker = Broker(host="127.0.0.1", port=int(port))
    service = make(repository, engine, broker, lease_s=float(lease_s))
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    return 0 if service.run() else 70


if __name__ == "__main__":
    raise SystemExit(main())
