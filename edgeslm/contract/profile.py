"""`device-profiles/*.toml`: one device type, for exporter and agent alike."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edgeslm.contract.base import Name, Typed
from edgeslm.contract.manifest import Placement, Requirements, Tolerance, Verified

Bucket = Annotated[int, Field(ge=4, le=8192)]


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        msg = "each once"
        raise ValueError(msg)
    return values


Buckets = Annotated[
    tuple[Bucket, ...],
    Field(min_length=1, max_length=16, description="Sequence lengths, in tokens, ascending."),
]


class Int8Recipe(Typed):
    """How the CPU target quantises; see exporters/targets/cpu.py."""

    reduce_range: bool = Field(description="7-bit weights: exact on x86 without VNNI.")
    per_channel: bool = Field(True, description="A scale for each output channel.")  # noqa: FBT003


class CpuTarget(Typed):
    """What the CPU provider of this device wants."""

    int8: Int8Recipe
    precisions: Annotated[
        tuple[Literal["int8-dynamic", "int8-static", "fp32"], ...],
        Field(min_length=1),
        AfterValidator(_each_once),
    ] = Field(("int8-dynamic",), description="Variants to make, best first.")
    graph_optimization: Literal["none", "basic", "extended"] = Field(
        "extended", description="Level at which the graph is saved; the device adds none."
    )


class QnnTarget(Typed):
    """What Qualcomm's NPU (HTP) of this device wants; see exporters/targets/qnn.py."""

    soc_model: str = Field(description="QAIRT's name or number of the SoC, for its compiler.")
    htp_arch: str = Field(description="Architecture of its HTP: v68, v73, v75, v79, ...")
    buckets: Buckets = (16, 32, 64, 128)
    compile_context: bool = Field(
        True,  # noqa: FBT003
        description="Compile ahead of time for the SoC, beside the graph that any HTP compiles.",
    )


class CudaTarget(Typed):
    """What an NVIDIA GPU wants; see exporters/targets/cuda.py."""

    compute_capability: str = Field(description="8.7, 9.0, ...")
    precisions: Annotated[
        tuple[Literal["fp16", "int8"], ...], Field(min_length=1), AfterValidator(_each_once)
    ] = Field(("fp16", "int8"), description="Variants to make, best first.")
    buckets: Buckets = (16, 32, 64, 128)


class CoreMlTarget(Typed):
    """What Apple's Core ML wants; see exporters/targets/coreml.py."""

    precisions: Annotated[
        tuple[Literal["fp16", "int8-weights"], ...], Field(min_length=1), AfterValidator(_each_once)
    ] = Field(("fp16", "int8-weights"), description="Variants to make, best first.")
    buckets: Buckets = (16, 32, 64, 128)


class OpenVinoTarget(Typed):
    """What Intel's OpenVINO wants; see exporters/targets/openvino.py."""

    device: Literal["CPU", "GPU", "NPU"] = "CPU"
    buckets: Buckets | None = Field(
        None, description="Fixed sequence lengths, which the NPU needs; absent: any length."
    )


class Budget(Typed):
    """What a model may take on this device; of several recipes that fit, the best one is chosen."""

    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Of one inference of 32 tokens, median."
    )
    size_mb: Annotated[float, Field(gt=0)] | None = Field(None, description="Graph and weights.")


class Gate(Typed):
    """What an export may lose."""

    accuracy_drop_max: Annotated[float, Field(ge=0, le=100)] = Field(
        0.5, description="Points of the task's metric, each variant against fp32."
    )
    emulated_drop_max: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0, description="The same where an emulator runs, on a sample."
    )
    emulated_sample: Annotated[int, Field(ge=50)] = Field(
        200, description="Held-out texts that an emulator is judged on, by label."
    )


class Trial(Typed):
    """What a new model must show on the device before it stays."""

    duration_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0, description="From the swap until it is committed."
    )
    error_share_max: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Answers with an error, beside those that the old one gave as well."
    )
    latency_ratio_max: Annotated[float, Field(ge=1)] = Field(
        2.0, description="Its p99 against the old one's, where both answered enough."
    )
    answers_min: Annotated[int, Field(ge=0)] = Field(
        0,
        description="It must have answered so many; a quiet device extends its trial tenfold.",
    )
    side_by_side: bool = Field(
        True,  # noqa: FBT003
        description="It is loaded while the old one still answers. false: memory or NPU cannot "
        "hold two; the old one is let go first, and loaded again where the new one does not stay.",
    )


class Limits(Typed):
    """What the agent's unit may take; `edgeslm image` makes a drop-in of it."""

    memory_mb: Annotated[int, Field(ge=64)] | None = Field(
        None, description="Beyond it the agent is killed: the model twice, where a trial needs it."
    )
    tasks: Annotated[int, Field(ge=32)] | None = Field(None, description="Threads and processes.")
    cpu_percent: Annotated[int, Field(ge=5)] | None = Field(None, description="100: one core.")


class PressureLimits(Typed):
    """When the agent does less, telemetry first and alarms last; an absent key is not judged."""

    temperature_c: Annotated[float, Field(gt=0, lt=150)] | None = Field(
        None, description="Of the processor, degrees Celsius: hotter than that is too hot."
    )
    memory_available_mb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Less memory that programs could still get, in MiB, is too little."
    )
    load_per_core: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Processes that run or want to, a minute's mean, for each core."
    )


class FlashBudget(Typed):
    """What the device's flash is to outlast."""

    budget_mb_day: Annotated[float, Field(gt=0)] | None = Field(
        None, description="MiB that the agent may write in a day: more is told, once a day."
    )


class DeviceProfile(Typed):
    """One device type."""

    name: Annotated[Name, Field(description="The file's name without .toml; lower case.")]
    description: str = Field(description="Which device, for people.")
    verified: Verified = Field(
        "none", description="Where bundles for this profile have run before it was written."
    )
    requires: Requirements
    providers: Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_each_once)] = Field(
        description="Keys of edgeslm/providers/, best first: a variant is made for each."
    )
    max_tokens: Annotated[int, Field(ge=4, le=8192, description="Longer texts are cut.")] = 128
    cpu: CpuTarget | None = None
    qnn: QnnTarget | None = None
    cuda: CudaTarget | None = None
    coreml: CoreMlTarget | None = None
    openvino: OpenVinoTarget | None = None
    placement: Placement = Field(
        Placement(), description="What the first provider must take of the graph."
    )
    budget: Budget = Budget()
    gate: Gate = Gate()
    trial: Trial = Trial()
    limits: Limits = Limits()
    pressure: PressureLimits = PressureLimits()
    flash: FlashBudget = FlashBudget()
    tolerance: Tolerance | None = Field(
        None, description="Used where the exporter cannot run the target itself."
    )

    @model_validator(mode="after")
    def _targets(self) -> Self:
        for provider in self.providers:
            if provider in _SECTIONS and getattr(self, provider) is None:
                msg = f"providers: {provider} needs [{_SECTIONS[provider]}], which says how"
                raise ValueError(msg)
        for section in (self.qnn, self.cuda, self.coreml, self.openvino):
            buckets = section.buckets if section is not None else None
            if buckets is None:
                continue
            if list(buckets) != sorted(set(buckets)):
                msg = "buckets: ascending, each once"
                raise ValueError(msg)
        return self


_SECTIONS: Final = {
    "cpu": "cpu.int8",
    "qnn": "qnn",
    "cuda": "cuda",
    "coreml": "coreml",
    "openvino": "openvino",
}
