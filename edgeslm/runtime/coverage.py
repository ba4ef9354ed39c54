"""What share of a graph its provider took, held against what the bundle asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from edgeslm.adapters.ort import GraphError, make_session
from edgeslm.contract.base import problems_of
from edgeslm.contract.manifest import Coverage, Fallen, Placement
from edgeslm.contract.messages import CoverageState
from edgeslm.errors import InvalidFileError, RejectedError
from edgeslm.ports import Piece, Session, SessionOptions
from edgeslm.runtime.bundle import VariantFiles

CPU: Final = "CPUExecutionProvider"
_CPU_KEY: Final = "cpu"  # of edgeslm/providers/: runs what another provider does not take
Costs = dict[str, dict[str, int]]
"""Path of a graph -> name of a node -> multiply-adds of one inference."""
_COSTS: Final = TypeAdapter(Costs)


class CoverageError(RejectedError):
    """The provider took less of the graph than its profile asks for, or in too many pieces."""

    code = "coverage.missed"


def read_costs(files: VariantFiles) -> Costs:
    """Return what the nodes of a variant cost; nothing where it does not say.

    Raises:
        InvalidFileError: its file is not one of costs.
        BundleTamperedError: it cannot be read.
    """
    found = files.artifacts("costs")
    if not found:
        return {}
    try:
        return _COSTS.validate_json(files.read("costs"))
    except ValidationError as err:
        remedy = "Export the bundle again."
        raise InvalidFileError(found[0].path, problems_of(err), remedy=remedy) from None


def open_graph(graph: Path, options: SessionOptions) -> Session:
    """Open a session; where what fell off may not run on the CPU, say what fell off.

    ONNX Runtime refuses such a graph, and names nothing.

    Raises:
        GraphError: it cannot be loaded.
        CoverageError: the provider did not take all of it, and the CPU may not help.
    """
    try:
        return make_session(graph, options=options)
    except GraphError:
        if options.cpu_fallback:
            raise
        helped = make_session(graph, options=replace(options, cpu_fallback=True))
        all_of_it = Placement(min_coverage=1.0, cpu_fallback=False)
        check(coverage(helped.pieces, options.ep, {}), all_of_it, graph=graph.name)
        raise


def coverage(
    pieces: Sequence[Piece], ep: str, costs: Mapping[str, int], known: Coverage | None = None
) -> Coverage:
    """Return what `ep` took.

    Args:
        pieces: of a loaded session.
        ep: ONNX Runtime's name of the provider that the graph is for.
        costs: multiply-adds of one inference by name of the node; nodes without count nothing.
        known: what the exporter found of the same graph, and why: ONNX Runtime gives no reason.
    """
    taken = [piece for piece in pieces if piece.ep == ep]
    rest = [node for piece in pieces if piece.ep != ep for node in piece.nodes]
    inside = [node for piece in taken for node in piece.nodes]
    fallen = Counter(operator for _, operator in rest)
    whys: dict[str, list[str]] = {}
    for one in known.fallen if known is not None else ():
        whys.setdefault(one.operator, []).append(one.why)
    operations = sum(costs.get(name, 0) for name, _ in inside)
    return Coverage(
        nodes=len(inside) + len(rest),
        nodes_taken=len(inside),
        operations=operations + sum(costs.get(name, 0) for name, _ in rest),
        operations_taken=operations,
        # The CPU's nodes are listed one by one, and run as one.
        partitions=min(1, len(taken)) if ep == CPU else len(taken),
        fallen=tuple(
            Fallen(
                operator=operator,
                count=count,
                why="; ".join(whys.get(operator, [f"not taken by {ep}"])),
            )
            for operator, count in sorted(fallen.items())
        ),
    )


def coverage_state(provider: str, found: Coverage) -> CoverageState:
    """What `provider` took of a graph, and what the CPU runs in its place."""
    nodes, operations = {provider: found.nodes_taken}, {provider: found.operations_taken}
    if found.nodes > found.nodes_taken:
        nodes[_CPU_KEY] = found.nodes - found.nodes_taken
        operations[_CPU_KEY] = found.operations - found.operations_taken
    return {
        "nodes": nodes,
        "operations": operations,
        "partitions": found.partitions,
        "fallen": [{"operator": f.operator, "count": f.count, "why": f.why} for f in found.fallen],
    }


def share(found: Coverage) -> float:
    """Share of the nodes that were taken, in [0, 1]; a graph without nodes is all taken."""
    return found.nodes_taken / found.nodes if found.nodes else 1.0


def check(found: Coverage, asked: Placement, *, graph: str) -> None:
    """Hold what was found against what was asked for.

    Raises:
        CoverageError: too few nodes, too many pieces, or some for the CPU where it may not help;
            names what fell off.
    """
    fallen = ", ".join(f"{f.count} {f.operator}" for f in found.fallen) or "none"
    if share(found) < asked.min_coverage:
        msg = (
            f"{graph}: the provider took {found.nodes_taken} of {found.nodes} nodes "
            f"({share(found):.1%}), and {asked.min_coverage:.1%} are asked for; fallen off: "
            f"{fallen}. Export for what the device has, or lower min_coverage in the profile."
        )
        raise CoverageError(msg)
    if asked.max_partitions is not None and found.partitions > asked.max_partitions:
        msg = (
            f"{graph}: falls into {found.partitions} pieces on the provider, and "
            f"{asked.max_partitions} are allowed; between them run: {fallen}. Raise "
            "max_partitions in the profile, or export another recipe."
        )
        raise CoverageError(msg)
    if not asked.cpu_fallback and found.nodes_taken < found.nodes:
        msg = (
            f"{graph}: {found.nodes - found.nodes_taken} of {found.nodes} nodes are left to the "
            f"CPU, which may not help: {fallen}. Export another recipe, or set cpu_fallback in "
            "the profile."
        )
        raise CoverageError(msg)
