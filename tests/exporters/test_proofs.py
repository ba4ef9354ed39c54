"""What device profiles claim of themselves is held against what an export here proves."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm import providers
from edgeslm.contract.manifest import Artifact
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.device import this_device
from edgeslm.runtime.placement import PROVED
from edgeslm.runtime.profiles import load_profile, profile_names
from edgeslm.runtime.variants import CPU, absent
from exporters.export import Job, export
from exporters.targets.qnn import NoCompilerError
from tests.exporters.conftest import Stages

pytestmark = pytest.mark.usefixtures("own_cache")
STRENGTH = list(reversed(PROVED))  # weakest first
DOCS = Path(__file__).parents[2] / "docs"


def runs_here(graphs: list[Artifact]) -> bool:
    """Whether this machine, or an emulator on it, could repeat what was proved of them."""
    provider = providers.load(graphs[0].provider or CPU)
    fits = all(this_device().lacks(graph.requires) is None for graph in graphs)
    emulated = graphs[0].verified == "emulated"
    return provider is not None and absent(provider, graphs) is None and (fits or emulated)


@pytest.mark.slow
@pytest.mark.parametrize("name", profile_names())
def test_a_profile_claims_no_more_than_an_export_proves(
    name: str, toy_model: Path, orders: Path, tmp_path: Path
) -> None:
    profile = load_profile(name)
    job = Job(
        task="intent", model=str(toy_model), data=orders, profile=name, name="toy", version=1,
        out=tmp_path / "out", share=0.05, allow_drop=True,
    )  # fmt: skip
    try:
        export(job, Stages())
    except NoCompilerError as err:
        pytest.skip(str(err))
    manifest = open_bundle(tmp_path / "out" / "bundle").manifest
    graphs = [a for a in manifest.artifacts if a.role == "graph"]
    first = [g for g in graphs if g.provider == profile.providers[0]]
    assert first, "the first choice is in the bundle"
    proved = min(STRENGTH.index(g.verified or "none") for g in first)
    claimed = STRENGTH.index(profile.verified)
    if claimed > proved and not runs_here(first):
        pytest.skip(f"{profile.verified} cannot be repeated on this machine")
    assert claimed <= proved, "verified in the profile"
    for graph in graphs:
        if graph.coverage is not None:
            assert graph.coverage.operations >= graph.coverage.operations_taken > 0


def test_the_page_of_providers_names_each_of_them_and_each_device() -> None:
    text = (DOCS / "providers.md").read_text()
    for name in profile_names():
        assert f"| `{name}` |" in text
    for key in providers.names():
        assert f"\n## `{key}`\n" in text
    assert "The exporter has no target for it" not in text
