"""Whatever a hostile repository serves is refused, by name; the floors stay, and the truth heals.

Each attack is tried on a device as it is and on one that lost TUF's cache to a power cut.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edgeslm.adapters.dsse import seal
from edgeslm.adapters.tuf import METADATA, Trust
from edgeslm.adapters.tuf_client import MAX_METADATA_BYTES
from edgeslm.contract.fleet import ASSIGNMENT, TIME, TIME_KEYS, Assignment
from edgeslm.core.trust import settle
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.rotation import list_keys
from tests.adapters.hostile import (
    DEVICE,
    MODEL,
    NONCE,
    Edit,
    Files,
    Fleet,
    compact,
    floors,
    make_fleet,
    sign,
    stranger,
    take_time,
)
from tests.fleet import kit
from tests.fleet.kit import replace_key

Attack = Callable[[Fleet], Files]
ATTACKS: dict[str, tuple[Attack, str]] = {}
MALFORMED: dict[str, tuple[Attack, str]] = {}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return make_fleet(tmp_path_factory.mktemp("other"))


def attack(code: str) -> Callable[[Attack], Attack]:
    def note(function: Attack) -> Attack:
        ATTACKS[function.__name__] = (function, code)
        return function

    return note


def malformed(code: str = "trust.malformed") -> Callable[[Attack], Attack]:
    def note(function: Attack) -> Attack:
        MALFORMED[function.__name__] = (function, code)
        return function

    return note


def use(trust: Trust, now: float) -> set[int]:
    """Do all that a device does with a repository; return the versions that it could install."""
    trust.walk_roots()
    trust.refresh(now)
    return {offer.bundle.version for offer in trust.offers("press")}


def stamp(files: Files) -> dict[str, Any]:
    signed: dict[str, Any] = json.loads(files["timestamp.json"])["signed"]
    return signed


def name_of(files: Files, role: str) -> str:
    """Return the file of a role that `files` lead to."""
    shot = f"{stamp(files)['meta']['snapshot.json']['version']}.snapshot.json"
    if role == "snapshot":
        return shot
    meta = json.loads(files[shot])["signed"]["meta"]
    return f"{meta[f'{role}.json']['version']}.{role}.json"


def long_ago(signed: dict[str, Any]) -> None:
    signed["expires"] = "2027-01-01T00:00:00Z"


def setting(**values: Any) -> Edit:
    return lambda signed: signed.update(values)


# Attacks on the whole.


@attack("trust.signature")
def bit_flip_in_the_timestamp(fleet: Fleet) -> Files:
    raw = fleet.newest["timestamp.json"].replace(
        b'"spec_version":"1.0.31"', b'"spec_version":"1.0.30"'
    )
    assert raw != fleet.newest["timestamp.json"]
    return {**fleet.newest, "timestamp.json": raw}


@attack("trust.mismatch")
def bit_flip_in_the_snapshot(fleet: Fleet) -> Files:
    name = name_of(fleet.newest, "snapshot")
    return {**fleet.newest, name: fleet.newest[name].replace(b"1.0.31", b"1.0.30")}


@attack("trust.mismatch")
def bit_flip_in_targets(fleet: Fleet) -> Files:
    files = fleet.forge(fleet.newest, again=["targets"])
    name = name_of(files, "targets")
    return {**files, name: files[name].replace(b'"terminating":true', b'"terminating":null', 1)}


@attack("trust.malformed")
def truncated_timestamp(fleet: Fleet) -> Files:
    return {**fleet.newest, "timestamp.json": fleet.newest["timestamp.json"][:-40]}


@attack("trust.malformed")
def truncated_model_role(fleet: Fleet) -> Files:
    name = name_of(fleet.newest, MODEL)
    return {**fleet.newest, name: fleet.newest[name][:-1]}


@attack("trust.malformed")
def empty_timestamp(fleet: Fleet) -> Files:
    return {**fleet.newest, "timestamp.json": b""}


@attack("trust.malformed")
def endless_timestamp(fleet: Fleet) -> Files:
    return {**fleet.newest, "timestamp.json": fleet.newest["timestamp.json"] + b" " * 10_000_000}


@attack("trust.malformed")
def endless_snapshot(fleet: Fleet) -> Files:
    name = name_of(fleet.newest, "snapshot")
    return {**fleet.newest, name: fleet.newest[name] + b" "}


@attack("trust.malformed")
def endless_root(fleet: Fleet) -> Files:
    return {**fleet.newest, "3.root.json": b"[" * 10_000_000}


@attack("trust.malformed")
def a_length_without_bound_and_signed(fleet: Fleet) -> Files:
    def grow(signed: dict[str, Any]) -> None:
        signed["meta"]["snapshot.json"]["length"] = 2**60

    files = fleet.forge(fleet.newest, {"timestamp": grow})
    return {**files, name_of(files, "snapshot"): b'{"a":"' + b"x" * 5_000_000}


@attack("trust.signature")
def unsigned_timestamp(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"timestamp": []})


@attack("trust.signature")
def unsigned_root(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"root": []})


@attack("trust.signature")
def timestamp_signed_by_the_snapshots_key(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"timestamp": ["snapshot"]})


@attack("trust.foreign")
def timestamp_signed_by_a_stranger(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"timestamp": [stranger()]})


@attack("trust.signature")
def a_strangers_signature_under_a_known_id(fleet: Fleet) -> Files:
    thief = stranger()
    thief.public_key.keyid = fleet.signer("timestamp-2").public_key.keyid
    return fleet.forge(fleet.newest, by={"timestamp": [thief]})


@attack("trust.signature")
def a_revoked_key_signs_a_newer_timestamp(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"timestamp": ["timestamp"]})


@attack("trust.rollback")
def rollback_of_all(fleet: Fleet) -> Files:
    return fleet.before


@attack("trust.rollback")
def rollback_of_the_snapshot(fleet: Fleet) -> Files:
    """The timestamp's key is stolen: a newer timestamp leads to an older snapshot."""
    old = stamp(fleet.before)["meta"]
    return {
        **fleet.newest,
        **fleet.before,
        "timestamp.json": sign(
            {**stamp(fleet.newest), "version": stamp(fleet.newest)["version"] + 1, "meta": old},
            [fleet.signer("timestamp-2")],
        ),
    }


