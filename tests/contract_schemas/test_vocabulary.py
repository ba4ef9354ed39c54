"""Words that the code puts into payloads are the documented ones, and the other way round."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgeslm.agent.watch import OVER, SUSPECTED
from edgeslm.contract.vocabulary import (
    BROKER_ERRORS,
    DROPS,
    EVENTS,
    INPUT_ERRORS,
    SELF_ERRORS,
)
from edgeslm.fleet.issuing import CLONED

ROOT = Path(__file__).parents[2]
TREES = [ast.parse(path.read_bytes()) for path in sorted((ROOT / "edgeslm").rglob("*.py"))]
CALLS = {"_event", "_trouble", "_on_trouble", "_tell", "event", "trouble"}


def words(node: ast.AST) -> set[str]:
    found = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {value for value in found if isinstance(value, str)}


WORDS = [words(tree) for tree in TREES]


def given(tree: ast.AST, place: int) -> list[ast.expr]:
    """Return what is given in `place` to the agent's calls that send events."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    ours = (c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in CALLS)
    return [call.args[place] for call in ours if len(call.args) > place]


def arguments(place: int) -> set[str]:
    """Return the literals among them."""
    nodes = (node for tree in TREES for node in given(tree, place))
    return {word for node in nodes if isinstance(node, ast.Constant) for word in words(node)}


def chosen() -> set[str]:
    """Return the literals among which an event is chosen: in the call, or before it by name."""
    found: set[str] = set()
    for tree in TREES:
        nodes = given(tree, 0)
        found.update(*(words(node) for node in nodes if isinstance(node, ast.IfExp)))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id in names for t in targets):
                    found |= words(node.value)
    return found


def test_events_are_documented() -> None:
    # The fleet's own is in no call, and drift's are yielded.
    assert arguments(0) | chosen() | {CLONED, SUSPECTED, OVER} == set(EVENTS)


def test_codes_of_brokers_and_of_the_agent_itself_are_documented() -> None:
    assert arguments(1) - set(INPUT_ERRORS) == set(BROKER_ERRORS) | set(SELF_ERRORS)


def test_reasons_of_drops_are_documented() -> None:
    subscripts = (n for tree in TREES for n in ast.walk(tree) if isinstance(n, ast.Subscript))
    drops = (s for s in subscripts if ast.unparse(s.value).endswith("drops"))
    counted = {word for s in drops for word in words(s.slice)}
    prefix = "telemetry_"  # what the outbox counts, whose reasons are arguments
    calls = (n for tree in TREES for n in ast.walk(tree) if isinstance(n, ast.Call))
    given = [
        value
        for call in calls
        if ast.unparse(call.func).endswith(("_give_up", ".thin"))
        for value in (*call.args, *(keyword.value for keyword in call.keywords))
        if isinstance(value, ast.Constant)
    ]
    counted |= {word for value in given for word in words(value) if word.startswith(prefix)}
    assert counted == set(DROPS)


@pytest.mark.parametrize("code", INPUT_ERRORS)
def test_a_code_of_results_is_used_somewhere(code: str) -> None:
    assert sum(code in used for used in WORDS) > 1  # one of them is the list
