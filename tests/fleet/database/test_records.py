"""Audit, accounts, events and evidence: kept once, bounded, and read in pages."""

from __future__ import annotations

from typing import Any, Final

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from edgeslm.fleet.database import accounts, audit, events, evidence
from edgeslm.fleet.database.audit import Actor
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import AccountError
from edgeslm.fleet.database.events import Told
from edgeslm.fleet.database.evidence import Sent

ADA: Final = Actor("ada", "page")


def record(database: Engine, count: int = 1) -> None:
    with database.begin() as conn:
        for n in range(count):
            audit.record(conn, ADA, "device.assigned", now=float(n), device="d", note="a\0\ud800")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'eve'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 1",
        "INSERT OR REPLACE INTO audit SELECT id, at, 'eve', by, what, detail FROM audit",
        "TRUNCATE audit",
        """
        INSERT INTO audit SELECT id, at, 'eve', by, what, detail FROM audit WHERE id = 1
        ON CONFLICT (id) DO UPDATE SET who = 'eve'
        """,
    ],
)
def test_what_was_done_stays_written(statement: str, database: Engine) -> None:
    record(database)
    with pytest.raises(SQLAlchemyError), database.begin() as conn:
        conn.execute(text(statement))
    with reading(database) as conn:
        [entry] = audit.entries(conn)
    assert (entry.who, entry.by, entry.what) == ("ada", "page", "device.assigned")
    assert entry.detail == {"device": "d", "note": "a\ufffd\ufffd"}


def test_the_log_is_read_in_pages(database: Engine) -> None:
    record(database, 5)
    with reading(database) as conn:
        first = audit.entries(conn, limit=3)
        rest = audit.entries(conn, before=first[-1].id, limit=3)
        assert [entry.at for entry in (*first, *rest)] == [4.0, 3.0, 2.0, 1.0, 0.0]
        assert audit.entries(conn, what="other") == []


def test_who_sits_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert audit.at_terminal() == Actor("ada", "cli")

    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    assert audit.at_terminal() == Actor("unknown", "cli")


def account(database: Engine, name: str = "ada") -> None:
    with database.begin() as conn:
        accounts.create(conn, name, "operator", "$argon2id$...", now=1.0)


def test_an_account_is_made_once(database: Engine) -> None:
    account(database)
    with pytest.raises(AccountError, match="ada: there is an account of this name already"):
        account(database)
    with database.begin() as conn:
        for act in (accounts.remove, accounts.change):
            with pytest.raises(AccountError, match="bob: there is no account"):
                act(conn, "bob", **({"disabled": True} if act is accounts.change else {}))
        accounts.change(conn, "ada", role="viewer", password="other")  # noqa: S106
        found = accounts.account(conn, "ada")
        assert found is not None
        assert (found.role, found.password, found.disabled) == ("viewer", "other", False)
        assert accounts.every(conn) == [found]
        assert accounts.account(conn, "ADA") is None


def token(**more: Any) -> accounts.Token:
    values: dict[str, Any] = {
        "id": "t1",
        "account": "ada",
        "hash": "h" * 64,
        "label": "ci",
        "created_at": 1.0,
        "expires_at": 10.0,
        **more,
    }
    return accounts.Token(**values)


def test_a_token_is_good_until_it_is_not(database: Engine) -> None:
    account(database)
    with database.begin() as conn:
        with pytest.raises(AccountError):
            accounts.add_token(conn, token(account="bob"))
        accounts.add_token(conn, token())
        accounts.token_used(conn, "t1", now=5.0)
        found = accounts.token(conn, "h" * 64, now=5.0)
        assert found is not None
        assert (found[0].used_at, found[1].name) == (5.0, "ada")
        assert accounts.token(conn, "h" * 64, now=10.0) is None
        assert accounts.token(conn, "x" * 64, now=5.0) is None
        assert [each.id for each in accounts.tokens_of(conn, "ada")] == ["t1"]
        accounts.change(conn, "ada", disabled=True)
        assert accounts.token(conn, "h" * 64, now=5.0) is None
        assert accounts.remove_token(conn, "t1")
        assert not accounts.remove_token(conn, "t1")


def test_a_session_ends_with_its_account_or_its_password(database: Engine) -> None:
    account(database)
    ends: list[Any] = [
        lambda conn: accounts.remove_session(conn, "s"),
        lambda conn: accounts.remove_sessions(conn, "ada"),
        lambda conn: accounts.change(conn, "ada", password="new"),  # noqa: S106
        lambda conn: accounts.prune(conn, 100.0, session_s=99.0, idle_s=99.0, forget_s=1.0),
        lambda conn: accounts.remove(conn, "ada"),
    ]
    for end in ends:
        with database.begin() as conn:
            accounts.add_session(conn, accounts.Session("s", "ada", "csrf", 0.5, 0.5))
            accounts.session_seen(conn, "s", now=0.7)
            found = accounts.session(conn, "s")
            assert found is not None
            assert (found[0].seen_at, found[1].name) == (0.7, "ada")
            end(conn)
            assert accounts.session(conn, "s") is None


