"""What Home Assistant is told: MQTT discovery, one retained message for the device, one per model.

Its entities read the topics that are there anyway, `results`, `state` and `status`: it is told
where they are, and nothing is published twice. One message for each model, so that an empty one in
its place takes back all entities of a model that goes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm import __version__
from edgeslm.adapters.fs import write_durably
from edgeslm.contract.messages import ModelState
from edgeslm.contract.settings import AgentSettings, HomeAssistantSettings
from edgeslm.contract.topics import discovery_base, discovery_level
from edgeslm.core.delivery import Parcel
from edgeslm.logs import Log

log = Log(__name__)
_DEVICE: Final = "-device"  # no model is called so
_ALARMING: Final = "anomaly"  # task whose results can be alarms
# Jinja, evaluated there. A state has 255 characters at most; a result may be a summary.
_ONLINE: Final = "{{ 'online' if value_json.online else 'offline' }}"
_LABEL: Final = (
    "{% if value_json.label is defined %}{{ value_json.label[:255] }}"
    "{% elif value_json.error is defined %}{{ value_json.error.code }}"
    "{% else %}summary{% endif %}"
)
_SCORE: Final = "{{ value_json.score if value_json.score is defined else '' }}"  # '': as before
_DETAILS: Final = (
    "{{ {'id': value_json.id, 'source': value_json.source, 'topic': value_json.topic, "
    "'version': value_json.model.version} | tojson }}"
)
# Another source's "normal" ends no alarm: that is left to `off_delay`.
_ALARM: Final = (
    "{{ 'ON' if value_json.label is defined and value_json.label == 'anomaly' else '' }}"
)
_NOTICES: Final = ("alarm_raised", "alarm_repeated", "template_shown")
_CLOCK: Final = "{{ value_json.clock if value_json.clock is defined else 'unknown' }}"


class Discovery:
    """What the broker retains of it. Owned by the agent's main thread.

    Args:
        path: where the topics of messages that the broker may retain are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = _read(path)
        self._told: dict[str, bytes] = {}  # on this connection
        self._leaving: dict[Parcel, str] = {}  # taken back, and not confirmed

    def up(self) -> None:
        """The uplink has a new connection: all is told again."""
        self._told.clear()
        self._leaving.clear()

    def tell(self, wanted: Mapping[str, bytes | None], *, now: float) -> list[Parcel]:
        """Return what to publish for the broker to retain `wanted`, and no more of ours.

        Args:
            wanted: payload by topic; None: what it retains there stays.
            now: monotonic seconds.
        """
        said = {topic: payload for topic, payload in wanted.items() if payload is not None}
        if new := said.keys() - self._held:
            self._keep(self._held | new)  # first: what is published must be known of
        gone = dict.fromkeys(sorted(self._held - wanted.keys()), b"")
        out: list[Parcel] = []
        for topic, payload in {**gone, **said}.items():
            if self._told.get(topic) == payload:
                continue
            self._told[topic] = payload
            out.append(parcel := Parcel(topic, payload, now, retain=True))
            if not payload:
                self._leaving[parcel] = topic
        return out

    def confirmed(self, parcels: Collection[Parcel]) -> None:
        """The broker has these, whatever they are."""
        if not self._leaving:
            return
        gone = {self._leaving.pop(parcel) for parcel in parcels if parcel in self._leaving}
        if gone := {topic for topic in gone if not self._told[topic]}:  # and not told again since
            self._keep(self._held - gone)

    def _keep(self, held: frozenset[str]) -> None:
        self._held = held
        try:
            write_durably(self._path, json.dumps(sorted(held)).encode())
        except OSError as err:
            log.warning("discovery_not_saved", reason=str(err))


def announcements(
    settings: AgentSettings, states: Sequence[ModelState], *, profile: str | None
) -> dict[str, bytes | None]:
    """Return what is to be retained for Home Assistant, by topic; None: as it was before.

    That is of a model that has not been loaded yet: which entities it has is not known.

    Args:
        settings: in force.
        states: of the models.
        profile: name of the device's profile, if it has one.
    """
    told = settings.homeassistant
    if told is None:
        return {}
    tasks = {state["name"]: state.get("task") or None for state in states}
    common = _common(settings, profile)
    wanted: dict[str, bytes | None] = {
        _topic(settings, told, _DEVICE): _payload(common, _device(settings))
    }
    for name in settings.models:
        task = tasks.get(name)
        topic = _topic(settings, told, name)
        if task is None:
            wanted[topic] = None
        else:
            wanted[topic] = _payload(common, _model(settings, told, name, alarms=task == _ALARMING))
    return wanted


