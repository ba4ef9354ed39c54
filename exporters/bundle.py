"""Bundle folders and their tar: the same parts give the same bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx

from edgeslm import __version__
from edgeslm.contract.manifest import (
    CASCADE,
    Artifact,
    BaseModelInfo,
    Coverage,
    Manifest,
    Role,
    TensorSpec,
    Tolerance,
    Verified,
)
from exporters.cache import pins
from exporters.targets.base import WEIGHTS, Compiled, Plan

MANIFEST: Final = "manifest.json"
COSTS: Final = "costs.json"
_PATHS: Final[dict[Role, str]] = {
    "weights": WEIGHTS,
    "costs": COSTS,
    "tokenizer": "tokenizer.json",
    "parameters": "parameters.json",
    "golden": "golden.jsonl",
}
UNKNOWN: Final = Tolerance(score=0.0, confidence=0.0, verified="none")
# Versions that the bytes depend on.
PACKAGES: Final = (
    "numpy", "onnx", "onnxruntime", "optimum-onnx", "scikit-learn", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
_DTYPES: Final = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a manifest says besides its files."""

    name: str
    version: int
    task: str
    profile: str
    base_model: BaseModelInfo
    max_tokens: int
    supported_until: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A variant in its folder, as the manifest describes it.

    Args:
        plan: what was asked for.
        compiled: what came of it.
        golden: bytes of its golden file; empty while there are no cases yet.
        tolerance: how far a device may be from them.
        coverage: by graph, what its provider took.
        verified: where it ran.
        requires: features that its reader must understand, besides those of its head.
    """

    plan: Plan
    compiled: Compiled
    golden: bytes = b""
    tolerance: Tolerance = UNKNOWN
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    verified: Verified = "none"
    requires: tuple[str, ...] = ()


def write_bundle(
    folder: Path, identity: Identity, tokenizer: bytes, variants: Sequence[Made]
) -> str:
    """Write what a bundle holds besides the graphs in its variants' folders; return its hash.

    Args:
        folder: of the bundle; holds a folder for each variant, named so, with its graphs.
        identity: what the manifest says.
        tokenizer: bytes of its tokenizer.json.
        variants: best first.
    """
    (folder / _PATHS["tokenizer"]).write_bytes(tokenizer)
    artifacts: list[Artifact] = []
    for made in variants:
        inside = folder / made.plan.name
        (inside / _PATHS["parameters"]).write_bytes(made.compiled.head.parameters)
        (inside / _PATHS["golden"]).write_bytes(made.golden)
        artifacts += _artifacts(folder, made)
    artifacts.append(describe_file(folder, folder / _PATHS["tokenizer"], "tokenizer"))
    requires = {f for made in variants for f in (*made.compiled.head.requires, *made.requires)}
    manifest = Manifest(
        requires=tuple(sorted(requires)),
        name=identity.name,
        version=identity.version,
        task=identity.task,
        profiles=(identity.profile,),
        base_model=identity.base_model,
        max_tokens=identity.max_tokens,
        artifacts=tuple(artifacts),
        exporter=__version__,
        pins=pins(PACKAGES),
        supported_until=identity.supported_until,
    )
    return write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write it into the bundle's folder; return the bundle's hash."""
    # Devices that do not know a field yet read bundles that do not need it.
    unsaid: dict[str, Any] = {}
    if manifest.supported_until is None:
        unsaid["supported_until"] = True
    if CASCADE not in manifest.requires:
        unsaid["artifacts"] = {"__all__": {"stage"}}
    raw = (manifest.model_dump_json(indent=1, exclude=unsaid) + "\n").encode()
    (folder / MANIFEST).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def _artifacts(folder: Path, made: Made) -> Iterator[Artifact]:
    """Describe the files of a variant: its graphs first."""
    plan, inside = made.plan, folder / made.plan.name
    for name in made.compiled.graphs:
        graph = onnx.load(inside / name, load_external_data=False).graph
        yield describe_file(
            folder,
            inside / name,
            "graph",
            variant=plan.name,
            provider=plan.provider,
            precision=plan.precision,
            requires=plan.requires,
            placement=plan.placement,
            session=plan.session,
            # Kernels differ from one kind of CPU to the next: proved is what ran on such a one.
            batch_invariant=made.compiled.batch_invariant and made.verified == "silicon",
            verified=made.verified,
            coverage=made.coverage.get(name),
            inputs=tuple(_spec(value) for value in graph.input),
            outputs=tuple(_spec(value) for value in graph.output),
        )
    for name in made.compiled.contexts:
        yield describe_file(folder, inside / name, "context", variant=plan.name)
    for role in ("weights", "costs", "parameters", "golden"):
        path = inside / _PATHS[role]
        if path.is_file():
            more = {"tolerance": made.tolerance} if role == "golden" else {}
            yield describe_file(folder, path, role, variant=plan.name, **more)


def describe_file(folder: Path, path: Path, role: str, **more: Any) -> Artifact:
    """Return what the manifest of the bundle in `folder` says of a file in it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Artifact.model_validate(
        {
            "role": role,
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": digest,
            **more,
        }
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return TensorSpec.model_validate(
        {"name": value.name, "dtype": _DTYPES[tensor.elem_type], "shape": shape}
    )


def write_tar(folder: Path, file: Path) -> None:
    """Pack the files of `folder`, manifest first, with nothing of this machine in their headers."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    names.sort(key=lambda name: name != MANIFEST)
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            data = (folder / name).read_bytes()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            header.mode = 0o644
            tar.addfile(header, io.BytesIO(data))
