"""Bundle folders and their tar: the same parts give the same bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import onnx

from edgeslm import __version__
from edgeslm.contract.manifest import (
    Artifact,
    BaseModelInfo,
    Manifest,
    Requirements,
    Role,
    TensorSpec,
    Tolerance,
)
from exporters.cache import pins
from exporters.targets.base import GRAPH, WEIGHTS

MANIFEST: Final = "manifest.json"
_PATHS: Final[dict[Role, str]] = {
    "graph": GRAPH,
    "weights": WEIGHTS,
    "tokenizer": "tokenizer.json",
    "parameters": "parameters.json",
    "golden": "golden.jsonl",
}
# Versions that the bytes depend on.
_PACKAGES: Final = (
    "numpy", "onnx", "onnxruntime", "optimum-onnx", "scikit-learn", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
_DTYPES: Final = {
    onnx.TensorProto.FLOAT: "float32",
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


def write_parts(folder: Path, *, tokenizer: bytes, parameters: bytes, golden: bytes) -> None:
    """Write all of a bundle but graph, weights (the target's `save` does) and manifest."""
    for role, data in (("tokenizer", tokenizer), ("parameters", parameters), ("golden", golden)):
        (folder / _PATHS[role]).write_bytes(data)  # type: ignore[index]  # literals of Role


def write_manifest(  # noqa: PLR0913 -- a manifest is wide; all but two are by name
    folder: Path,
    identity: Identity,
    *,
    provider: str,
    precision: str,
    requires: Requirements,
    tolerance: Tolerance,
) -> str:
    """Describe what lies in `folder`; return the bundle's hash."""
    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    artifacts = []
    for role in get_args(Role):
        path = folder / _PATHS.get(role, "")
        if not path.is_file():
            continue
        data = path.read_bytes()
        artifact = Artifact(
            role=role, path=path.name, size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        if role == "graph":
            artifact = artifact.model_copy(
                update={
                    "provider": provider,
                    "precision": precision,
                    "requires": requires,
                    "inputs": tuple(_spec(value) for value in graph.input),
                    "outputs": tuple(_spec(value) for value in graph.output),
                }
            )
        artifacts.append(artifact)
    manifest = Manifest(
        name=identity.name,
        version=identity.version,
        task=identity.task,
        profiles=(identity.profile,),
        base_model=identity.base_model,
        max_tokens=identity.max_tokens,
        artifacts=tuple(artifacts),
        tolerance=tolerance,
        exporter=__version__,
        pins=pins(_PACKAGES),
    )
    raw = (manifest.model_dump_json(indent=1) + "\n").encode()
    (folder / MANIFEST).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return TensorSpec.model_validate(
        {"name": value.name, "dtype": _DTYPES[tensor.elem_type], "shape": shape}
    )


def write_tar(folder: Path, file: Path) -> None:
    """Pack the files of `folder`, manifest first, with nothing of this machine in their headers."""
    names = sorted(path.name for path in folder.iterdir())
    names.sort(key=lambda name: name != MANIFEST)
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            data = (folder / name).read_bytes()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            header.mode = 0o644
            tar.addfile(header, io.BytesIO(data))