def _payload(common: Mapping[str, Any], components: Mapping[str, Any]) -> bytes:
    return json.dumps({**common, "components": components}, ensure_ascii=False).encode()


def _common(settings: AgentSettings, profile: str | None) -> dict[str, Any]:
    device = {
        "identifiers": [_own(settings)],
        "name": settings.device_id,
        "manufacturer": "edgeslm",
        "sw_version": __version__,
    }
    if profile is not None:
        device["model"] = profile
    return {
        "device": device,
        "origin": {"name": "edgeslm", "sw_version": __version__},
        "availability": [{"topic": settings.topics.status, "value_template": _ONLINE}],
        "qos": 1,
    }


def _device(settings: AgentSettings) -> dict[str, Any]:
    """Return the entities of the device itself, all of them diagnostic."""
    return {
        "memory": {
            **_diagnostic(settings, "memory", "{{ value_json.rss_mb }}"),
            "name": "Memory",
            "device_class": "data_size",
            "unit_of_measurement": "MB",
            "state_class": "measurement",
        },
        "outbox": {
            **_diagnostic(settings, "outbox", "{{ value_json.outbox }}"),
            "name": "Results waiting",
            "state_class": "measurement",
        },
        "clock": {**_diagnostic(settings, "clock", _CLOCK), "name": "Clock"},
    }


def _model(
    settings: AgentSettings, told: HomeAssistantSettings, name: str, *, alarms: bool
) -> dict[str, Any]:
    """Return the entities of a model."""
    results = settings.topics.results(name)
    state = (
        f"{{{{ value_json.models | selectattr('name', 'eq', '{name}') "
        "| map(attribute='state') | first | default('absent') }}"
    )
    found = {
        "label": {
            "platform": "sensor",
            "unique_id": f"{_own(settings)}_{name}_label",
            "name": name,
            "state_topic": results,
            "value_template": _LABEL,
            "json_attributes_topic": results,
            "json_attributes_template": _DETAILS,
        },
        "score": {
            "platform": "sensor",
            "unique_id": f"{_own(settings)}_{name}_score",
            "name": f"{name} score",
            "state_topic": results,
            "value_template": _SCORE,
            "state_class": "measurement",
        },
        "state": {**_diagnostic(settings, f"{name}_state", state), "name": f"{name} state"},
    }
    if alarms:
        found["alarm"] = {
            "platform": "binary_sensor",
            "unique_id": f"{_own(settings)}_{name}_alarm",
            "name": f"{name} alarm",
            "device_class": "problem",
            "state_topic": results,
            "value_template": _ALARM,
            "off_delay": told.alarm_off_s,
        }
        found["notice"] = {
            "platform": "event",
            "unique_id": f"{_own(settings)}_{name}_notice",
            "name": f"{name} notice",
            "event_types": list(_NOTICES),
            "state_topic": settings.topics.events,
            "value_template": _notice(name),
        }
    return found


def _notice(name: str) -> str:
    """Return what makes of an event what it is there; of one that is no notice of ours, nothing."""
    return (
        f"{{% if value_json.model is defined and value_json.model == '{name}' "
        f"and value_json.event in {list(_NOTICES)} %}}"
        "{{ dict(value_json.detail, event_type=value_json.event) | tojson }}{% endif %}"
    )


def _diagnostic(settings: AgentSettings, name: str, template: str) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "unique_id": f"{_own(settings)}_{name}",
        "entity_category": "diagnostic",
        "state_topic": settings.topics.state,
        "value_template": template,
    }


def _own(settings: AgentSettings) -> str:
    return f"edgeslm_{discovery_level(settings.device_id)}"


def _topic(settings: AgentSettings, told: HomeAssistantSettings, name: str) -> str:
    base = discovery_base(told.discovery_prefix, settings.device_id)
    return f"{base}/{discovery_level(name)}/config"


def _read(path: Path) -> frozenset[str]:
    """What `_keep` wrote; nothing where it cannot be read: then nothing is taken back."""
    try:
        return frozenset(str(topic) for topic in json.loads(path.read_bytes()))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError) as err:
        log.warning("discovery_not_read", reason=str(err))
        return frozenset()
