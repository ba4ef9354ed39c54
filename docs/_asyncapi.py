"""The AsyncAPI 3 document of everything that goes over MQTT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from edgeslm import __version__
from edgeslm.contract.feedback import FEEDBACK_REPLY, Feedback
from edgeslm.contract.messages import ADAPTERS
from edgeslm.contract.topics import DEFAULT_ROOT, Topics

Json = dict[str, Any]
_MODE: Final[JsonSchemaMode] = "serialization"
_BINDING: Final = "0.2.0"  # of the MQTT bindings

# kind: (retained, what the channel is for, the operation's summary)
_SENT: Final = {
    "status": (True, "Whether the device is there.", "Say that the device is there, or not."),
    "state": (True, "What the device runs and how it fares.", "Say what the device runs."),
    "result": (False, "Answers of one model.", "Answer an input, or say why not."),
    "event": (False, "What a fleet manager may want to know.", "Tell what happened."),
    "update": (True, "What is being updated, and how far it is.", "Say how an update goes."),
    "reply": (False, "What came of a message on `feedback`.", "Say what came of feedback."),
}
_ADAPTERS: Final = {**ADAPTERS, "feedback": TypeAdapter(Feedback), "reply": FEEDBACK_REPLY}
_PARAMETERS: Final = {
    "device": "The device's id: `device_id` in the settings.",
    "model": "The model's name: NAME in `[models.NAME]` of the settings.",
}


def document(examples: Path) -> Json:
    """Return the document; the payloads in the folder `examples` are shown in it."""
    topics = Topics(DEFAULT_ROOT, "{device}")
    addresses = {
        "status": topics.status,
        "state": topics.state,
        "result": topics.results("{model}"),
        "event": topics.events,
        "update": topics.update,
        "reply": topics.feedback_reply,
    }
    keys, shared = type(ADAPTERS["result"]).json_schemas(
        [(kind, _MODE, adapter) for kind, adapter in _ADAPTERS.items()],
        ref_template="#/components/schemas/{model}",
    )
    channels: Json = {"input": _input_channel()}
    operations: Json = {"receiveInput": _operation("receive", "input", "Take a text to answer.")}
    messages: Json = _input_messages(examples)
    told = "What people say of this device's answers; needs `[feedback]` in the settings."
    channels["feedback"] = _channel("feedback", topics.feedback, told)
    operations["receiveFeedback"] = _operation("receive", "feedback", "Learn what somebody says.")
    messages["feedback"] = _message("feedback", keys["feedback", _MODE], examples)
    for kind, (retain, purpose, summary) in _SENT.items():
        channels[kind] = _channel(kind, addresses[kind], purpose)
        operations[f"send{kind.title()}"] = _operation("send", kind, summary, retain=retain)
        messages[kind] = _message(kind, keys[kind, _MODE], examples)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edgeslm over MQTT",
            "version": __version__,
            "description": (
                f"Topics lie under `{DEFAULT_ROOT}` unless `topic_root` in the settings says "
                "otherwise. Payloads are UTF-8 JSON; a reader ignores fields that it does not "
                "know. `schema` is the major version, also the last level of the root."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": _server()},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": shared.get("$defs", {}),
            "parameters": {name: {"description": text} for name, text in _PARAMETERS.items()},
        },
    }


def _server() -> Json:
    return {
        "host": "{host}:{port}",
        "protocol": "mqtt",
        "protocolVersion": "5",
        "description": "Any MQTT 5 broker, or 3.1.1 by setting; TLS by setting.",
        "variables": {
            "host": {"default": "localhost", "description": "`uplink.host` in the settings."},
            "port": {"default": "1883", "description": "8883 with TLS."},
        },
    }


def _channel(kind: str, address: str, purpose: str) -> Json:
    return {
        "address": address,
        "description": purpose,
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"}
            for name in _PARAMETERS
            if f"{{{name}}}" in address
        },
    }


def _input_channel() -> Json:
    return {
        "address": None,
        "description": (
            "What equipment publishes, on whatever topics `[routes.NAME]` in the settings name: "
            "plain text, or JSON in which pointers find the text."
        ),
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in ("plainInput", "jsonInput")
        },
    }


def _operation(action: str, channel: str, summary: str, *, retain: bool = False) -> Json:
    binding: Json = {"qos": 1, "bindingVersion": _BINDING}
    if action == "send":
        binding["retain"] = retain
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": {"mqtt": binding},
    }


def _message(kind: str, payload: Json, examples: Path) -> Json:
    shown = [
        {"name": path.stem.replace(".", "_"), "payload": json.loads(path.read_bytes())}
        for path in sorted(examples.glob(f"{kind}*.json"))
    ]
    return {
        "name": kind,
        "contentType": "application/json",
        "payload": payload,
        "examples": shown,
    }


def _input_messages(examples: Path) -> Json:
    return {
        "plainInput": {
            "name": "plainInput",
            "summary": "The payload is the text, in the route's encoding.",
            "contentType": "text/plain",
            "payload": {"type": "string"},
            "examples": [{"name": "line", "payload": (examples / "input.txt").read_text().strip()}],
        },
        "jsonInput": {
            "name": "jsonInput",
            "summary": "The route's pointers say where text, source, time, key and id are.",
            "contentType": "application/json",
            "payload": {"type": "object"},
            "examples": [
                {"name": "request", "payload": json.loads((examples / "input.json").read_bytes())}
            ],
        },
    }
