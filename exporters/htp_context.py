"""QDQ graphs -> context binaries, compiled ahead of time for one SoC of Qualcomm's.

The compiler runs in a process of its own for each graph. So a crash of it is an error like others;
and so the same graph gives the same bytes: it numbers what it makes on through a process, and puts
a hash of an address into the file, which must not be where chance puts it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeslm.adapters.ort import GraphError, compile_ahead
from edgeslm.errors import RejectedError
from edgeslm.ports import SessionOptions
from edgeslm.providers import qnn
from exporters.room import temporary

_NOT_RANDOM: Final = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)
_COMPATIBLE: Final = f"ep_compatibility_info.{qnn.EP}"
# Of that text, "v2:6:2.51.0:5.51.0:79:69:0:0": where 0 stands for what the plug-in does not know.
_ARCH, _SOC = 4, 5
_GRAPH: Final = "graph.onnx"
# Where a context says for which architectures it is: what was asked for does not change them.
_COMPILED_FOR: Final = re.compile(rb"\barch=(\d\d);num_nsps")
_REFUSED: Final = 65
_LINES: Final = 3


class UnknownSocError(RejectedError):
    """Qualcomm's compiler does not know the SoC of the profile, or not its HTP."""

    code = "target.unknown_soc"


def compile_context(graph: Path, out: Path, *, soc_model: str, htp_arch: str) -> Path:
    """Compile a QDQ graph for a SoC; return the file of the context.

    Args:
        graph: ONNX, its weights beside it.
        out: file to write: a graph of one node, which refers to the context beside it.
        soc_model: QAIRT's name or number of the SoC.
        htp_arch: of its HTP, as in profiles: v73.

    Raises:
        GraphError: the compiler does not take the graph.
    """
    with temporary() as folder:
        whole = onnx.load(graph)
        whole_file = folder / _GRAPH
        whole_file.write_bytes(whole.SerializeToString(deterministic=True))
        command = [sys.executable, "-m", __name__, str(folder), out.name, soc_model, htp_arch]
        done = subprocess.run(  # noqa: S603 -- this very module
            command,
            cwd=Path(__file__).parents[1],
            env={"PYTHONHASHSEED": "0", "PATH": os.defpath, "EDGESLM_ADDRESSES": "random"},
            capture_output=True,
            check=False,
            text=True,
        )
        if done.returncode == _REFUSED:
            raise GraphError(done.stderr.strip().splitlines()[-1])
        if done.returncode:
            last = " ".join(done.stderr.split("\n")[-_LINES:])[:300]
            msg = f"{out.name}: the compiler for {soc_model} ended with {done.returncode}: {last}"
            raise GraphError(msg)
        made = folder / "out"
        [context] = made.glob("*.bin")
        for file in (made / out.name, context):
            out.with_name(file.name).write_bytes(file.read_bytes())
    return out.with_name(context.name)


@functools.cache
def check_soc(soc_model: str, htp_arch: str) -> None:
    """Make sure that the compiler knows the SoC: it takes any name, and compiles for another then.

    Raises:
        UnknownSocError: it does not, or the SoC has an HTP of another architecture.
    """
    archs: set[str] = set()
    with temporary() as folder:
        out = folder / _GRAPH
        try:
            compile_ahead(_probe(), out, options=_options(soc_model, htp_arch))
        except GraphError:
            known = ["0"] * (_SOC + 1)
        else:
            wrapper = onnx.load(out)
            [known] = [p.value.split(":") for p in wrapper.metadata_props if p.key == _COMPATIBLE]
            found = [_COMPILED_FOR.findall(file.read_bytes()) for file in out.parent.glob("*.bin")]
            archs = {arch.decode() for each in found for arch in each}
    if "0" in {known[_SOC], known[_ARCH]}:
        field, value = ("soc_model", soc_model) if known[_SOC] == "0" else ("htp_arch", htp_arch)
        msg = (
            f"[qnn] {field}: QAIRT {qnn.runtime()} does not know {value!r}. Give the name that its "
            "compiler has (SM8750), or the number of Qualcomm's table of SoCs (93 is QCM6490), and "
            "the architecture of its HTP (v68)."
        )
        raise UnknownSocError(msg)
    if archs and htp_arch.removeprefix("v") not in archs:
        right = " or ".join(f"v{arch}" for arch in sorted(archs))
        msg = f"[qnn] htp_arch: QAIRT's {soc_model} has {right}, the profile says {htp_arch!r}"
        raise UnknownSocError(msg)


def _options(soc_model: str, htp_arch: str) -> SessionOptions:
    chosen = {"soc_model": soc_model, "htp_arch": htp_arch.removeprefix("v")}
    return replace(qnn.htp(chosen), cpu_fallback=False)


def _probe() -> bytes:
    """The least graph that the HTP takes: a sum of 8-bit numbers."""
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(128, np.uint8), "zero")

    def quantized(name: str, source: str) -> list[onnx.NodeProto]:
        small = f"{name}/small"
        return [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], [small], name=small),
            helper.make_node("DequantizeLinear", [small, "scale", "zero"], [name], name=name),
        ]

    nodes = [
        *quantized("real", "x"),
        helper.make_node("Add", ["real", "real"], ["sum"], name="sum"),
        *quantized("y", "sum"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 32]) for n in "xy")
    graph = helper.make_graph(nodes, "probe", [x], [y], [scale, zero])
    opset = helper.make_opsetid("", 18)
    made = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    raw: bytes = made.SerializeToString(deterministic=True)
    return raw


def _child(arguments: list[str]) -> int:
    """Compile, in a process whose addresses are the same each time where the system allows it."""
    if os.environ.pop("EDGESLM_ADDRESSES", None) is not None:
        ctypes.CDLL(None).personality(_NOT_RANDOM)  # containers may refuse: then bytes may differ
        os.execv(sys.executable, [sys.executable, "-m", "exporters.htp_context", *arguments])  # noqa: S606
    folder, name, soc_model, htp_arch = arguments
    out = Path(folder) / "out"
    out.mkdir()
    try:
        model = (Path(folder) / _GRAPH).read_bytes()
        compile_ahead(model, out / name, options=_options(soc_model, htp_arch))
    except GraphError as err:
        sys.stderr.write(f"{err}\n")
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
