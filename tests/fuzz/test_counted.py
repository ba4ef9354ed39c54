"""Ten thousand mutants of each kind that reaches a device: none is accepted, each has its error.

A mutant means something else than the valid input (tests/fuzz/meaning.py); accepted is what was
installed, kept, believed or carried out. By default a few hundred of each, so that `make test`
stays quick; `-k 10000 -m slow -s` runs all, and prints what refused them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest
from securesystemslib.signer import SSlibKey

from edgeslm.adapters import delta
from edgeslm.adapters.blocks import FileDownload
from edgeslm.agent import intake
from edgeslm.contract.control import Query
from edgeslm.runtime.bundle import open_bundle
from edgeslm.updater import install
from tests.fuzz import judges
from tests.fuzz.counting import SHOWN, Case, Tally, count
from tests.fuzz.judged_sockets import sockets

KINDS: Final[dict[str, Callable[[Path], AbstractContextManager[list[Case]]]]] = {
    "bundles": judges.bundles,
    "metadata": judges.metadata,
    "blocks": judges.blocks,
    "deltas": judges.deltas,
    "sockets": sockets,
}
FEW: Final = 210
ALL: Final = 10_000
# Of these a device would say that it is the disk's fault: then nothing was judged.
OF_THE_DISK: Final = {"disk.full", "slots.unavailable", "updater.running"}


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here; flushing ten thousand installs would take most of the time."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


def tallies(kind: str, folder: Path, wanted: int) -> Iterator[Tally]:
    """Yield what became of at least `wanted` mutants of a kind, shared among its cases."""
    with KINDS[kind](folder) as cases:
        for case in cases:
            tally = count(case, -(-wanted // len(cases)))
            print(tally)  # noqa: T201 -- the figures are what is wanted of a long run
            yield tally


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wanted", [FEW, pytest.param(ALL, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_none_is_accepted_and_each_has_its_error(kind: str, wanted: int, tmp_path: Path) -> None:
    found = list(tallies(kind, tmp_path, wanted))
    examples = [(tally.name, *each) for tally in found for each in tally.examples[:SHOWN]]
    accepted = sum(tally.accepted for tally in found)
    untyped = sum(tally.untyped for tally in found)
    assert (accepted, untyped) == (0, 0), examples
    assert sum(tally.mutated for tally in found) >= wanted
    assert not OF_THE_DISK & {code for tally in found for code in tally.refusals}


def skip_hashes_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_is_whole", lambda path, _: path.is_file())
    monkeypatch.setattr(install, "open_bundle", lambda path, **_: open_bundle(path, verify=False))


def skip_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SSlibKey, "verify_signature", lambda *_: None)


def skip_hashes_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    put = FileDownload.put

    def unchecked(self: FileDownload, block: int, data: bytes) -> bool:
        self._hashes = []
        return put(self, block, data)

    monkeypatch.setattr(FileDownload, "put", unchecked)


def skip_the_hash_of_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "_write", lambda pieces, taken, *_: taken.writelines(pieces))


def obey_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "parse", lambda _: Query())


BROKEN: Final = {
    "bundles": skip_hashes_of_files,
    "metadata": skip_signatures,
    "blocks": skip_hashes_of_blocks,
    "deltas": skip_the_hash_of_the_outcome,
    "sockets": obey_anybody,
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_check_a_device_is_seen_to_accept_mutants(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BROKEN[kind](monkeypatch)
    found = list(tallies(kind, tmp_path, FEW))
    assert sum(tally.accepted for tally in found) > 0
    assert not sum(tally.untyped for tally in found)


def test_what_raises_an_error_of_no_kind_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody forgets that JSON may be none."""
    parse = intake.parse
    monkeypatch.setattr(intake, "parse", lambda line: json.loads(line or b"") and parse(line))
    [orders, *others] = tallies("sockets", tmp_path, FEW)
    assert orders.untyped > 0
    assert not sum(tally.untyped for tally in others)