def test_wrong_passwords_are_counted_and_forgotten(database: Engine) -> None:
    with database.begin() as conn:
        for n in range(1, 4):
            assert accounts.failed(conn, "ada", now=float(n), forget_s=10.0) == n
        assert accounts.failures(conn, "ada", now=4.0, forget_s=10.0) == (3, 3.0)
        assert accounts.failures(conn, "bob", now=4.0, forget_s=10.0) == (0, 0.0)
        assert accounts.failures(conn, "ada", now=50.0, forget_s=10.0) == (0, 0.0)
        assert accounts.failed(conn, "ada", now=50.0, forget_s=10.0) == 1
        accounts.forgive(conn, "ada")
        assert accounts.failures(conn, "ada", now=50.0, forget_s=10.0) == (0, 0.0)


def told(at: float, **more: Any) -> Told:
    return Told("d", {"time": at, "event": "model_failed", **more}, at)


def test_an_event_that_comes_again_is_one(database: Engine) -> None:
    some = [
        told(1.0),
        told(1.0, model="press"),
        told(2.0, error={"code": "c\0", "message": "m" * 900}),
    ]
    with database.begin() as conn:
        assert events.note(conn, [*some, some[0]]) == 3
        assert events.note(conn, some) == 0
        assert events.note(conn, []) == 0
        newest = events.newest(conn)
        assert [each.time for each in newest] == [2.0, 1.0, 1.0]
        assert (newest[0].code, len(newest[0].message)) == ("c\ufffd", 500)
        assert events.last_id(conn) == newest[0].id
        assert events.newest(conn, device="e") == []
        assert events.newest(conn, after=newest[1].id) == newest[:1]
        assert events.newest(conn, before=newest[0].id, limit=1) == newest[1:2]
        events.prune(conn, 1.5 + events.KEPT_S)
        assert events.newest(conn) == newest[:1]
        events.prune(conn, 9.0 + events.KEPT_S)
        events.note(conn, [told(3.0)])
        assert events.last_id(conn) > newest[0].id  # numbers are not given twice


def result(name: str = "r1", at: float = 5.0, **more: Any) -> Sent:
    message: dict[str, Any] = {
        "id": name,
        "device": "d",
        "source": "line-1",
        "time_in": at,
        "task": "anomaly",
        "model": {"name": "press", "version": 2, "hash": "0" * 64},
        "label": "anomaly",
        "score": 1.5,
        **more,
    }
    return Sent(more.get("device", "d"), message, at)


def test_a_result_that_comes_again_is_one(database: Engine) -> None:
    error = result("r9")
    with database.begin() as conn:
        assert evidence.keep(conn, [result(), result(), result("r2", text="t\0", key="k")]) == 2
        assert evidence.keep(conn, [result(label="normal")]) == 0
        assert evidence.keep(conn, [result(device="e")]) == 1  # cannot take the place of another's
        del error.message["label"]  # type: ignore[attr-defined]
        assert evidence.keep(conn, [error]) == 0
        [first, *_] = evidence.find(conn, device="d")
        assert (first.label, first.version, first.text) == ("anomaly", 2, "t\ufffd")
        assert len(evidence.find(conn, model="press", label="anomaly")) == 3
        assert evidence.find(conn, label="normal") == []


def test_evidence_is_read_in_pages_and_judged_and_forgotten(database: Engine) -> None:
    with database.begin() as conn:
        evidence.keep(conn, [result(f"r{n:04}", at=float(n // 3)) for n in range(1200)])
        first = evidence.find(conn, limit=700)
        rest = evidence.find(conn, before=(first[-1].at, first[-1].id), limit=700)
        assert len({each.id for each in (*first, *rest)}) == 1200
        found = list(evidence.collected(conn, "press", since=100.0, until=300.0))
        assert len(found) == 600
        assert found == sorted(found, key=lambda each: (each.at, each.id))
        assert list(evidence.collected(conn, "valve")) == []
        assert evidence.judge(conn, found[0].id, "normal", by="ada", now=9.0)
        assert not evidence.judge(conn, "nothing", "normal", by="ada", now=9.0)
        assert evidence.labels(conn, "press", since=0.0) == {(2, "anomaly"): 1200}
        evidence.prune(conn, 1e9 + evidence.KEPT_S)
        [left] = evidence.find(conn)
        assert (left.id, left.judged, left.judged_by) == (found[0].id, "normal", "ada")
        evidence.judge(conn, left.id, None, by="ada", now=10.0)
        [left] = evidence.find(conn)
        assert (left.judged, left.judged_by, left.judged_at) == (None, None, None)
