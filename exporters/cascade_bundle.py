"""The bundle of a cascade: the files of two others, each under its stage's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm import __version__
from edgeslm.contract.manifest import CASCADE, Artifact, Manifest, Stage, Tolerance
from edgeslm.runtime.cascade import CascadeParameters
from edgeslm.runtime.model import Model
from exporters.bundle import PACKAGES, describe_file, write_manifest
from exporters.cache import pins
from exporters.members import Member

_TOKENIZER: Final = "tokenizer.json"
_GOLDEN: Final = "golden.jsonl"
_SETTINGS: Final = "cascade.json"
_HELD: Final = ("graph", "weights", "context")
_TRUST: Final = ("measured", "profile", "none")  # of tolerances, best first


@dataclass(frozen=True, slots=True)
class Part:
    """A form of one export that is to be a stage, as it answers here.

    Args:
        member: whose it is.
        variant: which.
        model: loaded.
        stand_in: who runs it in place of its provider; None: nobody.
    """

    member: Member
    variant: str | None
    model: Model
    stand_in: str | None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.variant or "second"

    @property
    def size(self) -> int:
        """Bytes of its graphs, weights and compiled contexts."""
        return sum(a.size for a in self.member.bundle.of(self.variant).files if a.role in _HELD)

    @property
    def tolerance(self) -> Tolerance:
        """How far a device may be from its golden file."""
        [golden] = self.member.bundle.of(self.variant).artifacts("golden")
        assert golden.tolerance is not None  # noqa: S101 -- the manifest's own rule
        return golden.tolerance


def widest(one: Tolerance, other: Tolerance) -> Tolerance:
    """Return what allows as much as either, and is worth what the worse of them is."""
    return Tolerance(
        score=max(one.score, other.score),
        confidence=max(one.confidence, other.confidence),
        verified=max(one.verified, other.verified, key=_TRUST.index),
    )


@dataclass(frozen=True, slots=True)
class Names:
    """What a manifest says besides its files."""

    name: str
    version: int
    profile: str
    supported_until: str | None


class Writer:
    """Copies files at once, and describes them as often as golden files change.

    Args:
        folder: of the bundle; not there yet.
        names: what the manifest says.
        first: its first stage, the same in every variant.
        seconds: a variant each, best first.
    """

    def __init__(self, folder: Path, names: Names, first: Part, seconds: Sequence[Part]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._names = folder, names
        self._first, self._seconds = first, seconds
        tokenizers = {p.member.bundle.of(p.variant).read("tokenizer") for p in (first, *seconds)}
        self._shared = len(tokenizers) == 1
        self._files: dict[str, Artifact] = {}
        # Graphs of the second first: what a variant needs is said by its first graph.
        for part in seconds:
            self._copy(part, "second")
        self._copy(first, "first")
        if self._shared:
            path = folder / _TOKENIZER
            path.write_bytes(tokenizers.pop())
            self._files[_TOKENIZER] = describe_file(folder, path, "tokenizer")

    def _copy(self, part: Part, stage: Stage) -> None:
        source = part.member.bundle
        for artifact in source.of(part.variant).files:
            if artifact.role == "golden" or (artifact.role == "tokenizer" and self._shared):
                continue
            path = f"{stage}/{artifact.path}"
            to = self._folder / path
            to.parent.mkdir(parents=True, exist_ok=True)
            changed: dict[str, object] = {"path": path, "stage": stage}
            if artifact.role == "costs":  # by path of the graph
                costs = json.loads((source.path / artifact.path).read_bytes())
                moved = {f"{stage}/{graph}": nodes for graph, nodes in costs.items()}
                to.write_text(json.dumps(moved, indent=0, sort_keys=True) + "\n", "utf-8")
                described = describe_file(self._folder, to, "costs")
                changed |= {"size": described.size, "sha256": described.sha256}
            else:
                shutil.copyfile(source.path / artifact.path, to)
            if stage == "first":
                changed["variant"] = None  # it serves all
            self._files[path] = artifact.model_copy(update=changed)

    def write(self, settings: Sequence[CascadeParameters], golden: Sequence[bytes]) -> str:
        """Write the manifest, and what is of the whole of each variant; return the bundle's hash.

        Args:
            settings: of each variant.
            golden: bytes of the golden file of each.
        """
        whole: list[Artifact] = []
        for part, own, cases in zip(self._seconds, settings, golden, strict=True):
            inside = self._folder / (part.variant or "")
            inside.mkdir(exist_ok=True)
            (inside / _SETTINGS).write_bytes(own.to_bytes())
            (inside / _GOLDEN).write_bytes(cases)
            allowed = widest(self._first.tolerance, part.tolerance)
            whole += [
                describe_file(self._folder, inside / _SETTINGS, "cascade", variant=part.variant),
                describe_file(
                    self._folder,
                    inside / _GOLDEN,
                    "golden",
                    variant=part.variant,
                    tolerance=allowed,
                ),
            ]
        bundles = [part.member.bundle.manifest for part in (self._first, self._seconds[0])]
        names, second = self._names, bundles[1]
        manifest = Manifest(
            requires=tuple(sorted({CASCADE, *(f for m in bundles for f in m.requires)})),
            name=names.name,
            version=names.version,
            task=second.task,
            profiles=(names.profile,),
            base_model=second.base_model,
            max_tokens=second.max_tokens,
            artifacts=(*self._files.values(), *whole),
            exporter=__version__,
            pins=pins(PACKAGES),
            supported_until=names.supported_until,
        )
        return write_manifest(self._folder, manifest)
