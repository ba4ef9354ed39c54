"""What runs elsewhere: in an emulator, or node by node by its documentation."""

from __future__ import annotations

from typing import Final

from benchmarks.figures.base import FP32, Spec

EMULATED: Final[tuple[Spec, ...]] = (
    Spec(
        "arm-agreement",
        "arm",
        "BANKING77 on a Cortex-A72, emulated, 100 texts: the same intent",
        "%",
        "the same bundle on x86-64",
        ">=",
        98,
    ),
    Spec(
        "npu-intent-nodes",
        "npu_intent",
        "QNN, emulated, BANKING77: nodes on the NPU, no fallback; least bucket",
        "%",
        "all of them",
        ">=",
        100,
    ),
    Spec(
        "npu-intent",
        "npu_intent",
        "QNN, emulated, BANKING77, 200 texts: accuracy",
        "points",
        FP32,
        ">=",
        -1.0,
        "difference",
    ),
    Spec(
        "npu-intent-buckets",
        "npu_intent",
        "QNN, emulated, BANKING77, 25 texts a bucket: the same intent, least bucket",
        "%",
        FP32,
        ">=",
        92,
    ),
    Spec(
        "npu-anomaly-nodes",
        "npu_anomaly",
        "QNN, emulated, BGL lines: nodes on the NPU, no fallback; least bucket",
        "%",
        "all of them",
        ">=",
        100,
    ),
    Spec(
        "npu-anomaly",
        "npu_anomaly",
        "QNN, emulated, BGL lines, 200 texts: AUROC",
        "points",
        FP32,
        ">=",
        -1.0,
        "difference",
    ),
    Spec(
        "npu-anomaly-buckets",
        "npu_anomaly",
        "QNN, emulated, BGL lines, 25 texts a bucket: the same verdict, least bucket",
        "%",
        FP32,
        ">=",
        92,
    ),
)
DOCUMENTED: Final[tuple[Spec, ...]] = (
    Spec(
        "openvino-nodes",
        "openvino",
        "BANKING77, static int8: nodes that OpenVINO takes, without the CPU's help",
        "%",
        "ONNX Runtime's own kernels",
        ">=",
        100,
    ),
    Spec(
        "openvino-accuracy",
        "openvino",
        "BANKING77, static int8 on OpenVINO's processor device: accuracy",
        "%",
        FP32,
        ">=",
        -0.5,
        "difference",
    ),
    Spec(
        "openvino-cpu",
        "openvino",
        "BANKING77, static int8 on OpenVINO's processor device: CPU time of one answer",
        "ms",
        "the same bundle's int8 on ONNX Runtime's own kernels",
        "<=",
        None,
        "ratio",
    ),
    Spec(
        "coreml-nodes",
        "coreml",
        "float16: nodes that Core ML takes as ML Program, by its documentation",
        "%",
        "int8 weights as they lie in the file",
        ">=",
        98,
    ),
)
