"""Batches: all or none, every wrong line named, and the same command again goes on."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from edgeslm.fleet import enrolment
from edgeslm.fleet.database import identities as database
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.schema import identities
from edgeslm.fleet.enrolment import BatchError, EnrolledError, Wanted, read_batch, read_tokens
from edgeslm.fleet.repository import Repository
from tests.commands import here
from tests.fleet import kit as fleet_kit
from tests.provision.kit import WE, Fleet

KEY = "ab" * 32


def read(text: str) -> list[Wanted]:
    return read_batch(text.encode(), file="batch.csv")


def test_a_batch_has_tokens_and_factory_keys() -> None:
    found = read(f'device,factory_key\npress-1,\npress-2,{KEY}\n\n"press-3",sha256:{KEY[::-1]}\n')
    assert found == [
        Wanted("press-1", None, 2),
        Wanted("press-2", KEY, 3),
        Wanted("press-3", KEY[::-1], 5),
    ]
    assert read("\ufeffdevice\na\n") == [Wanted("a", None, 2)]


def test_every_wrong_line_is_named() -> None:
    lines = (
        "ok,",
        "/bad,",
        "d3,nothex",
        f"d4,{KEY},x",
        "twice,",
        "twice,",
        f"d7,{KEY}",
        f"d8,{KEY}",
    )
    text = "\n".join(("device,factory_key", *lines))
    with pytest.raises(BatchError) as caught:
        read(text)
    fields = [field for field, _ in caught.value.problems]
    assert fields == [f"line {n}" for n in (3, 4, 5, 6, 7, 8, 9)]
    assert caught.value.exit_status == 65


@pytest.mark.parametrize("name", ["edgeslm-fleet", "edgeslm-provision", "EdgeSLM", "unprovisioned"])
def test_names_of_who_is_no_device_are_not_given(name: str) -> None:
    with pytest.raises(BatchError, match=r"no device's: ids that begin with edgeslm"):
        read(f"{name}\n")


@pytest.mark.parametrize("text", ["", "device\n", 'a,"b\n', "a\x00b\n"])
def test_what_is_no_batch(text: str) -> None:
    with pytest.raises(BatchError):
        read(text)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_batch_or_an_error(raw: bytes) -> None:
    try:
        found = read_batch(raw, file="x")
    except BatchError:
        return
    assert found
    assert len({each.device for each in found}) == len(found)


def rows(fleet: Fleet) -> list[Any]:
    with reading(fleet.engine) as conn:
        return list(conn.execute(select(identities).order_by(identities.c.device)))


def enrol(fleet: Fleet, *wanted: Wanted, **more: Any) -> enrolment.Done:
    said = {"actor": WE, "now": fleet.clock.now, "days": 30.0, **more}
    return enrolment.enrol(fleet.engine, wanted, **said)


def test_all_or_none(fleet: Fleet, tmp_path: Path) -> None:
    enrol(fleet, Wanted("taken", KEY))
    before = rows(fleet)
    for batch in ([Wanted("new"), Wanted("taken")], [Wanted("new"), Wanted("other", KEY)]):
        with pytest.raises(EnrolledError):
            enrol(fleet, *batch, to=tmp_path / "tokens")
        assert rows(fleet) == before


def test_a_batch_that_was_killed_before_the_database_knew_goes_on(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "tokens.csv"
    batch = [Wanted("a"), Wanted("b"), Wanted("c", KEY)]

    class KilledError(Exception):
        pass

    def dies(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(database, "enrol", dies)
        with pytest.raises(KilledError):
            enrol(fleet, *batch, to=to)
    assert rows(fleet) == []
    written = to.read_text()
    assert to.stat().st_mode & 0o777 == 0o600
    done = enrol(fleet, *batch, to=to)
    assert (done.new, done.same, to.read_text()) == (3, 0, written)
    after = rows(fleet)
    done = enrol(fleet, *batch, Wanted("d"), to=to)
    assert (done.new, done.same) == (1, 3)
    assert rows(fleet)[:3] == after
    assert to.read_text().startswith(written)
    assert set(read_tokens(to)) == {"a", "b", "d"}


def test_two_that_write_tokens_to_one_file_forget_none(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "tokens.csv"
    writes = threading.Event()
    real = enrolment._write  # noqa: SLF001 -- to stop there

    def slowly(file: Path, tokens: dict[str, str]) -> None:
        writes.set()
        time.sleep(0.5)  # what the other has read by now is old when this is done
        real(file, tokens)

    monkeypatch.setattr(enrolment, "_write", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(enrol, fleet, Wanted("a"), to=to)
        assert writes.wait(10)
        second = pool.submit(enrol, fleet, Wanted("b"), to=to)
        made = first.result().tokens | second.result().tokens
    assert read_tokens(to) == made
    assert set(made) == {"a", "b"}


def test_again_gives_another_token_once(fleet: Fleet, tmp_path: Path) -> None:
    to = tmp_path / "tokens.csv"
    first = enrol(fleet, Wanted("a"), to=to).tokens
    assert enrol(fleet, Wanted("a"), to=to, again=True).tokens == first  # it is good still
    enrolment.revoke(fleet.engine, ["a"], actor=WE, now=fleet.clock.now)
    with pytest.raises(EnrolledError):
        enrol(fleet, Wanted("a"), to=to)
    second = enrol(fleet, Wanted("a"), to=to, again=True).tokens
    assert second != first
    assert read_tokens(to) == second


def test_a_file_that_holds_no_tokens_is_left_alone(fleet: Fleet, tmp_path: Path) -> None:
    to = tmp_path / "notes.txt"
    to.write_text("mine\n")
    with pytest.raises(BatchError, match="left alone"):
        enrol(fleet, Wanted("a"), to=to)
    assert to.read_text() == "mine\n"
    assert rows(fleet) == []


def test_the_command(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_FLEET_PASSPHRASE", fleet_kit.PASSPHRASE)
    at = ("--repository", str(repository.folder))
    batch, to = tmp_path / "b.csv", tmp_path / "tokens.csv"
    batch.write_text(f"device,factory_key\npress-1,\npress-2,{KEY}\n")
    done = here("fleet", "enroll", *at, "--csv", str(batch))
    assert (done.returncode, "--to" in done.stderr) == (65, True)
    done = here("fleet", "enroll", *at, "--csv", str(batch), "--to", str(to))
    assert (done.returncode, "2 devices enrolled" in done.stdout) == (0, True), done.stderr
    assert "authority" in done.stderr
    token = read_tokens(to)["press-1"]
    assert token not in done.stdout + done.stderr
    done = here("fleet", "enroll", *at, "--list", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["device"], each["state"]) for each in found] == [
        ("press-1", "waiting"),
        ("press-2", "waiting"),
    ]
    done = here("fleet", "revoke", *at, "press-1", "nobody")
    assert (done.returncode, "[fleet.unknown_device]" in done.stderr) == (65, True)
    assert here("fleet", "revoke", *at, "press-1").returncode == 0
    done = here("fleet", "broker-config", *at)
    assert "user press-1\ntopic deny #" in done.stdout
    for option in ("--viewer", "--service"):
        done = here("fleet", "broker-config", *at, option, "press-2")
        assert (done.returncode, "press-2: an enrolled device" in done.stderr) == (65, True)
    for kind, head in (("ca", "-----BEGIN CERTIFICATE"), ("crl", "-----BEGIN X509 CRL")):
        assert here("fleet", "broker-config", *at, "--kind", kind).stdout.startswith(head)
