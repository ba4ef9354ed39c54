"""What Home Assistant's documentation says of MQTT discovery, as far as anything of ours uses it.

Facts from https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery (device discovery: topic
and payload, device, origin, availability), https://www.home-assistant.io/integrations/sensor.mqtt/
and those of binary_sensor.mqtt and event.mqtt beside it (keys of each component; that an event with
an empty payload is ignored). Keys that are not documented are refused, and so is what they may not
be together.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# <discovery_prefix>/<component>/[<node_id>/]<object_id>/config
TOPIC = re.compile(r"(?P<prefix>.+)/device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
MAX_STATE_CHARS = 255

Filter = Annotated[str, Field(min_length=1)]
Template = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Availability(_Strict):
    """One topic that says whether the device is there."""

    topic: Filter
    payload_available: str = "online"
    payload_not_available: str = "offline"
    value_template: Template | None = None


class Shared(_Strict):
    """Keys of every component."""

    unique_id: str  # required of a component of a device
    name: str | None = None
    icon: str | None = None
    entity_category: Literal["config", "diagnostic"] | None = None
    enabled_by_default: bool = True
    state_topic: Filter
    value_template: Template | None = None
    json_attributes_topic: Filter | None = None
    json_attributes_template: Template | None = None
    expire_after: Annotated[int, Field(ge=0)] = 0
    force_update: bool = False
    qos: Literal[0, 1, 2] = 0


class Sensor(Shared):
    """A value."""

    platform: Literal["sensor"]
    device_class: Literal["data_size", "duration", "timestamp", "enum"] | None = None
    state_class: Literal["measurement", "total", "total_increasing"] | None = None
    unit_of_measurement: str | None = None
    suggested_display_precision: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _unit_of_its_class(self) -> Self:
        units = {"data_size": {"B", "kB", "MB", "GB", "KiB", "MiB", "GiB"}, "duration": {"s", "ms"}}
        if self.device_class in units:
            assert self.unit_of_measurement in units[self.device_class]
        return self


class BinarySensor(Shared):
    """On or off."""

    platform: Literal["binary_sensor"]
    device_class: Literal["problem", "connectivity", "running"] | None = None
    payload_on: str = "ON"
    payload_off: str = "OFF"
    off_delay: Annotated[int, Field(ge=0)] | None = None


class Event(Shared):
    """Something that happens."""

    platform: Literal["event"]
    event_types: Annotated[list[str], Field(min_length=1)]
    device_class: Literal["button", "doorbell", "motion"] | None = None


class Device(_Strict):
    """What the entities are of."""

    identifiers: list[str] | str | None = None
    connections: list[tuple[str, str]] | None = None
    name: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    model_id: str | None = None
    serial_number: str | None = None
    sw_version: str | None = None
    hw_version: str | None = None
    suggested_area: str | None = None
    via_device: str | None = None
    configuration_url: str | None = None

    @model_validator(mode="after")
    def _identified(self) -> Self:
        assert self.identifiers or self.connections
        return self


class Origin(_Strict):
    """Who says so; required of a device's discovery."""

    name: str
    sw_version: str | None = None
    support_url: str | None = None


class DeviceDiscovery(_Strict):
    """The payload."""

    device: Device
    origin: Origin
    components: Annotated[
        dict[str, Annotated[Sensor | BinarySensor | Event, Field(discriminator="platform")]],
        Field(min_length=1),
    ]
    availability: list[Availability] | None = None
    availability_mode: Literal["all", "any", "latest"] = "latest"
    availability_topic: Filter | None = None
    state_topic: Filter | None = None
    command_topic: Filter | None = None
    qos: Literal[0, 1, 2] | None = None
    encoding: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        assert self.availability is None or self.availability_topic is None
        return self