@attack("trust.rollback")
def rollback_of_targets(fleet: Fleet) -> Files:
    """The keys of timestamp and snapshot are stolen: targets as it was before the models."""

    def older(signed: dict[str, Any]) -> None:
        signed["meta"]["targets.json"] = {"version": 1}

    return fleet.forge(
        {**fleet.newest, "1.targets.json": fleet.first["3.targets.json"]}, {"snapshot": older}
    )


@attack("trust.rollback")
def rollback_of_a_model(fleet: Fleet) -> Files:
    def older(signed: dict[str, Any]) -> None:
        signed["meta"][f"{MODEL}.json"] = {"version": 1}

    return fleet.forge({**fleet.newest, **fleet.first, **fleet.newest}, {"snapshot": older})


@attack("trust.mismatch")
def mix_of_a_new_timestamp_and_an_old_snapshot(fleet: Fleet) -> Files:
    old = fleet.seen[name_of(fleet.seen, "snapshot")]
    return {**fleet.newest, name_of(fleet.newest, "snapshot"): old}


@attack("trust.mismatch")
def mix_of_a_new_snapshot_and_an_old_model(fleet: Fleet) -> Files:
    old = fleet.seen[name_of(fleet.seen, MODEL)]
    return {**fleet.newest, name_of(fleet.newest, MODEL): old}


@attack("trust.mismatch")
def the_role_of_another_model(fleet: Fleet) -> Files:
    valve = fleet.newest[name_of(fleet.newest, "model-valve")]
    return {**fleet.newest, name_of(fleet.newest, MODEL): valve}


@attack("trust.malformed")
def a_snapshot_in_the_timestamps_place(fleet: Fleet) -> Files:
    return {**fleet.newest, "timestamp.json": fleet.newest[name_of(fleet.newest, "snapshot")]}


@attack("trust.mismatch")
def the_snapshots_key_stolen_alone(fleet: Fleet) -> Files:
    forged = fleet.forge(fleet.newest, {"snapshot": long_ago})
    name = name_of(fleet.newest, "snapshot")
    return {**fleet.newest, name: forged[name_of(forged, "snapshot")]}


@attack("trust.foreign")
def the_timestamps_key_stolen_alone(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"snapshot": [stranger()]})


@attack("trust.foreign")
def both_online_keys_stolen_and_targets_forged(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"targets": [stranger()]})


@attack("trust.signature")
def both_online_keys_stolen_and_a_model_forged_by_another_models_key(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={MODEL: ["model-valve"]})


@attack("trust.malformed")
def a_role_missing_from_the_snapshot(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, {"snapshot": lambda s: s["meta"].pop(f"{MODEL}.json")})


@attack("trust.malformed")
def targets_missing_from_the_snapshot(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, {"snapshot": lambda s: s["meta"].pop("targets.json")})


@attack("trust.signature")
def root_signed_by_one_of_three(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, by={"root": ["root-1"]})


@attack("trust.signature")
def root_signed_twice_by_one_of_three(fleet: Fleet) -> Files:
    files = fleet.forge(fleet.newest, by={"root": ["root-1"]})
    return {**files, "3.root.json": _twice(files["3.root.json"])}


def _twice(raw: bytes) -> bytes:
    """The one signature again, under the id of another of root's keys."""
    root = json.loads(raw)
    first = root["signatures"][0]
    others = [k for k in root["signed"]["roles"]["root"]["keyids"] if k != first["keyid"]]
    root["signatures"].append({**first, "keyid": others[0]})
    return compact(root)


@attack("trust.foreign")
def root_signed_by_its_own_new_keys_alone(fleet: Fleet) -> Files:
    thieves = [stranger(), stranger()]

    def take_over(signed: dict[str, Any]) -> None:
        for thief in thieves:
            signed["keys"][thief.public_key.keyid] = thief.public_key.to_dict()
        signed["roles"]["root"]["keyids"] = [t.public_key.keyid for t in thieves]

    return fleet.forge(fleet.newest, {"root": take_over}, by={"root": thieves})


