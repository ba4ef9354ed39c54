"""`manifest.json`: what a bundle holds, what it needs and what it promises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeslm.contract.base import Name, RelativePath, Sha256, Typed

Dim = int | str  # a string names a dynamic axis, as in ONNX
Role = Literal["graph", "weights", "context", "tokenizer", "parameters", "golden"]
# Features of schema 1 that this build understands; a manifest names those it needs.
FEATURES: frozenset[str] = frozenset()


class TensorSpec(Typed):
    """One graph input or output."""

    name: str
    dtype: Literal["float16", "float32", "int8", "uint8", "int16", "int32", "int64"]
    shape: tuple[Dim, ...]


class Requirements(Typed):
    """What a device must have for an artifact; None where it does not matter."""

    arch: str | None = Field(None, description="platform.machine(): x86_64, aarch64.")
    cpu_features: tuple[str, ...] = Field((), description="As in /proc/cpuinfo, all needed.")
    cpu_features_any: tuple[str, ...] = Field(
        (), description="At least one of these is needed; empty: none is."
    )
    soc: str | None = Field(None, description="SoC model, for compiled contexts.")
    runtime: str | None = Field(None, description="Runtime or SDK version bound to.")


class Artifact(Typed):
    """One file of the bundle.

    Files with `provider` None serve every provider; a graph names the one it is for, and
    the first graph in the manifest that a device can run is the one it runs.
    """

    role: Role
    path: RelativePath
    size: Annotated[int, Field(ge=0, description="Bytes.")]
    sha256: Sha256
    provider: Name | None = Field(None, description="Key of edgeslm/providers/.")
    requires: Requirements = Requirements()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batch_invariant: bool = Field(
        False,  # noqa: FBT003
        description="Proved by the exporter: a row's output does not depend on its batch.",
    )
    precision: str | None = Field(None, description="int8-dynamic, fp32, fp16, a16w8, ...")


class BaseModelInfo(Typed):
    """The model the bundle was made from."""

    source: str = Field(description="As given to the exporter: folder name, hub id, file name.")
    sha256: Sha256 = Field(description="Of its weights file.")


class Tolerance(Typed):
    """How far a device may be from the golden file, per answer field, absolute."""

    score: Annotated[float, Field(ge=0)]
    confidence: Annotated[float, Field(ge=0)]
    verified: Literal["measured", "profile", "none"] = Field(
        description="Measured on the target by the exporter, or taken from the profile."
    )


class Manifest(Typed):
    """The description of one bundle; what crosses from exporter to device."""

    schema_version: Literal[1] = 1
    requires: tuple[str, ...] = Field((), description="Features a reader must understand.")
    name: Name
    version: Annotated[int, Field(ge=1, description="Never reused.")]
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    profiles: tuple[Name, ...] = Field(description="Device profiles it was made for.")
    base_model: BaseModelInfo
    max_tokens: Annotated[int, Field(ge=4, le=8192, description="Longer texts are cut.")]
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=256)]
    tolerance: Tolerance
    exporter: str = Field(description="edgeslm version that made it.")
    pins: dict[str, str] = Field(default={}, description="Package versions it was made with.")

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        unknown = sorted(set(self.requires) - FEATURES)
        if unknown:
            msg = f"requires features this build lacks: {unknown}; update edgeslm"
            raise ValueError(msg)
        missing = {"graph", "tokenizer", "parameters", "golden"} - {a.role for a in self.artifacts}
        if missing:
            msg = f"artifacts: none with role {sorted(missing)}"
            raise ValueError(msg)
        paths = [a.path for a in self.artifacts]
        if len(set(paths)) != len(paths):
            msg = "artifacts: two have the same path"
            raise ValueError(msg)
        if "manifest.json" in paths:
            msg = "artifacts: the manifest cannot list itself"
            raise ValueError(msg)
        return self
