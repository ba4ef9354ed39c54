"""Every error class of the packages, read from their source without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGES: Final = ("edgeslm", "exporters")
BASE: Final = "EdgeSLMError"


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """One class that descends from `EdgeSLMError`."""

    name: str
    module: str
    code: str
    exit_status: int
    meaning: str


@dataclass(frozen=True, slots=True)
class _Found:
    module: str
    bases: tuple[str, ...]
    values: dict[str, object]
    doc: str


def error_classes(root: Path) -> list[ErrorClass]:
    """Return them sorted by code, then name.

    Raises:
        ValueError: two classes of one name, or a `code` that is not a literal.
    """
    constants: dict[str, object] = {}
    found: dict[str, _Found] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            tree = ast.parse(path.read_bytes(), filename=str(path))
            constants |= _exit_constants(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                    if node.name in found:
                        msg = f"{module}.{node.name}: {found[node.name].module} has one too"
                        raise ValueError(msg)
                    found[node.name] = _read(node, module, constants)
    ours = [name for name in found if name != BASE and BASE in _ancestors(name, found)]
    return sorted((_error(name, found) for name in ours), key=lambda e: (e.code, e.name))


def _exit_constants(tree: ast.Module) -> dict[str, object]:
    return {
        node.target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id.startswith("EXIT_")
        and isinstance(node.value, ast.Constant)
    }


def _read(node: ast.ClassDef, module: str, constants: dict[str, object]) -> _Found:
    values: dict[str, object] = {}
    for statement in node.body:
        target = value = None
        if isinstance(statement, ast.Assign):
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign):
            target, value = statement.target, statement.value
        if not isinstance(target, ast.Name) or target.id not in {"code", "exit_status"}:
            continue
        if isinstance(value, ast.Constant):
            values[target.id] = value.value
        elif isinstance(value, ast.Name) and value.id in constants:
            values[target.id] = constants[value.id]
        elif value is not None:
            msg = f"{module}.{node.name}.{target.id} is not a literal"
            raise ValueError(msg)
    bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
    return _Found(module, bases, values, ast.get_docstring(node) or "")


def _ancestors(name: str, found: dict[str, _Found]) -> list[str]:
    """Return `name` and what it descends from, nearest first."""
    line = [name]
    for base in found[name].bases if name in found else ():
        line += _ancestors(base, found)
    return line


def _error(name: str, found: dict[str, _Found]) -> ErrorClass:
    line = [found[n] for n in _ancestors(name, found) if n in found]

    def inherited(attribute: str) -> object:
        return next(f.values[attribute] for f in line if attribute in f.values)

    status = inherited("exit_status")
    assert isinstance(status, int)  # noqa: S101 -- every root has one
    meaning = found[name].doc.split("\n\n")[0].replace("\n", " ")
    return ErrorClass(name, found[name].module, str(inherited("code")), status, meaning)