@attack("trust.signature")
def root_that_its_new_keys_did_not_sign(fleet: Fleet) -> Files:
    thief = stranger()

    def add_key(signed: dict[str, Any]) -> None:
        signed["keys"][thief.public_key.keyid] = thief.public_key.to_dict()
        signed["roles"]["root"] = {"keyids": [thief.public_key.keyid], "threshold": 1}

    return fleet.forge(fleet.newest, {"root": add_key})


@attack("trust.rollback")
def root_that_skips_a_version(fleet: Fleet) -> Files:
    return fleet.forge(fleet.newest, {"root": setting(version=4)})


@attack("trust.rollback")
def root_with_a_lower_version(fleet: Fleet) -> Files:
    return {**fleet.newest, "3.root.json": fleet.newest["1.root.json"]}


@attack("trust.rollback")
def root_of_the_same_version(fleet: Fleet) -> Files:
    return {**fleet.newest, "3.root.json": fleet.newest["2.root.json"]}


@attack("trust.expired")
def freeze_of_what_was_seen(fleet: Fleet) -> Files:
    return fleet.forge(fleet.seen, {"timestamp": long_ago})


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", MODEL])
def test_an_expired_role_is_refused(fleet: Fleet, role: str, tmp_path: Path) -> None:
    trust, shelf = fleet.device(tmp_path / "d")
    shelf.files = fleet.forge(fleet.newest, {role: long_ago})
    if role == "root":  # the chain holds, expired or not, and goes on from there
        with pytest.raises(EdgeSLMError) as caught:
            use(trust, fleet.clock())
        assert caught.value.code == "trust.expired"
        shelf.files = fleet.forge(shelf.files, {"root": setting(expires="2099-01-01T00:00:00Z")})
        assert use(trust, fleet.clock()) == {1, 2, 3}
        return
    refused(fleet, trust, shelf, tmp_path / "d", "trust.expired")


@attack("trust.unavailable")
def no_timestamp_at_all(fleet: Fleet) -> Files:
    return {file: raw for file, raw in fleet.newest.items() if file != "timestamp.json"}


@attack("trust.unavailable")
def no_snapshot_where_one_is_named(fleet: Fleet) -> Files:
    name = name_of(fleet.newest, "snapshot")
    return {file: raw for file, raw in fleet.newest.items() if file != name}


@attack("trust.malformed")
def a_model_outside_its_paths(fleet: Fleet) -> Files:
    def stray(signed: dict[str, Any]) -> None:
        path, target = next(iter(signed["targets"].items()))
        signed["targets"][path.replace("press/", "valve/")] = target

    return fleet.forge(fleet.newest, {MODEL: stray})


@attack("trust.malformed")
def a_target_that_says_another_version_than_its_path(fleet: Fleet) -> Files:
    def lie(signed: dict[str, Any]) -> None:
        next(iter(signed["targets"].values()))["custom"]["version"] = 99

    return fleet.forge(fleet.newest, {MODEL: lie})


@attack("trust.malformed")
def a_target_without_a_sha256(fleet: Fleet) -> Files:
    def weaken(signed: dict[str, Any]) -> None:
        next(iter(signed["targets"].values()))["hashes"] = {"md5": "0" * 32}

    return fleet.forge(fleet.newest, {MODEL: weaken})


@attack("trust.malformed")
def a_target_of_endless_length(fleet: Fleet) -> Files:
    def grow(signed: dict[str, Any]) -> None:
        next(iter(signed["targets"].values()))["length"] = 2**50

    return fleet.forge(fleet.newest, {MODEL: grow})


# Metadata that are none, signed by the keys that should sign them wherever they have a signature.


def root_with(edit: Edit) -> Attack:
    return lambda fleet: fleet.forge(fleet.newest, {"root": edit})


def _raw(raw: bytes) -> Attack:
    return lambda fleet: {**fleet.newest, "timestamp.json": raw}


def _outer(edit: Callable[[dict[str, Any]], object]) -> Attack:
    def change(fleet: Fleet) -> Files:
        whole = json.loads(fleet.newest["timestamp.json"])
        edit(whole)
        return {**fleet.newest, "timestamp.json": compact(whole)}

    return change


def _duplicate_json_key(fleet: Fleet) -> Files:
    raw = fleet.newest["timestamp.json"]
    return {**fleet.newest, "timestamp.json": raw.replace(b'"_type"', b'"version":99,"_type"', 1)}


def _one_key_under_two_ids(fleet: Fleet) -> Files:
    twin = SSlibKey.from_dict("f" * 64, fleet.signer("root-1").public_key.to_dict())

    def pair(signed: dict[str, Any]) -> None:
        upper = {**twin.to_dict(), "keyval": {"public": twin.keyval["public"].upper()}}
        signed["keys"][twin.keyid] = upper
        signed["roles"]["root"]["keyids"].append(twin.keyid)

    return fleet.forge(fleet.newest, {"root": pair})


