"""Settings of what is answered: the models of a device, and the routes that lead to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeslm.contract.base import Name, Section, spelled
from edgeslm.contract.learning import LearnSettings
from edgeslm.contract.topics import filter_problem

Share = Literal["none", "explanation", "text"]
Lane = Literal["alert", "telemetry"]
Pointer = Annotated[
    str,
    spelled(
        r"^(/([^~/]|~[01])*)+$",
        "not a JSON pointer, such as /data/text",
        max_length=512,
        description="JSON pointer (RFC 6901) into the payload.",
    ),
]


class ModelSettings(Section):
    """One model on this device."""

    bundle: Annotated[
        Path | None, Field(description="Bundle folder; absent: what the updater brings.")
    ] = None
    workers: Annotated[
        int | None, Field(ge=1, le=64, description="Threads that call it; the cores, if absent.")
    ] = None
    cache_entries: Annotated[
        int, Field(ge=0, le=1_000_000, description="Model outputs kept; 0 switches the cache off.")
    ] = 4096
    receive_maximum: Annotated[
        int, Field(ge=1, le=65_535, description="Messages taken and not yet acknowledged.")
    ] = 512
    review: Annotated[
        bool,
        Field(description="Show each new template once (docs/feedback.md), alarm or not."),
    ] = False
    learn: LearnSettings = LearnSettings()
    drift: Annotated[
        bool, Field(description="Watch whether it still hears what it was trained on, and tell.")
    ] = True
    drift_false_rate: Annotated[
        float,
        Field(
            gt=0,
            le=0.01,
            description="False reports of drift a message, at most: 1e-5 is one in 100,000.",
        ),
    ] = 1e-5


class Route(Section):
    """Which messages go to which models, and how they are read."""

    topic: Annotated[str, Field(description="MQTT topic filter.")]
    models: Annotated[tuple[Name, ...], Field(min_length=1, description="Keys of [models].")]
    text: Annotated[
        Pointer | None, Field(description="Where the text is; absent: the payload is the text.")
    ] = None
    source: Annotated[
        Pointer | None, Field(description="Where the machine's name is; absent: its topic.")
    ] = None
    time: Annotated[
        Pointer | None, Field(description="Where the text's own time is, seconds since 1970.")
    ] = None
    key: Annotated[
        Pointer | None, Field(description="Where the key is: the session or order the text is of.")
    ] = None
    last: Annotated[
        Pointer | None, Field(description="Where true says that a text is the last one of its key.")
    ] = None
    id: Annotated[Pointer | None, Field(description="Where the publisher's own id is.")] = None
    id_property: Annotated[
        str | None, Field(description="MQTT 5 user property with the publisher's own id.")
    ] = None
    encoding: Annotated[
        Literal["utf-8", "latin-1", "utf-16-le", "cp1252"], Field(description="Of the payload.")
    ] = "utf-8"
    max_bytes: Annotated[
        int, Field(ge=1, le=16 * 1024 * 1024, description="A longer payload is an error result.")
    ] = 65_536
    share: Annotated[
        Share, Field(description="What results may carry of the text: it stays here by default.")
    ] = "none"
    lane: Annotated[
        Lane | None,
        Field(
            description="What results count as while the uplink is away: an alert is never thinned "
            "nor given up. Absent: those with the label `anomaly` are alerts."
        ),
    ] = None

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if problem := filter_problem(self.topic):
            msg = f"topic: {problem}"
            raise ValueError(msg)
        if self.text is None and any((self.source, self.time, self.key, self.last, self.id)):
            msg = "source, time, key, last and id are fields of JSON: name the text's pointer too"
            raise ValueError(msg)
        return self
