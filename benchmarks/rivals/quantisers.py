"""What others make int8 of the same float32 encoder, each by its documented defaults."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final

import onnx

from benchmarks.errors import RunFailedError
from benchmarks.rivals.environments import call, install
from edgeslm.runtime.device import this_device

# Its own dependencies are not ours: an environment of its own, at the versions that we run.
OLIVE_PINS: Final = (
    "olive-ai==0.13.0",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "torch==2.13.0",
    "transformers==4.57.6",
)
_MODEL: Final = "model.onnx"
_RUN_S: Final = 600.0


def optimum(encoder: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return `encoder` by optimum's ORTQuantizer, dynamic, as configured for this CPU.

    Source:
        https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization: its example
        passes is_static=False and per_channel=False.
    """
    from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415 -- imports torch
    from optimum.onnxruntime.configuration import AutoQuantizationConfig  # noqa: PLC0415

    folder.mkdir(parents=True)
    onnx.save(encoder, folder / _MODEL)
    make: Any = AutoQuantizationConfig.avx2
    if "avx512_vnni" in this_device().cpu_features:
        make = AutoQuantizationConfig.avx512_vnni
    elif this_device().arch == "aarch64":
        make = AutoQuantizationConfig.arm64
    logging.disable(logging.WARNING)
    try:
        quantizer = ORTQuantizer(folder / _MODEL)
        config = make(is_static=False, per_channel=False)
        quantizer.quantize(save_dir=folder / "int8", quantization_config=config)
    finally:
        logging.disable(logging.NOTSET)
    [file] = (folder / "int8").glob("*.onnx")
    return onnx.load(file)


def olive(encoder: onnx.ModelProto, folder: Path, environment: Path) -> onnx.ModelProto:
    """Return `encoder` by Olive: its passes for an encoder on the CPU, with their defaults.

    `olive optimize --precision int8` on the CPU wants onnxruntime-genai's builder of decoders and
    a data set from the network, so the passes are named: graph optimisation for the architecture,
    then dynamic quantisation.

    Args:
        encoder: float32.
        folder: a new one, of this run.
        environment: virtual environment with Olive; made where it is not there.

    Raises:
        MissingToolError: Olive cannot be installed.
        RunFailedError: it failed.
    """
    program = install(environment, OLIVE_PINS) / "olive"
    folder.mkdir(parents=True)
    onnx.save(encoder, folder / _MODEL)
    system = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(folder / _MODEL)},
        "systems": {"here": {"type": "LocalSystem", "accelerators": [system]}},
        "passes": {
            "optimise": {"type": "OrtTransformersOptimization", "model_type": "bert"},
            "quantise": {"type": "OnnxDynamicQuantization"},
        },
        "target": "here",
        "output_dir": str(folder / "int8"),
        "cache_dir": str(folder / "cache"),
        "no_artifacts": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    argv = [str(program), "run", "--disable_telemetry", "--run-config", str(folder / "config.json")]
    call(argv, _RUN_S, RunFailedError, cwd=folder)
    return onnx.load(folder / "int8" / _MODEL)