def _role(role: str, **values: Any) -> Attack:
    return lambda fleet: fleet.forge(fleet.newest, {role: setting(**values)})


def _delegation(**values: Any) -> Attack:
    return lambda fleet: fleet.forge(
        fleet.newest, {"targets": lambda s: s["delegations"]["roles"][0].update(values)}
    )


def _director(value: Any) -> Attack:
    return lambda fleet: fleet.forge(
        fleet.newest, {"targets": lambda s: s["targets"]["director.json"].update(custom=value)}
    )


MALFORMED |= {
    name: (made, "trust.malformed")
    for name, made in {
        "not JSON": _raw(b"timestamp"),
        "not UTF-8": _raw(b'{"signed":"\xff"}'),
        "null": _raw(b"null"),
        "a list": _raw(b"[]"),
        "nested without end": _raw(b"[" * 5000 + b"]" * 5000),
        "a number that is none": _raw(b'{"signed":NaN,"signatures":[]}'),
        "a key twice in an object": _duplicate_json_key,
        "no signatures": _outer(lambda whole: whole.pop("signatures")),
        "nothing signed": _outer(lambda whole: whole.pop("signed")),
        "signatures that are none": _outer(lambda whole: whole.update(signatures=[1])),
        "one key's signature twice": _outer(
            lambda whole: whole["signatures"].append(whole["signatures"][0])
        ),
        "an unknown type": _outer(lambda whole: whole["signed"].update(_type="mirror")),
        "what is signed, left out where it has a default": _outer(
            lambda whole: whole["signed"].update(spec_version=None)
        ),
        "what is signed, written in another way": _outer(
            lambda whole: whole["signed"].update(
                expires=whole["signed"]["expires"].replace("-01-", "-1-")
            )
        ),
        "version 0": _role("timestamp", version=0),
        "a version below 0": _role("timestamp", version=-5),
        "a version beyond all": _role("timestamp", version=2**53 + 1),
        "a version of a thousand digits": _role("timestamp", version=10**1000),
        "a version that is text": _role("timestamp", version="7"),
        "a future specification": _role("timestamp", spec_version="2.0.0"),
        "no specification": _role("timestamp", spec_version="one"),
        "no date": _role("timestamp", expires="tomorrow"),
        "no snapshot": _role("timestamp", meta={}),
        "a snapshot of version 0": _role("timestamp", meta={"snapshot.json": {"version": 0}}),
        "a snapshot of negative length": _role(
            "timestamp", meta={"snapshot.json": {"version": 99, "length": -1}}
        ),
        "root: threshold 0": root_with(lambda s: s["roles"]["root"].update(threshold=0)),
        "root: a threshold that is text": root_with(
            lambda s: s["roles"]["timestamp"].update(threshold="1")
        ),
        "root: a key id twice": root_with(
            lambda s: s["roles"]["root"]["keyids"].append(s["roles"]["root"]["keyids"][0])
        ),
        "root: one key under two ids": _one_key_under_two_ids,
        "root: a role too few": root_with(lambda s: s["roles"].pop("snapshot")),
        "root: a role too many": root_with(
            lambda s: s["roles"].update(mirror=s["roles"]["snapshot"])
        ),
        "root: a key that is none": root_with(lambda s: s["keys"].update(x={"keytype": "x"})),
        "root: nobody signs the time": root_with(lambda s: s.pop(TIME_KEYS)),
        "root: more must sign the time than can": root_with(
            lambda s: s[TIME_KEYS].update(threshold=2)
        ),
        "targets: a delegation named root": _delegation(name="root"),
        "targets: a delegation without a name": _delegation(name=7),
        "targets: two delegations of one name": _delegation(name="model-valve"),
        "targets: a delegation of nothing": _delegation(paths=None),
        "targets: a delegation's threshold 0": _delegation(threshold=0),
        "targets: a delegation of other paths": _delegation(paths=["valve/*/*.json"]),
        "targets: nobody directs": _role("targets", targets={}),
        "targets: a director without keys": _director({"keys": {}, "threshold": 1}),
        "targets: a director that is no key": _director({"keys": {"x": {}}, "threshold": 1}),
        "targets: a director that is text": _director("trust me"),
        "model: targets that are a list": _role(MODEL, targets=[]),
        "model: nothing that this build knows": _role(
            MODEL,
            targets={"press/9/x.json": {"length": 1, "hashes": {"sha256": "0" * 64}, "custom": 1}},
        ),
        "model: a hash of no algorithm": _role(
            MODEL, targets={"press/9/x.json": {"length": 1, "hashes": {}}}
        ),
    }.items()
}


