"""The ML-BOM of a bundle keeps to CycloneDX's schema, and says what the manifest says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgeslm.contract.manifest import Artifact, BaseModelInfo, Manifest, Role, Tolerance
from exporters.mlbom import Origins, StageOrigin, ml_bom

DIGEST = "5a" * 32
CAUTION = "20 held-out rows are few"
REPORT: dict[str, Any] = {
    "fp32": {"accuracy": 97.5, "labels": ["a", "b"]},
    "variants": {"cpu-int8": {"artifact": {"accuracy": 97.25, "rows": 20}}},
    "cautions": [CAUTION],
}
ROLES: tuple[Role, ...] = ("graph", "tokenizer", "parameters", "golden")
MANIFEST = Manifest(
    name="orders",
    version=3,
    task="intent",
    profiles=("raspberry-pi-4",),
    base_model=BaseModelInfo(source="package:weights", sha256=DIGEST),
    max_tokens=64,
    artifacts=tuple(
        Artifact(
            role=role,
            path=f"{role}.bin",
            size=1,
            sha256=DIGEST,
            tolerance=Tolerance(score=0, confidence=0, verified="none")
            if role == "golden"
            else None,
        )
        for role in ROLES
    ),
    exporter="0.1.0",
    pins={"torch": "2.13.0", "numpy": "2.4.6"},
)
ORIGINS = Origins(
    base_license="Apache-2.0",
    base_supplier="Plant & Sons",
    data="da" * 32,
    evaluation="ea" * 32,
    rows=120,
    held_out=20,
)


def bom(origins: Origins = ORIGINS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ml_bom(MANIFEST, DIGEST, REPORT, origins))
    return found


def test_it_keeps_to_the_schema() -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bom())) is None
    without = bom()
    without["metadata"]["component"]["modelCard"]["modelParameters"]["approach"] = "learned"
    assert validator.validate_str(json.dumps(without)) is not None


def test_it_names_base_model_files_and_what_it_was_made_with() -> None:
    model = bom()["metadata"]["component"]
    assert (model["name"], model["version"]) == ("orders", "3")
    assert [part["name"] for part in model["components"]] == [f"{role}.bin" for role in ROLES]
    used = {part["name"]: part.get("version") for part in bom()["components"]}
    assert used == {
        "package:weights": None,
        "edgeslm": "0.1.0",
        "numpy": "2.4.6",
        "torch": "2.13.0",
    }


def test_it_says_whose_the_base_model_is_where_somebody_has_said_so() -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    base = bom()["components"][0]
    assert base["supplier"] == {"name": "Plant & Sons"}
    assert base["licenses"] == [{"expression": "Apache-2.0"}]
    unsaid = bom(replace(ORIGINS, base_license=None, base_supplier=None))
    assert not {"supplier", "licenses"} & unsaid["components"][0].keys()
    assert validator.validate_str(json.dumps(unsaid)) is None


@pytest.mark.parametrize(("evaluation", "judged_by"), [("ea" * 32, "ea" * 32), (None, "da" * 32)])
def test_its_card_names_the_examples(evaluation: str | None, judged_by: str) -> None:
    """By what cannot be mistaken; not by the names of files, which may tell too much."""
    card = bom(replace(ORIGINS, evaluation=evaluation))["metadata"]["component"]["modelCard"]
    found = {
        one["name"]: [said["value"] for said in one["contents"]["properties"]]
        for one in card["modelParameters"]["datasets"]
    }
    assert found == {
        "training examples": ["120", "da" * 32],
        "held-out examples": ["20", judged_by],
    }


def test_its_card_has_the_figures_and_the_cautions() -> None:
    card = bom()["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert [(m["slice"], m["type"], m["value"]) for m in metrics] == [
        ("fp32", "accuracy", "97.5"),
        ("cpu-int8", "accuracy", "97.25"),
        ("cpu-int8", "rows", "20"),
    ]
    assert CAUTION in card["considerations"]["technicalLimitations"]


def test_the_same_bundle_gives_the_same_bytes() -> None:
    again = ml_bom(MANIFEST, DIGEST, dict(REPORT), ORIGINS)
    assert ml_bom(MANIFEST, DIGEST, REPORT, ORIGINS) == again


def test_of_a_cascade_it_names_both_stages_and_where_their_documents_are() -> None:
    static = MANIFEST.model_copy(update={
        "name": "small", "base_model": BaseModelInfo(source="package:other", sha256="0b" * 32),
    })  # fmt: skip
    large = MANIFEST.model_copy(update={"name": "large"})
    stages = (StageOrigin("first", static, "f1" * 32), StageOrigin("second", large, "52" * 32))
    whole = bom(replace(ORIGINS, base_license=None, base_supplier=None, stages=stages))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(whole)) is None
    parts = {part["bom-ref"]: part for part in whole["components"]}
    assert [parts[f"stage:{stage}"]["name"] for stage in ("first", "second")] == ["small", "large"]
    [link] = parts["stage:first"]["externalReferences"]
    own = json.loads(ml_bom(static, "f1" * 32, REPORT, ORIGINS))
    serial = own["serialNumber"].removeprefix("urn:uuid:")
    assert link == {"type": "bom", "url": f"urn:cdx:{serial}/{own['version']}"}
    assert parts["base-model:first"]["name"] == "package:other"
    needs = {one["ref"]: one["dependsOn"] for one in whole["dependencies"]}
    assert needs["orders"][:2] == ["stage:first", "stage:second"]
    assert needs["stage:first"] == ["base-model:first"]
    datasets = whole["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]
    assert datasets[0]["name"] == "examples that the hand-over was found by"
