"""Floors only rise, unless the keys that raised them are gone; and no time is believed lightly."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.fleet import Assignment, BlockList, BundleOffer, OfferedVariant
from edgeslm.core.trust import (
    MAX_SKEW_S,
    ROOT,
    AssignmentDeviceError,
    AssignmentExpiredError,
    AssignmentFloor,
    AssignmentReplayedError,
    ClockUntrustedError,
    Floors,
    FloorsDamagedError,
    RollbackRefusedError,
    TrustMalformedError,
    TrustMismatchError,
    block_list,
    check_assignment,
    decode_floors,
    encode_floors,
    raise_assignment,
    raise_role,
    raise_time,
    settle,
    time_floor,
)

names = st.sampled_from([ROOT, "timestamp", "model-press"])
keys = st.sets(st.sampled_from("abcd"), min_size=1, max_size=3)
versions = st.integers(1, 20)
times = st.floats(0, 4e9)
HASH = "0" * 64


@given(st.lists(st.tuples(names, versions, keys), max_size=30))
def test_a_roles_floor_falls_only_with_all_keys_that_raised_it(
    steps: list[tuple[str, int, set[str]]],
) -> None:
    floors = Floors()
    for role, version, by in steps:
        was = floors.roles.get(role)
        try:
            floors = raise_role(floors, role, version, by)
        except RollbackRefusedError:
            assert was is not None
            assert version < was.version
            assert role == ROOT or set(was.keys) & by
            assert floors.roles[role] == was
            continue
        now = floors.roles[role]
        assert (now.version, set(now.keys)) == (version, by)
        if was is not None and version < was.version:
            assert role != ROOT
            assert not set(was.keys) & by


@given(st.lists(st.tuples(times, keys), max_size=30))
def test_the_time_floor_falls_only_with_all_keys_that_raised_it(
    steps: list[tuple[float, set[str]]],
) -> None:
    floors = Floors()
    for time, by in steps:
        was = time_floor(floors, by)
        floors = raise_time(floors, time, by)
        assert time_floor(floors, by) == max(was, time)
        assert time_floor(floors, {"z"}) == 0.0


def assignment(seq: int, **more: Any) -> Assignment:
    return Assignment(**{"schema": 1, "device": "d", "seq": seq, "issued": 1, "expires": 9, **more})


@given(st.lists(st.tuples(versions, st.sampled_from("01"), keys), max_size=30))
def test_an_assignments_number_only_grows(steps: list[tuple[int, str, set[str]]]) -> None:
    floors = Floors()
    for seq, digit, by in steps:
        was = floors.assignment
        signed = AssignmentFloor(seq=seq, sha256=digit * 64, keys=tuple(sorted(by)))
        counts = was is not None and bool(set(was.keys) & by)
        try:
            check_assignment(assignment(seq), signed, device="d", now=5, floors=floors)
        except AssignmentReplayedError:
            assert was is not None
            assert counts
            assert seq < was.seq or (seq == was.seq and signed.sha256 != was.sha256)
            continue
        floors = raise_assignment(floors, signed)
        assert floors.assignment == signed
        if was is not None and counts:
            assert seq > was.seq or (seq == was.seq and signed.sha256 == was.sha256)


@pytest.mark.parametrize(
    ("device", "now", "error"),
    [
        ("other", 5.0, AssignmentDeviceError),
        ("d", 9.0, AssignmentExpiredError),
        ("d", 10.0, AssignmentExpiredError),
    ],
)
def test_an_assignment_is_for_one_device_and_for_its_time(
    device: str, now: float, error: type[Exception]
) -> None:
    signed = AssignmentFloor(seq=1, sha256=HASH, keys=("a",))
    with pytest.raises(error):
        check_assignment(assignment(1), signed, device=device, now=now, floors=Floors())


def some_floors() -> Floors:
    floors = raise_time(raise_role(Floors(), "root", 3, {"a", "b"}), 12.5, {"t"})
    return raise_assignment(floors, AssignmentFloor(seq=7, sha256=HASH, keys=("d",)))


def test_floors_come_back_as_they_were() -> None:
    assert decode_floors(encode_floors(some_floors())) == some_floors()
    assert decode_floors(encode_floors(Floors())) == Floors()


@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_is_seen(place: int, bit: int) -> None:
    raw = bytearray(encode_floors(some_floors()))
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(FloorsDamagedError):
        decode_floors(bytes(raw))


@pytest.mark.parametrize("raw", [b"", b"{}", b"\0" * 400, b"null", b"[" * 5000, b'{"floors":1}'])
def test_what_is_no_floors_is_never_taken_for_none(raw: bytes) -> None:
    with pytest.raises(FloorsDamagedError):
        decode_floors(raw)


@given(times, st.floats(0, 1e6), st.floats(0, 1e6), times)
def test_a_signed_time_goes_on_with_the_monotonic_clock(
    signed: float, asked: float, passed: float, floor: float
) -> None:
    now = signed + ((asked + passed) - asked)
    if now < floor - MAX_SKEW_S:
        with pytest.raises(ClockUntrustedError):
            settle(floor=floor, monotonic=asked + passed, signed=(signed, asked))
        return
    # Whatever the system's clock says.
    for wall in (None, 0.0, 4e9):
        found = settle(floor=floor, monotonic=asked + passed, signed=(signed, asked), wall=wall)
        assert found == max(now, floor)


@given(times, times)
def test_the_systems_clock_counts_only_where_it_may_and_from_the_floor_on(
    wall: float, floor: float
) -> None:
    with pytest.raises(ClockUntrustedError):
        settle(floor=floor, monotonic=1.0)
    if wall < floor:
        with pytest.raises(ClockUntrustedError, match="set the clock"):
            settle(floor=floor, monotonic=1.0, wall=wall)
    else:
        assert settle(floor=floor, monotonic=1.0, wall=wall) == wall


def listed(**changed: Any) -> tuple[bytes, BundleOffer]:
    files = [
        {"path": "manifest.json", "size": 5, "sha256": HASH},
        {"path": "model.onnx", "size": 7, "sha256": "1" * 64},
    ]
    listing = BlockList.model_validate({"bundle": HASH, "files": files}, strict=False)
    offer = BundleOffer(
        **{
            "model": "press",
            "version": 1,
            "bundle": HASH,
            "task": "intent",
            "variants": (OfferedVariant(),),
            "size": 12,
            **changed,
        }
    )
    return listing.model_dump_json(exclude_defaults=True).encode(), offer


def test_a_block_list_is_of_its_offer() -> None:
    raw, offer = listed()
    digest = hashlib.sha256(raw).hexdigest()
    whole = block_list(raw, offer=offer, sha256=digest, length=len(raw))
    assert [file.path for file in whole.files] == ["manifest.json", "model.onnx"]
    for wrong in ({"sha256": HASH, "length": len(raw)}, {"sha256": digest, "length": 1}):
        with pytest.raises(TrustMismatchError):
            block_list(raw, offer=offer, **wrong)  # type: ignore[arg-type]
    for changed in ({"bundle": "2" * 64}, {"size": 13}):
        _, other = listed(**changed)
        with pytest.raises(TrustMismatchError, match="another bundle"):
            block_list(raw, offer=other, sha256=digest, length=len(raw))
    garbage = b'{"bundle": 1}'
    digest = hashlib.sha256(garbage).hexdigest()
    with pytest.raises(TrustMalformedError):
        block_list(garbage, offer=offer, sha256=digest, length=len(garbage))