def refused(fleet: Fleet, trust: Trust, shelf: kit.Shelf, folder: Path, code: str) -> None:
    """What is served is refused with `code`; nothing is offered; the truth is taken after it."""
    was = floors_of(folder)
    with pytest.raises(EdgeSLMError) as caught:
        use(trust, fleet.clock())
    assert caught.value.code == code, caught.value
    assert str(caught.value)
    now = floors_of(folder)
    if now != was:  # what leads to a model's role was well signed, and newer; the role was not
        for role in ("timestamp", "snapshot", "targets"):
            assert now["roles"].pop(role)["version"] >= was["roles"].pop(role)["version"]
    assert now == was
    shelf.files = dict(fleet.later)
    assert use(trust, fleet.clock()) == {1, 2, 3}


def floors_of(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(floors(folder))["floors"]
    return held


@pytest.mark.parametrize("zeroed", [False, True], ids=["as it is", "cache lost"])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_is_refused(name: str, zeroed: bool, fleet: Fleet, tmp_path: Path) -> None:  # noqa: FBT001
    made, code = ATTACKS[name]
    trust, shelf = fleet.device(tmp_path / "d", zeroed=zeroed)
    shelf.files = made(fleet)
    refused(fleet, trust, shelf, tmp_path / "d", code)


@pytest.mark.parametrize("zeroed", [False, True], ids=["as it is", "cache lost"])
@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_metadata_are_refused(
    name: str,
    zeroed: bool,  # noqa: FBT001
    fleet: Fleet,
    tmp_path: Path,
) -> None:
    made, code = MALFORMED[name]
    trust, shelf = fleet.device(tmp_path / "d", zeroed=zeroed)
    shelf.files = made(fleet)
    refused(fleet, trust, shelf, tmp_path / "d", code)


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len(ATTACKS) + 5 >= 26  # and five roles that expired
    assert len(MALFORMED) >= 21


# What beats plain TUF.


class _Plain(FetcherInterface):
    def __init__(self, files: Files) -> None:
        self.files = files

    def _fetch(self, url: str) -> Any:
        name = url.removeprefix("/")
        if name not in self.files:
            raise DownloadHTTPError(name, 404)
        return [self.files[name]]


def plain(fleet: Fleet, folder: Path, files: Files, now: float) -> None:
    """Refresh as `tuf.ngclient` does by itself, its clock at `now`."""
    folder.mkdir(exist_ok=True)
    updater = Updater(str(folder), "/", fetcher=_Plain(files), bootstrap=fleet.flashed)
    updater._trusted_set.reference_time = datetime.fromtimestamp(now, UTC)  # noqa: SLF001
    updater.refresh()


def test_a_new_device_whose_clock_is_at_1970_installs_nothing_that_was_frozen(
    fleet: Fleet, tmp_path: Path
) -> None:
    plain(fleet, tmp_path / "plain", fleet.seen, 10.0)  # it would be taken
    frozen = kit.Shelf(fleet.seen)
    trust = Trust(tmp_path / "d", fleet.flashed, frozen)
    trust.walk_roots()
    with pytest.raises(EdgeSLMError, match="no signed time") as caught:
        settle(floor=trust.time_floor, monotonic=5.0)
    assert caught.value.code == "clock.untrusted"
    # The fleet answers, a month later: what is frozen has expired.
    now = take_time(fleet.repository, trust, fleet.clock() + 30 * kit.DAY_S)
    with pytest.raises(EdgeSLMError) as caught:
        trust.refresh(settle(floor=trust.time_floor, monotonic=9.0, signed=(now, 5.0)))
    assert caught.value.code == "trust.expired"
    # Nor does it believe its clock from now on, which is still at 1970.
    for untrusted in (
        lambda: settle(floor=trust.time_floor, monotonic=0, wall=10.0),
        lambda: trust.refresh(10.0),
    ):
        with pytest.raises(EdgeSLMError) as caught:
            untrusted()
        assert caught.value.code == "clock.untrusted"


def test_a_device_that_lost_its_cache_takes_no_rollback(fleet: Fleet, tmp_path: Path) -> None:
    plain(fleet, tmp_path / "plain", fleet.before, fleet.clock())  # it would be taken
    trust, shelf = fleet.device(tmp_path / "d", zeroed=True)
    shelf.files = dict(fleet.before)
    refused(fleet, trust, shelf, tmp_path / "d", "trust.rollback")


def test_a_device_that_lost_its_cache_sees_that_a_root_is_withheld(
    fleet: Fleet, tmp_path: Path
) -> None:
    trust, shelf = fleet.device(tmp_path / "d", zeroed=True)
    shelf.files = dict(fleet.first)
    refused(fleet, trust, shelf, tmp_path / "d", "trust.rollback")


def test_a_revoked_key_is_revoked_where_its_revocation_is_withheld(
    fleet: Fleet, tmp_path: Path
) -> None:
    """All but the root that took the key away is newer than what the device knows."""
    trust, shelf = fleet.device(tmp_path / "d", zeroed=True)
    shelf.files = fleet.forge(fleet.newest, by={"timestamp": ["timestamp"]})
    del shelf.files["2.root.json"]
    plain(fleet, tmp_path / "plain", shelf.files, fleet.clock())  # it would be taken
    refused(fleet, trust, shelf, tmp_path / "d", "trust.rollback")


@pytest.mark.parametrize("left", [b"", b"\0" * 4096, b"{", b"\xff" * 100])
def test_a_damaged_cache_is_fetched_anew(left: bytes, fleet: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    for file in (tmp_path / "d" / METADATA).rglob("*.json"):
        file.write_bytes(left)
    assert use(trust, fleet.clock()) == {1, 2, 3}


def test_no_fetch_is_without_a_bound(fleet: Fleet, tmp_path: Path) -> None:
    trust, shelf = fleet.device(tmp_path / "d", zeroed=True)
    shelf.files = a_length_without_bound_and_signed(fleet)
    with pytest.raises(EdgeSLMError):
        use(trust, fleet.clock())
    assert len(shelf.limits) > 2
    assert max(shelf.limits) <= MAX_METADATA_BYTES


# Other fleets.


def test_another_fleets_repository_is_called_so(fleet: Fleet, other: Fleet, tmp_path: Path) -> None:
    for number, device in enumerate((fleet.folder, None)):
        folder = tmp_path / f"d{number}"
        if device is not None:
            shutil.copytree(device, folder)
        shelf = kit.Shelf(other.newest)
        trust = Trust(folder, fleet.flashed, shelf)
        was = floors(folder)
        with pytest.raises(
            EdgeSLMError, match="Is it the repository of this device's fleet"
        ) as caught:
            use(trust, fleet.clock())
        assert caught.value.code == "trust.foreign"
        assert floors(folder) == was
        shelf.files = dict(fleet.newest)
        assert use(trust, fleet.clock()) == {1, 2, 3}


def test_a_flashed_root_that_too_few_have_signed_is_no_root(fleet: Fleet, tmp_path: Path) -> None:
    whole = json.loads(fleet.flashed)
    whole["signatures"] = whole["signatures"][:1]
    for raw, code in ((compact(whole), "trust.signature"), (b"", "trust.malformed")):
        trust = Trust(tmp_path / "d", raw, kit.Shelf(fleet.newest))
        with pytest.raises(EdgeSLMError, match="flashed root") as caught:
            trust.walk_roots()
        assert caught.value.code == code


# Time.


def reply(fleet: Fleet, signer: str = "time", kind: str = TIME, **changed: Any) -> bytes:
    said = {"schema": 1, "device": DEVICE, "nonce": NONCE, "time": fleet.clock() + 60, **changed}
    return seal(compact(said), kind=kind, signers=[fleet.signer(signer)])


TIMES: Final[dict[str, Callable[[Fleet], bytes]]] = {
    "for another question": lambda f: reply(f, nonce="f" * 32),
    "for another device": lambda f: reply(f, device="d2"),
    "signed by the director": lambda f: reply(f, "director"),
    "signed by root": lambda f: reply(f, "root-1"),
    "of another kind": lambda f: reply(f, kind=ASSIGNMENT),
    "of a kind that is none": lambda f: reply(f, kind=""),
    "a day before what was signed": lambda f: reply(f, time=f.clock() - kit.DAY_S),
    "at a time that is none": lambda f: reply(f, time=1e300),
    "below 0": lambda f: reply(f, time=-1.0),
    "not a number": lambda f: reply(f, time="noon"),
    "without a time": lambda f: reply(f, time=None),
    "unsigned": lambda _: _unsigned_reply(),
    "changed": lambda f: reply(f).replace(b'"payload":"ey', b'"payload":"ez', 1),
    "no envelope": lambda _: b"noon",
    "nothing": lambda _: b"",
    "endless": lambda _: b"[" * 1_000_000,
}


def _unsigned_reply() -> bytes:
    return seal(b'{"schema":1}', kind=TIME, signers=[])


@pytest.mark.parametrize("name", list(TIMES))
def test_a_time_is_not_believed(name: str, fleet: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    was = floors(tmp_path / "d")
    with pytest.raises(EdgeSLMError) as caught:
        trust.time_of(TIMES[name](fleet), device=DEVICE, nonce=NONCE)
    assert caught.value.code == "clock.untrusted"
    assert floors(tmp_path / "d") == was
    assert trust.time_of(reply(fleet), device=DEVICE, nonce=NONCE) == fleet.clock() + 60
    assert trust.time_floor == fleet.clock() + 60


def test_two_servers_may_differ_by_minutes(fleet: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    late = trust.time_of(reply(fleet), device=DEVICE, nonce=NONCE)
    early = reply(fleet, time=late - 200)
    assert trust.time_of(early, device=DEVICE, nonce=NONCE) == late
    assert trust.time_floor == late


# Assignments. The device has accepted number 2, of press 2.


def assigned(
    fleet: Fleet, *signers: str, kind: str = ASSIGNMENT, seq: int = 3, **changed: Any
) -> bytes:
    said = {
        "schema": 1,
        "device": DEVICE,
        "seq": seq,
        "issued": fleet.clock(),
        "expires": fleet.clock() + kit.DAY_S,
        "models": {"press": {"version": 3}},
        **changed,
    }
    by = [fleet.signer(name) for name in signers or ("director",)]
    return seal(compact(said), kind=kind, signers=by)


ASSIGNMENTS: Final[dict[str, tuple[Callable[[Fleet], bytes], str]]] = {
    "replayed": (lambda f: assigned(f, seq=1), "assignment.replayed"),
    "another of the same number": (lambda f: assigned(f, seq=2), "assignment.replayed"),
    "for another device": (lambda f: assigned(f, device="d2"), "assignment.device"),
    "expired": (lambda f: assigned(f, expires=f.clock()), "assignment.expired"),
    "signed by the timestamp's key": (lambda f: assigned(f, "timestamp-2"), "assignment.signature"),
    "signed by the time's key": (lambda f: assigned(f, "time"), "assignment.signature"),
    "signed by a model's key": (lambda f: assigned(f, MODEL), "assignment.signature"),
    "unsigned": (lambda _: seal(b"{}", kind=ASSIGNMENT, signers=[]), "assignment.signature"),
    "changed": (
        lambda f: assigned(f).replace(b'"payload":"ey', b'"payload":"ez', 1),
        "assignment.signature",
    ),
    "of another kind": (lambda f: assigned(f, kind=TIME), "assignment.malformed"),
    "a time": (reply, "assignment.malformed"),
    "of number 0": (lambda f: assigned(f, seq=0), "assignment.malformed"),
    "of a number beyond all": (lambda f: assigned(f, seq=2**60), "assignment.malformed"),
    "of a version that is text": (
        lambda f: assigned(f, models={"press": {"version": "3"}}),
        "assignment.malformed",
    ),
    "with a model that is a path": (
        lambda f: assigned(f, models={"../press": {"version": 3}}),
        "assignment.malformed",
    ),
    "with a setting that is none": (
        lambda f: assigned(f, config={"uplink": {"host": "thief"}}),
        "assignment.malformed",
    ),
    "of another schema": (lambda f: assigned(f, schema=2), "assignment.malformed"),
    "no envelope": (lambda _: b"{}", "assignment.malformed"),
    "nothing": (lambda _: b"", "assignment.malformed"),
    "nested without end": (lambda _: b"[" * 200_000, "assignment.malformed"),
    "too long": (lambda f: assigned(f) + b" " * 300_000, "assignment.malformed"),
}


@pytest.mark.parametrize("name", list(ASSIGNMENTS))
def test_an_assignment_is_refused(name: str, fleet: Fleet, tmp_path: Path) -> None:
    made, code = ASSIGNMENTS[name]
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    was = floors(tmp_path / "d")
    with pytest.raises(EdgeSLMError) as caught:
        trust.assignment(made(fleet), device=DEVICE, now=fleet.clock())
    assert caught.value.code == code, caught.value
    assert floors(tmp_path / "d") == was
    good = trust.assignment(assigned(fleet), device=DEVICE, now=fleet.clock())
    assert floors(tmp_path / "d") == was, "only `accept` raises it"
    trust.accept(good)
    assert trust.kept == assigned(fleet)
    with pytest.raises(EdgeSLMError, match="older than 3"):
        trust.assignment(fleet_envelope(fleet), device=DEVICE, now=fleet.clock())


def fleet_envelope(fleet: Fleet) -> bytes:
    raw = kit.envelope(fleet.repository, DEVICE)
    assert raw is not None
    return raw


def test_another_fleets_director_is_none(fleet: Fleet, other: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    with pytest.raises(EdgeSLMError) as caught:
        trust.assignment(assigned(other), device=DEVICE, now=fleet.clock())
    assert caught.value.code == "assignment.signature"


def test_the_assignment_in_force_may_come_again(fleet: Fleet, tmp_path: Path) -> None:
    """After every restart it does: retained, by the broker, and kept, on the disk."""
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    again = trust.assignment(fleet_envelope(fleet), device=DEVICE, now=fleet.clock())
    assert again.seq == 2
    trust.accept(again)
    assert trust.kept == fleet_envelope(fleet)


def test_only_what_was_verified_last_is_accepted(fleet: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    good = trust.assignment(assigned(fleet), device=DEVICE, now=fleet.clock())
    other = good.model_copy(update={"seq": 99})
    with pytest.raises(ValueError, match="verified last"):
        trust.accept(other)
    with pytest.raises(EdgeSLMError):
        trust.assignment(b"", device=DEVICE, now=fleet.clock())
    with pytest.raises(ValueError, match="verified last"):
        trust.accept(good)


@pytest.mark.parametrize("models", [{"ghost": {"version": 1}}, {"press": {"version": 9}}], ids=str)
def test_the_director_alone_makes_no_model(
    models: dict[str, Any], fleet: Fleet, tmp_path: Path
) -> None:
    """What it assigns and the repository does not offer, nobody can install."""
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    raw = assigned(fleet, models=models)
    assignment: Assignment = trust.assignment(raw, device=DEVICE, now=fleet.clock())
    for name, each in assignment.models.items():
        assert each.version not in {offer.bundle.version for offer in trust.offers(name)}


def test_nothing_is_offered_or_assigned_before_a_refresh_or_after_one_that_failed(
    fleet: Fleet, tmp_path: Path
) -> None:
    trust, shelf = fleet.device(tmp_path / "d")
    for attempt in range(2):
        for ask in (
            lambda: trust.offers("press"),
            lambda: trust.assignment(fleet_envelope(fleet), device=DEVICE, now=fleet.clock()),
        ):
            with pytest.raises(EdgeSLMError) as caught:
                ask()
            assert caught.value.code == "trust.unavailable"
        if attempt == 0:
            shelf.files = dict(fleet.newest)
            use(trust, fleet.clock())
            with pytest.raises(EdgeSLMError):
                trust.refresh(fleet.clock() + 30 * kit.DAY_S)


# Targets: the lists of blocks.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw[:-1], "trust.mismatch"),
        (lambda raw: raw + b" ", "trust.mismatch"),
        (lambda raw: raw.replace(b"model.onnx", b"model.onny"), "trust.mismatch"),
        (lambda _: b"", "trust.mismatch"),
    ],
    ids=["shorter", "longer", "changed", "empty"],
)
def test_a_block_list_is_the_one_that_was_signed(
    change: Callable[[bytes], bytes], code: str, fleet: Fleet, tmp_path: Path
) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    offer = trust.offers("press")[0]
    raw = (fleet.repository.folder / "blobs" / offer.sha256).read_bytes()
    assert trust.blocks(offer, raw).bundle == offer.bundle.bundle
    with pytest.raises(EdgeSLMError) as caught:
        trust.blocks(offer, change(raw))
    assert caught.value.code == code


# What must be accepted.


@pytest.mark.parametrize("how", ["rotate", "revoke"])
@pytest.mark.parametrize("zeroed", [False, True], ids=["as it is", "cache lost"])
def test_every_key_may_be_replaced(how: Any, zeroed: bool, tmp_path: Path) -> None:  # noqa: FBT001
    fleet = make_fleet(tmp_path)
    repository = fleet.repository
    trust, shelf = fleet.device(tmp_path / "d", zeroed=zeroed)
    shelf.files = dict(fleet.later)
    assert use(trust, fleet.clock()) == {1, 2, 3}
    for key in [use_ for use_ in list_keys(repository) if use_.roles]:
        replace_key(repository, key.name, how=how)
        shelf.files = kit.published(repository)
        take_time(repository, trust, fleet.clock())
        assert use(trust, fleet.clock()) == {1, 2, 3}, key.name
        trust.accept(trust.assignment(fleet_envelope(fleet), device=DEVICE, now=fleet.clock()))
    # A device that was off all the time, and one that is new, follow the whole chain.
    for late in (fleet.device(tmp_path / "late")[0], Trust(tmp_path / "n", fleet.flashed, shelf)):
        late._source._get = shelf  # noqa: SLF001
        assert use(late, fleet.clock()) == {1, 2, 3}


def test_numbers_beyond_all_others_are_undone_with_the_key_that_signed_them(
    tmp_path: Path,
) -> None:
    fleet = make_fleet(tmp_path)
    trust, shelf = fleet.device(tmp_path / "d")
    thief = fleet.forge(
        fleet.newest, {"timestamp": setting(version=2**53), "snapshot": setting(version=2**53)}
    )
    last = sign(
        {**stamp(thief), "meta": stamp(thief)["meta"]},
        [fleet.signer("timestamp-2")],
    )
    shelf.files = {**thief, "timestamp.json": last}
    use(trust, fleet.clock())
    trust.time_of(reply(fleet, time=fleet.clock() + 900 * kit.DAY_S), device=DEVICE, nonce=NONCE)
    with pytest.raises(EdgeSLMError):  # the year is wrong, and all has expired
        trust.refresh(fleet.clock() + 900 * kit.DAY_S)
    for name in ("timestamp-2", "snapshot", "time"):
        replace_key(fleet.repository, name, how="revoke")
    shelf.files = kit.published(fleet.repository)
    now = take_time(fleet.repository, trust, fleet.clock())
    assert use(trust, now) == {1, 2, 3}
    far = assigned(fleet, seq=2**53)
    trust.accept(trust.assignment(far, device=DEVICE, now=now))
    replace_key(fleet.repository, "director", how="revoke")
    shelf.files = kit.published(fleet.repository)
    use(trust, now)
    assert trust.assignment(fleet_envelope(fleet), device=DEVICE, now=now).seq == 3
    with pytest.raises(EdgeSLMError):
        trust.assignment(far, device=DEVICE, now=now)


def test_a_new_model_comes_with_a_new_role(fleet: Fleet, tmp_path: Path) -> None:
    assert Trust(tmp_path / "n", fleet.flashed, kit.Shelf(fleet.newest)) is not None
    trust, _ = fleet.device(tmp_path / "d")
    use(trust, fleet.clock())
    assert [offer.bundle.model for offer in trust.offers("valve")] == ["valve"]
    assert trust.offers("ghost") == []
