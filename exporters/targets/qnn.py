"""Qualcomm's NPU: a QDQ graph for each length, and contexts compiled of them for the SoC.

A context is bound to SoC, HTP architecture and QAIRT version (onnxruntime-qnn issue 564), so it is
a variant of its own, before the one of QDQ graphs, which any HTP compiles for itself when it loads
them. Contexts of several lengths do not share their weights: the compiler can (35.8 MB in place of
35 for each), but the emulator crashes on what it makes then, so it could not be proved.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx

from edgeslm.contract.manifest import Requirements, Verified
from edgeslm.contract.profile import DeviceProfile, QnnTarget
from edgeslm.errors import ConfigError, RejectedError
from edgeslm.providers import qnn
from exporters.heads.base import FittedHead
from exporters.htp import quantized
from exporters.htp_context import check_soc, compile_context
from exporters.targets.base import ANYWHERE, Compiled, Plan, Workbench
from exporters.weights import save_graphs

QDQ: Final = "qnn-a16w8"
CONTEXT: Final = "qnn-context"
_TEXTS: Final = 96  # that activations are measured on


class NoCompilerError(RejectedError):
    """The profile asks for compiled contexts, and the compiler is not installed."""

    code = "target.no_compiler"


def plans(profile: DeviceProfile) -> Sequence[Plan]:
    """See `exporters.targets.base.Target.plans`.

    Raises:
        ConfigError: the profile has no [qnn] section, or names no SoC to compile for.
        NoCompilerError: it asks for contexts, and onnxruntime-qnn is not installed.
        UnknownSocError: its compiler does not know the SoC.
    """
    section = _section(profile)
    first = profile.providers[0] == "qnn"
    plain = Plan(
        QDQ,
        "qnn",
        "a16w8",
        Requirements(),  # the graph runs wherever QNN does, the emulator too
        placement=profile.placement if first else ANYWHERE,
        lengths=section.buckets,
        emulated=True,
    )
    if not section.compile_context:
        return [plain]
    if (missing := qnn.problem()) is not None:
        msg = f"profile {profile.name}: [qnn] compile_context: {missing}, or set it to false"
        raise NoCompilerError(msg)
    if profile.requires.soc is None:
        raise _config_error(profile, "requires.soc", "missing; a context is bound to one")
    check_soc(section.soc_model, section.htp_arch)
    bound = {"accelerator": section.htp_arch, "runtime": qnn.runtime()}
    return [replace(plain, name=CONTEXT, requires=profile.requires.model_copy(update=bound)), plain]


def compile(  # noqa: A001 -- the port's word
    plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
) -> Compiled:
    """See `exporters.targets.base.Target.compile`.

    Raises:
        ConfigError: the profile has no [qnn] section.
        BucketError: a bucket is longer than the model takes.
        DynamicShapeError: the model has shapes that depend on the text.
        GraphError: the compiler does not take the graph.
        CalibrationError: the training texts are too few to measure activations on.
    """
    section = _section(profile)
    head = workbench.fit()
    source = workbench.once(("qnn", plan.lengths), lambda: _qdq(plan.lengths, head, workbench))
    graphs = tuple(_name(length) for length in plan.lengths)
    contexts: list[str] = []
    if plan.name == CONTEXT:
        for name in graphs:
            context = compile_context(
                source / name,
                folder / name,
                soc_model=section.soc_model,
                htp_arch=section.htp_arch,
            )
            contexts.append(context.name)
    else:
        _copy(source, folder)
    return Compiled(
        head,
        graphs,
        _verified(),
        contexts=tuple(contexts),
        twin=lambda other: _copy(source, other),
    )


def _qdq(lengths: Sequence[int], head: FittedHead, workbench: Workbench) -> Path:
    """Return a folder of the QDQ graphs, their weights in one file."""
    folder = workbench.folder()
    model: onnx.ModelProto = head.attach(workbench.encoder.model)
    graphs = quantized(model, lengths, workbench.calibration(_TEXTS))
    save_graphs({_name(length): graph for length, graph in graphs.items()}, folder)
    return folder


def _name(length: int) -> str:
    return f"model-{length}.onnx"


def _copy(source: Path, other: Path) -> None:
    # Not the folder itself, which is ours alone: who reads the bundle is another user.
    for file in source.iterdir():
        shutil.copy2(file, other / file.name)


def _verified() -> Verified:
    """Where what is made runs here: on this machine's own HTP, its emulator, or nowhere."""
    if qnn.problem() is not None:
        return "none"
    return "emulated" if qnn.emulated() else "silicon"


def _section(profile: DeviceProfile) -> QnnTarget:
    if profile.qnn is None:
        raise _config_error(profile, "qnn", "missing")
    return profile.qnn


def _config_error(profile: DeviceProfile, field: str, what: str) -> ConfigError:
    remedy = "Add it, or take `qnn` out of `providers`."
    return ConfigError(f"profile {profile.name}", [(field, what)], remedy=remedy)
