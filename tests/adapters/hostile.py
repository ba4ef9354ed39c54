"""A fleet with a history, a device that has seen part of it, and a thief with any keys."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import MetaFile

from edgeslm.adapters.tuf import FLOORS, METADATA, Trust
from edgeslm.fleet import director
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from tests.fleet import kit
from tests.fleet.kit import replace_key

MODEL: Final = "model-press"
DEVICE: Final = "d1"
NONCE: Final = "0123456789abcdef" * 2
Files = dict[str, bytes]
Edit = Callable[[dict[str, Any]], object]


@dataclass
class Fleet:
    """A repository through four moments, and a device's folder at one of them.

    first: one version of two models, root 1. before: the timestamp's key was revoked (root 2).
    seen: a second version, which the device has trusted. newest: a third. later: the same, signed
    anew until it is beyond all that attacks forge.
    """

    repository: Repository
    clock: kit.Clock
    first: Files
    before: Files
    seen: Files
    newest: Files
    later: Files
    flashed: bytes
    folder: Path
    times: dict[str, float] = field(default_factory=dict)

    def signer(self, name: str) -> Signer:
        return self.repository.keys.signer(name)

    def device(self, folder: Path, *, zeroed: bool = False) -> tuple[Trust, kit.Shelf]:
        """A copy of the device, which fetches what is newest; `zeroed`: it lost TUF's cache."""
        shutil.copytree(self.folder, folder)
        if zeroed:
            shutil.rmtree(folder / METADATA)
        shelf = kit.Shelf(self.newest)
        return Trust(folder, self.flashed, shelf), shelf

    def forge(
        self,
        files: Files,
        edits: Mapping[str, Edit] | None = None,
        *,
        by: Mapping[str, Collection[str] | Collection[Signer]] | None = None,
        again: Collection[str] = (),
    ) -> Files:
        """Return `files` one version on, as whoever has every key could make them.

        Args:
            files: where it begins.
            edits: change what a role says, by role; root, targets, MODEL, snapshot, timestamp.
            by: who signs a role, in place of its own keys.
            again: roles that are signed anew though nothing in them changes.
        """
        edits, by, out = edits or {}, by or {}, dict(files)
        whose = {
            "root": ["root-1", "root-2"],
            "targets": ["targets"],
            MODEL: [MODEL],
            "snapshot": ["snapshot"],
            "timestamp": ["timestamp-2"],
            **by,
        }
        if "root" in edits or "root" in by:
            number = max(int(f.split(".")[0]) for f in files if f.endswith(".root.json")) + 1
            root = self._edited(files[f"{number - 1}.root.json"], edits.get("root"))
            out[f"{number}.root.json"] = sign(root, self._signers(whose["root"]))
        stamp = json.loads(files["timestamp.json"])["signed"]
        shot = named(files, stamp["meta"]["snapshot.json"]["version"], "snapshot")
        for role in (MODEL, "targets"):
            if role in edits or role in by or role in again:
                old = named(files, shot["meta"][f"{role}.json"]["version"], role)
                data = sign(self._bumped(old, edits.get(role)), self._signers(whose[role]))
                put(out, role, data, shot["meta"])
        shot["version"] += 1
        apply(shot, edits.get("snapshot"))
        data = sign(shot, self._signers(whose["snapshot"]))
        put(out, "snapshot", data, stamp["meta"])
        stamp["version"] += 1
        apply(stamp, edits.get("timestamp"))
        out["timestamp.json"] = sign(stamp, self._signers(whose["timestamp"]))
        return out

    def _edited(self, raw: bytes, edit: Edit | None) -> dict[str, Any]:
        return self._bumped(json.loads(raw)["signed"], edit)

    @staticmethod
    def _bumped(signed: dict[str, Any], edit: Edit | None) -> dict[str, Any]:
        new = copy.deepcopy(signed)
        new["version"] += 1
        apply(new, edit)
        return new

    def _signers(self, names: Collection[Any]) -> list[Signer]:
        return [self.signer(name) if isinstance(name, str) else name for name in names]


def apply(signed: dict[str, Any], edit: Edit | None) -> None:
    if edit is not None:
        edit(signed)


def named(files: Files, version: int, role: str) -> dict[str, Any]:
    signed: dict[str, Any] = json.loads(files[f"{version}.{role}.json"])["signed"]
    return signed


def put(out: Files, role: str, data: bytes, meta: dict[str, Any]) -> None:
    """Put a role's new file among `out`, and its description into `meta`."""
    version = json.loads(data)["signed"]["version"]
    out[f"{version}.{role}.json"] = data
    if isinstance(version, int) and version > 0:
        meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"]).to_dict()


def sign(signed: dict[str, Any], signers: Collection[Signer]) -> bytes:
    """Return metadata signed as python-tuf would, whatever is in it."""
    try:
        payload = encode_canonical(signed)
        assert payload is not None
    except Exception:  # noqa: BLE001 -- what has no canonical form is signed as it is
        payload = json.dumps(signed)
    data = payload.encode("utf-8", "surrogatepass")
    signatures = [signer.sign(data).to_dict() for signer in signers]
    return compact({"signatures": signatures, "signed": signed})


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def stranger() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


def make_fleet(folder: Path) -> Fleet:
    clock = kit.Clock()
    repository = kit.make(folder / "fleet", clock)
    add(repository, [kit.bundle(folder / "b1")], Stated())
    add(repository, [kit.bundle(folder / "v1", name="valve")], Stated())
    flashed = repository.export_root()
    first = kit.published(repository)
    clock.pass_days(0.1)
    replace_key(repository, "timestamp", how="revoke")
    before = kit.published(repository)
    clock.pass_days(0.1)
    add(repository, [kit.bundle(folder / "b2", version=2)], Stated())
    kit.assign(repository, DEVICE, director.Wish(models={"press": 1}))
    kit.assign(repository, DEVICE, director.Wish(models={"press": 2}))
    seen = kit.published(repository)
    trust = Trust(folder / "device", flashed, kit.Shelf(seen))
    take_time(repository, trust, clock())
    trust.refresh(clock())
    trust.offers("press")
    trust.offers("valve")
    envelope = kit.envelope(repository, DEVICE)
    assert envelope is not None
    trust.accept(trust.assignment(envelope, device=DEVICE, now=clock()))
    clock.pass_days(0.1)
    add(repository, [kit.bundle(folder / "b3", version=3)], Stated())
    newest = kit.published(repository)
    for _ in range(3):  # beyond what a thief has signed
        repository.refresh(force=True)
    repository.renew(["targets", MODEL])
    repository.renew(["targets", MODEL])
    later = kit.published(repository)
    return Fleet(repository, clock, first, before, seen, newest, later, flashed, folder / "device")


def take_time(repository: Repository, trust: Trust, now: float) -> float:
    trust.walk_roots()
    signers = director.time_signers(repository)
    reply = director.time_reply(signers, device=DEVICE, nonce=NONCE, now=now)
    return trust.time_of(reply, device=DEVICE, nonce=NONCE)


def floors(folder: Path) -> bytes:
    return (folder / FLOORS).read_bytes()
