"""The generated documents say what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from edgeslm.contract.base import parse_json, parse_toml
from edgeslm.contract.manifest import Manifest
from edgeslm.contract.messages import ADAPTERS
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.rollout import Plan
from edgeslm.contract.settings import load_settings

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PAYLOADS = [(p, p.name.split(".")[0]) for p in sorted(EXAMPLES.glob("*.json"))]
PAYLOADS = [(path, kind) for path, kind in PAYLOADS if kind in ADAPTERS]


def schema(name: str) -> Draft202012Validator:
    found = json.loads((DOCS / "schemas" / f"{name}.json").read_bytes())
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found, format_checker=FormatChecker())


@pytest.mark.parametrize(("path", "kind"), PAYLOADS, ids=lambda v: getattr(v, "name", v))
def test_every_example_payload_fits_the_code_and_the_schema(path: Path, kind: str) -> None:
    payload = json.loads(path.read_bytes())
    assert ADAPTERS[kind].validate_python(payload) == payload  # nothing in it is ignored
    schema(kind).validate(payload)


def test_every_kind_of_payload_has_an_example() -> None:
    assert {kind for _, kind in PAYLOADS} == set(ADAPTERS)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_payload_without_a_required_field_fits_neither(kind: str) -> None:
    payload = json.loads(next(path for path, k in PAYLOADS if k == kind).read_bytes())
    for field in schema(kind).schema["required"]:
        less = {k: v for k, v in payload.items() if k != field}
        assert not schema(kind).is_valid(less)
        with pytest.raises(ValueError, match=field):
            ADAPTERS[kind].validate_python(less)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_reader_ignores_fields_it_does_not_know(kind: str) -> None:
    path = next(path for path, k in PAYLOADS if k == kind)
    payload = json.loads(path.read_bytes()) | {"from_the_future": {"a": [1]}}
    schema(kind).validate(payload)
    assert "from_the_future" not in ADAPTERS[kind].validate_python(payload)


def test_the_example_manifest_fits_the_code_and_the_schema() -> None:
    raw = (EXAMPLES / "manifest.json").read_bytes()
    parse_json(Manifest, raw, file="manifest.json", remedy="Export again.")
    schema("manifest").validate(json.loads(raw))


def test_the_example_profile_fits_the_code_and_the_schema() -> None:
    raw = (EXAMPLES / "profile.toml").read_bytes()
    profile = parse_toml(DeviceProfile, raw, file="profile.toml", remedy="Correct it.")
    schema("profile").validate(profile.model_dump(mode="json"))


def test_the_example_plan_fits_the_code_and_the_schema() -> None:
    raw = (EXAMPLES / "plan.toml").read_bytes()
    plan = parse_toml(Plan, raw, file="plan.toml", remedy="Correct it.")
    schema("plan").validate(plan.model_dump(mode="json"))


def test_the_example_settings_fit_the_code_and_the_schema() -> None:
    settings = load_settings(EXAMPLES / "agent.toml")
    schema("settings").validate(settings.model_dump(mode="json", exclude_none=True))


# AsyncAPI 3.0: the rules of the specification that a document of this kind can break.

ASYNCAPI = json.loads((DOCS / "asyncapi.json").read_bytes())


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(ref := node.get("$ref"), str):
            yield ref
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(ref: str) -> Any:
    assert ref.startswith("#/"), ref
    node: Any = ASYNCAPI
    for part in ref[2:].split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    found = list(references(ASYNCAPI))
    assert found
    for ref in found:
        resolve(ref)


def test_the_asyncapi_document_has_its_required_fields() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(ASYNCAPI["info"])
    for server in ASYNCAPI["servers"].values():
        assert {"host", "protocol"} <= set(server)
        assert set(re.findall(r"{(\w+)}", server["host"])) == set(server["variables"])


@pytest.mark.parametrize("name", ASYNCAPI["channels"])
def test_a_channels_parameters_are_those_of_its_address(name: str) -> None:
    channel = ASYNCAPI["channels"][name]
    named = set(re.findall(r"{(\w+)}", channel["address"] or ""))
    assert named == set(channel.get("parameters", {}))
    assert channel["messages"]


@pytest.mark.parametrize("name", ASYNCAPI["operations"])
def test_an_operation_names_a_channel_and_what_mqtt_does(name: str) -> None:
    operation = ASYNCAPI["operations"][name]
    assert operation["action"] in {"send", "receive"}
    assert re.fullmatch(r"#/channels/\w+", operation["channel"]["$ref"])
    assert operation["bindings"]["mqtt"]["qos"] == 1
    retained = operation["channel"]["$ref"].rsplit("/", 1)[1] in {"status", "state", "update"}
    assert operation["bindings"]["mqtt"].get("retain", False) is retained


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_asyncapi_message_shows_examples_that_fit_its_payload(kind: str) -> None:
    message = ASYNCAPI["components"]["messages"][kind]
    payload = {**message["payload"], "components": ASYNCAPI["components"]}
    assert message["examples"]
    for example in message["examples"]:
        Draft202012Validator(payload).validate(example["payload"])


def test_the_profile_that_the_guide_shows_is_one() -> None:
    text = (DOCS / "adding-a-device.md").read_text()
    [shown] = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    profile = parse_toml(DeviceProfile, shown.encode(), file="guide", remedy="Mend the guide.")
    assert f"{profile.name}.toml" in text
