"""What `edgeslm bench` finds: one JSON object, printed and kept beside the bundle.

What a machine cannot tell is null, never a guess.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from edgeslm.contract.manifest import Stage, Verified
from edgeslm.contract.messages import CoverageState, SchemaVersion, UnixTime

_FILE = ConfigDict(extra="ignore", allow_inf_nan=False)
Milliseconds = Annotated[float, Field(ge=0)]


@with_config(_FILE)
class Latency(TypedDict):
    """Of single inferences, one after another, without cache: text to answer."""

    tokens: Annotated[int, Field(description="That the model reads of the text.")]
    bucket: Annotated[
        int | None, Field(description="Length of the graph that runs; null where it takes any.")
    ]
    inferences: Annotated[int, Field(description="That were timed.")]
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    stage: NotRequired[
        Annotated[Stage, Field(description="Of a cascade alone: which answered the text.")]
    ]


@with_config(_FILE)
class Energy(TypedDict):
    """Of the whole machine, or of what its counter stands for, while one caller asks."""

    counter: Annotated[str, Field(description="Which one: rapl package-0, ina3221 VDD_IN, ...")]
    idle_w: Annotated[float, Field(ge=0, description="With nothing to do, just before.")]
    busy_w: Annotated[float, Field(ge=0)]
    inferences: int
    mj_per_inference: Annotated[
        float, Field(ge=0, description="All that was drawn meanwhile, idle draw included.")
    ]


@with_config(_FILE)
class Climate(TypedDict):
    """How the processor fares at one moment."""

    cpu_mhz: Annotated[float | None, Field(description="Mean of its cores, now.")]
    temperature_c: Annotated[float | None, Field(description="Of its hottest sensor.")]


@with_config(_FILE)
class Measurement(TypedDict):
    """A bundle, measured on one device."""

    schema: SchemaVersion
    device: str
    time: UnixTime
    edgeslm: Annotated[str, Field(description="Its version.")]
    machine: Annotated[str, Field(description="What the CPU calls itself.")]
    arch: str
    cores: Annotated[int, Field(description="That the process may use.")]
    model: str
    version: int
    hash: Annotated[str, Field(description="sha256 of the bundle's manifest.json, hex.")]
    task: str
    variant: str | None
    provider: str
    runtime: Annotated[str, Field(description="Version of what runs the graph.")]
    verified: Verified
    node_share: Annotated[float, Field(ge=0, le=1)]
    coverage: CoverageState
    passed_over: list[str]
    load_ms: Annotated[Milliseconds, Field(description="Hashes, graph and weights.")]
    load_with_golden_ms: Milliseconds
    cold_start_ms: Annotated[
        Milliseconds, Field(description="A fresh process, to its first result; median.")
    ]
    pss_mb: Annotated[
        float | None,
        Field(
            description="Of that process after every text; median. Null where the system does not "
            "tell (macOS)."
        ),
    ]
    latency: list[Latency]
    handed_over: NotRequired[
        Annotated[
            float,
            Field(
                ge=0,
                le=1,
                description="Of a cascade alone: share of the texts asked, those of its golden "
                "file, that the second stage answers. The state has that of the traffic.",
            ),
        ]
    ]
    one_caller_per_s: float
    callers: int
    all_callers_per_s: float
    batched_per_s: Annotated[
        float | None,
        Field(
            description="With as many callers, each handing over up to 32 texts at once, as the "
            "agent's threads take what waits. Null where answers would depend on the batch."
        ),
    ]
    cached_us: Annotated[float, Field(description="Of an answer whose model output is kept.")]
    energy: Annotated[Energy | None, Field(description="Null where there is no counter.")]
    before: Climate
    after: Climate


MEASUREMENT: Final[TypeAdapter[Any]] = TypeAdapter(Measurement)
