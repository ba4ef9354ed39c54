"""`manifest.json`: what a bundle holds, what it needs and what it promises."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from edgeslm.contract.base import Name, RelativePath, Sha256, Typed, spelled

Dim = int | str  # a string names a dynamic axis, as in ONNX
Role = Literal[
    "graph", "weights", "context", "costs", "tokenizer", "parameters", "golden", "cascade"
]
Stage = Literal["first", "second"]
"""Of a cascade: who is asked first, and who answers what the first is not sure of."""
Verified = Literal["silicon", "emulated", "static", "none"]
"""Where it ran: on such a chip, on its emulator, nowhere but checked node by node, or neither.

In this order, the best first."""
# Features of schema 1 that this build understands; a manifest names those it needs.
CASCADE = "cascade"
FAULTS = "known-faults"
FEATURES: frozenset[str] = frozenset(
    {"anomaly-masks-2", "anomaly-memory", CASCADE, "intent-scorer", FAULTS}
)
CPU_FEATURES: frozenset[str] = frozenset({"asimddp", "avx2", "avx512_vnni", "avx_vnni"})
"""That the profiles which ship with edgeslm require, and so what is exported for them."""
_NEEDED: frozenset[Role] = frozenset({"graph", "tokenizer", "parameters", "golden"})
_OF_ALL: frozenset[Role] = frozenset({"golden", "cascade"})
"""Of a cascade as a whole, and of none of its stages."""


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
    accelerator: str | None = Field(
        None,
        description="What it was compiled for: v73 (HTP), NPU or CPU (OpenVINO); the provider "
        "itself finds out whether it is there.",
    )
    runtime: str | None = Field(None, description="Runtime or SDK version bound to.")


class Tolerance(Typed):
    """How far a device may be from the golden file, per answer field, absolute."""

    score: Annotated[float, Field(ge=0)]
    confidence: Annotated[float, Field(ge=0)]
    verified: Literal["measured", "profile", "none"] = Field(
        description="Measured on the target by the exporter, or taken from the profile."
    )


class SessionSettings(Typed):
    """How to open a graph where its exporter found better settings than the provider's own."""

    threads: Annotated[int, Field(ge=1, le=64, description="Inside one inference.")] = 1
    spinning: bool | None = Field(
        None, description="Threads that wait keep their core busy; null: as ONNX Runtime does."
    )
    flush_denormals: bool = Field(
        False,  # noqa: FBT003
        description="Numbers too small for full precision become 0.",
    )


class Placement(Typed):
    """What a provider must take of a graph before a device trusts it."""

    min_coverage: Annotated[float, Field(ge=0, le=1, description="Share of the nodes.")] = 0.0
    cpu_fallback: bool = Field(
        True,  # noqa: FBT003
        description="Nodes that the provider does not take may run on the CPU.",
    )
    max_partitions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Pieces that the provider's share may fall into."
    )


class Fallen(Typed):
    """Nodes of one operator that the provider did not take."""

    operator: str
    count: Annotated[int, Field(ge=1)]
    why: str


class Coverage(Typed):
    """What a provider took of a graph."""

    nodes: Annotated[int, Field(ge=0)]
    nodes_taken: Annotated[int, Field(ge=0)]
    operations: Annotated[int, Field(ge=0, description="Multiply-adds of one inference, about.")]
    operations_taken: Annotated[int, Field(ge=0)]
    partitions: Annotated[int, Field(ge=0, description="Pieces that the provider runs.")]
    fallen: tuple[Fallen, ...] = ()


class Artifact(Typed):
    """One file of the bundle.

    Files of one `variant` belong together: a compiled form of the model for one provider, with
    a graph for each sequence length where shapes are fixed. Files without serve every variant.
    A device runs the first variant in the manifest's order whose graphs it can run. In a cascade
    each stage has such files, and what is of a stage serves that one alone.
    """

    role: Role
    variant: Name | None = Field(None, description="What it is part of; null: of every variant.")
    stage: Stage | None = Field(None, description="Of a cascade, whose it is; null: of both.")
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
    verified: Verified | None = Field(None, description="Of a graph: where it ran.")
    placement: Placement = Placement()
    session: SessionSettings | None = Field(
        None, description="Of a graph: how to open it; null: as its provider does."
    )
    coverage: Coverage | None = Field(None, description="Of a graph: as the exporter found it.")
    tolerance: Tolerance | None = Field(None, description="Of a golden file, which needs it.")


def _is_a_day(text: str) -> str:
    date.fromisoformat(text)
    return text


Day = Annotated[
    str,
    spelled(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "not a day, such as 2031-12-31"),
    AfterValidator(_is_a_day),
]


class BaseModelInfo(Typed):
    """The model the bundle was made from."""

    source: str = Field(description="As given to the exporter: folder name, hub id, file name.")
    sha256: Sha256 = Field(description="Of its weights file.")


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
    exporter: str = Field(description="edgeslm version that made it.")
    pins: dict[str, str] = Field(default={}, description="Package versions it was made with.")
    supported_until: Day | None = Field(
        None, description="Last day, UTC, on which somebody mends it; null: nothing was promised."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        unknown = sorted(set(self.requires) - FEATURES)
        if unknown:
            msg = f"requires features this build lacks: {unknown}; update edgeslm"
            raise ValueError(msg)
        cascade = CASCADE in self.requires
        if not cascade and any(a.stage or a.role == "cascade" for a in self.artifacts):
            msg = f"artifacts: some are of a cascade, and requires does not name {CASCADE!r}"
            raise ValueError(msg)
        if any(a.stage and a.role in _OF_ALL for a in self.artifacts):
            msg = f"artifacts: {sorted(_OF_ALL)} are of a cascade as a whole, of no stage"
            raise ValueError(msg)
        needed = _NEEDED | {"cascade"} if cascade else _NEEDED
        for variant in self.variants():
            for stage in self.stages():
                missing = needed - {a.role for a in self.of(variant, stage)}
                if missing:
                    of = f" of variant {variant!r}" if variant is not None else ""
                    of += f" of the {stage} stage" if stage is not None else ""
                    msg = f"artifacts: none with role {sorted(missing)}{of}"
                    raise ValueError(msg)
        if any(a.role == "golden" and a.tolerance is None for a in self.artifacts):
            msg = "artifacts: a golden file needs its tolerance"
            raise ValueError(msg)
        paths = [a.path for a in self.artifacts]
        if len(set(paths)) != len(paths):
            msg = "artifacts: two have the same path"
            raise ValueError(msg)
        if "manifest.json" in paths:
            msg = "artifacts: the manifest cannot list itself"
            raise ValueError(msg)
        return self

    def variants(self) -> tuple[str | None, ...]:
        """Return the variants in the order of their first files; (None,) where none is named."""
        named = dict.fromkeys(a.variant for a in self.artifacts if a.variant is not None)
        return tuple(named) or (None,)

    def stages(self) -> tuple[Stage | None, ...]:
        """Return the stages of a cascade in the order in which they are asked; else (None,)."""
        return ("first", "second") if CASCADE in self.requires else (None,)

    def of(self, variant: str | None, stage: Stage | None = None) -> tuple[Artifact, ...]:
        """Return the files that serve a variant, and of a cascade one stage; None: both."""
        return tuple(
            a
            for a in self.artifacts
            if a.variant in {None, variant} and (stage is None or a.stage in {None, stage})
        )
