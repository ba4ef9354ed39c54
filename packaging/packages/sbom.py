"""The CycloneDX document of a package: what is in it, from which wheel, under which licence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5
from zipfile import Path as ZipPath

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from packages.tools import PackagingError

_LONGEST: Final = 100  # of a licence's name; what is longer is its text


@dataclass(frozen=True, slots=True)
class Bundled:
    """A wheel that is in a package; `modules` are its files and folders, as they are installed."""

    name: str
    version: str
    license: str
    sha256: str
    modules: tuple[str, ...]


def read_wheel(wheel: Path) -> Bundled:
    """Return what a wheel says of itself.

    Raises:
        PackagingError: it is none.
    """
    inside = list(ZipPath(wheel).iterdir())
    infos = [path for path in inside if path.name.endswith(".dist-info")]
    if len(infos) != 1:
        msg = f"{wheel.name}: no wheel"
        raise PackagingError(msg)
    about = PathDistribution(infos[0])
    return Bundled(
        about.metadata["Name"],
        about.version,
        _license(about),
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        tuple(sorted(path.name for path in inside if not path.name.endswith(".data"))),
    )


def document(package: str, version: str, arch: str, bundled: Sequence[Bundled], epoch: int) -> str:
    """Return the JSON, checked against CycloneDX's schema: the same package, the same bytes.

    Raises:
        PackagingError: it does not keep to the schema.
    """
    purl = PackageURL("deb", "edgeslm", package, version, {"arch": arch})
    whole = Component(
        name=package,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=package,
        purl=purl,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
    )
    parts = [_component(one) for one in bundled]
    bom = Bom(components=parts, serial_number=uuid5(NAMESPACE_URL, _identity(purl, bundled)))
    bom.metadata.component = whole
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.register_dependency(whole, parts)
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    check(text)
    return text + "\n"


def check(text: str) -> None:
    """Make sure that it is a CycloneDX 1.6 document.

    Raises:
        PackagingError: it is not.
    """
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        msg = f"no CycloneDX document: {str(wrong.data)[:500]}"
        raise PackagingError(msg)


def _component(one: Bundled) -> Component:
    return Component(
        name=one.name,
        version=one.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{one.name}",  # edgeslm's wheel is in edgeslm's package
        purl=PackageURL("pypi", None, one.name.lower().replace("_", "-"), one.version),
        licenses=[LicenseFactory().make_from_string(one.license)] if one.license else [],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one.sha256)],
    )


def _identity(purl: PackageURL, bundled: Iterable[Bundled]) -> str:
    return " ".join((purl.to_string(), *(one.sha256 for one in bundled)))


def _license(about: Distribution) -> str:
    """Return the licence as the metadata say it: an expression, a name, or a classifier's."""
    about_it = about.metadata.json  # a dict of strings and lists, as PEP 566 says
    for key in ("license_expression", "license"):
        said = str(about_it.get(key, ""))
        if 0 < len(said) <= _LONGEST and "\n" not in said:
            return said
    for classifier in about_it.get("classifier", ()):
        if classifier.startswith("License :: "):
            return str(classifier).rpartition(" :: ")[2]
    return ""
