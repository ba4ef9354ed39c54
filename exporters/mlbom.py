"""`bom.cdx.json`: a bundle as CycloneDX describes a model, for who must account for one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from edgeslm.contract.manifest import Artifact, BaseModelInfo, Manifest, Stage
from exporters.report.content import FLOAT32

ML_BOM: Final = "bom.cdx.json"
# The least that has `modelCard`, and what the packages' own documents are.
_SPEC: Final = "1.6"
# CycloneDX's word for each.
_KINDS: Final = {"anomaly": "anomaly detection", "intent": "text classification"}


@dataclass(frozen=True, slots=True)
class StageOrigin:
    """An export that is a stage of a cascade, and has a document of its own.

    Args:
        stage: which.
        manifest: of its bundle.
        bundle_hash: SHA-256 of that.
    """

    stage: Stage
    manifest: Manifest
    bundle_hash: str

    @property
    def ref(self) -> str:
        """What the document calls it."""
        return f"stage:{self.stage}"

    @property
    def base_ref(self) -> str:
        """What the document calls the model that it was made from."""
        return f"base-model:{self.stage}"


@dataclass(frozen=True, slots=True)
class Origins:
    """Where a model comes from, besides what its manifest says.

    Args:
        base_license: of the base model, in SPDX's terms; None: nobody has said.
        base_supplier: who passes the base model on; None: nobody has said.
        data: SHA-256 of the training examples; of a cascade, of those that its hand-over was found
            by.
        evaluation: SHA-256 of the examples to judge by; None: some of the former were held out.
        rows: how many it learnt from.
        held_out: by how many it was judged.
        stages: of a cascade; whose documents say what each learnt from, and under which licence.
    """

    base_license: str | None
    base_supplier: str | None
    data: str
    evaluation: str | None
    rows: int
    held_out: int
    stages: tuple[StageOrigin, ...] = ()


def ml_bom(
    manifest: Manifest, bundle_hash: str, report: Mapping[str, Any], origins: Origins
) -> str:
    """Return the document: the model, what it was made from and with, and how good it is.

    It says nothing of when or where: the same bundle, the same bytes.

    Args:
        manifest: of the bundle.
        bundle_hash: SHA-256 of its manifest.
        report: what `quality.json` says.
        origins: what was said of the base model, and the examples.
    """
    model, stages = manifest.name, origins.stages
    tools = [
        _library(*pin) for pin in (("edgeslm", manifest.exporter), *sorted(manifest.pins.items()))
    ]
    parts = [_stage(one) for one in stages] or [_base(manifest.base_model, origins)]
    bases = [_base(one.manifest.base_model, origins, one.base_ref) for one in stages]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": _SPEC,
        "serialNumber": f"urn:uuid:{_serial(bundle_hash)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model,
                "name": model,
                "version": str(manifest.version),
                "hashes": [_sha256(bundle_hash)],
                "modelCard": _card(manifest, report, origins),
                "components": [_file(artifact) for artifact in manifest.artifacts],
            }
        },
        "components": [*parts, *bases, *tools],
        "dependencies": [
            {"ref": model, "dependsOn": [part["bom-ref"] for part in (*parts, *tools)]},
            *({"ref": one.ref, "dependsOn": [one.base_ref]} for one in stages),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _card(manifest: Manifest, report: Mapping[str, Any], origins: Origins) -> dict[str, Any]:
    """Return the model card: its task, examples, what goes in and out, its figures."""
    return {
        "modelParameters": {
            "approach": {"type": "supervised" if manifest.task == "intent" else "unsupervised"},
            "task": _KINDS.get(manifest.task, manifest.task),
            "datasets": _datasets(origins),
            "inputs": [{"format": f"text, up to {manifest.max_tokens} tokens"}],
            "outputs": [{"format": "JSON"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(report)},
        "considerations": {
            "technicalLimitations": [
                f"made for {', '.join(manifest.profiles)}",
                *map(str, report["cautions"]),
            ]
        },
    }


def _metrics(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return each number of the original, and of each variant, that is one."""
    slices = {key: report[key] for key in (FLOAT32.key, "second") if key in report}
    slices |= {name: one["artifact"] for name, one in report["variants"].items()}
    return [
        {"type": key, "value": f"{value:g}", "slice": name}
        for name, metrics in slices.items()
        for key, value in metrics.items()
        if isinstance(value, int | float)
    ]


def _datasets(origins: Origins) -> list[dict[str, Any]]:
    """Return what it learnt from, and by what it was judged: a file each, or one for both."""
    held_out = origins.evaluation or origins.data
    learnt = "examples that the hand-over was found by" if origins.stages else "training examples"
    return [
        _dataset(learnt, origins.rows, origins.data),
        _dataset("held-out examples", origins.held_out, held_out),
    ]


def _dataset(name: str, rows: int, sha256: str) -> dict[str, Any]:
    said = {"rows": str(rows), "sha256 of the file": sha256}
    properties = [{"name": key, "value": value} for key, value in said.items()]
    return {"type": "dataset", "name": name, "contents": {"properties": properties}}


def _stage(origin: StageOrigin) -> dict[str, Any]:
    manifest = origin.manifest
    # As CycloneDX's BOM-Link names a document: by its serial number and its version.
    link = f"urn:cdx:{_serial(origin.bundle_hash)}/1"
    return {
        "type": "machine-learning-model",
        "bom-ref": origin.ref,
        "name": manifest.name,
        "version": str(manifest.version),
        "hashes": [_sha256(origin.bundle_hash)],
        "externalReferences": [{"type": "bom", "url": link}],
    }


def _serial(bundle_hash: str) -> UUID:
    return uuid5(NAMESPACE_URL, bundle_hash)


def _base(base: BaseModelInfo, origins: Origins, ref: str = "base-model") -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": base.source,
        "hashes": [_sha256(base.sha256)],
    }
    if origins.base_supplier is not None:
        found["supplier"] = {"name": origins.base_supplier}
    if origins.base_license is not None:
        found["licenses"] = [{"expression": origins.base_license}]
    return found


def _file(artifact: Artifact) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{artifact.path}",
        "name": artifact.path,
        "hashes": [_sha256(artifact.sha256)],
    }


def _library(name: str, version: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"pypi:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower()}@{version}",
        "scope": "excluded",  # it was made with them; they are not in it
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
