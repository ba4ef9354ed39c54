"""The ML-BOM of a bundle keeps to CycloneDX's schema, and says what the manifest says."""

from __future__ import annotations

import json
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgeslm.contract.manifest import Artifact, BaseModelInfo, Manifest, Role, Tolerance
from exporters.mlbom import ml_bom

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


def bom() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ml_bom(MANIFEST, DIGEST, REPORT))
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
    assert ml_bom(MANIFEST, DIGEST, REPORT) == ml_bom(MANIFEST, DIGEST, dict(REPORT))
