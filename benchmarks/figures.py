"""The figures: what each means, its rival, its bound; and one measured value of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal[">=", "<="]
Compared = Literal["value", "ratio", "difference"]


@dataclass(frozen=True, slots=True)
class Spec:
    """A promise: what is measured, against what, and how good it must be.

    Args:
        name: as on the command line.
        group: module of benchmarks/groups/ that measures it, together with its siblings.
        what: one line for people.
        unit: of the value and of the rival's value.
        rival: what runs beside it.
        direction: whether the bound is a least or a most, or more is better or less.
        bound: a number on `compared`; None: published as it is, and nothing is promised.
        compared: the value itself, value / rival's value, or value - rival's value.
    """

    name: str
    group: str
    what: str
    unit: str
    rival: str
    direction: Direction
    bound: float | None
    compared: Compared = "value"

    def keeps(self, number: float) -> bool:
        """Whether `number`, of the kind `compared` says, is within the bound."""
        if self.bound is None:
            return True
        return number >= self.bound if self.direction == ">=" else number <= self.bound


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure's measurement.

    Args:
        value: ours, in the figure's unit; for repeated measurements the median.
        rival_value: the rival's, in the same unit.
        spread: least and most of what the bound is on, over rounds, seeds or files.
        compared: what the bound is on; None: as it follows from the two values. Medians of
            paired rounds are not the quotient of two medians, so a timing gives it.
        note: what is unlike the usual about this measurement, such as an emulator.
    """

    value: float
    rival_value: float
    spread: tuple[float, float]
    compared: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured promise."""

    spec: Spec
    measured: Measured
    machine: Mapping[str, object]
    commit: str
    quick: bool = False

    @property
    def compared(self) -> float:
        """The number that the bound is on."""
        m = self.measured
        if m.compared is not None:
            return m.compared
        match self.spec.compared:
            case "value":
                return m.value
            case "ratio":
                return m.value / m.rival_value
            case "difference":
                return m.value - m.rival_value

    @property
    def ratio(self) -> float | None:
        """Value / rival's value; None where the rival's is nought."""
        if self.spec.compared == "ratio":
            return self.compared
        m = self.measured
        return m.value / m.rival_value if m.rival_value else None

    @property
    def holds(self) -> bool:
        return self.spec.keeps(self.compared)

    def as_json(self) -> dict[str, object]:
        """Return the object that `--json` prints; `note` and `quick` where there is cause."""
        s, m = self.spec, self.measured
        found: dict[str, object] = {
            "name": s.name,
            "value": rounded(m.value),
            "unit": s.unit,
            "rival": s.rival,
            "rival_value": rounded(m.rival_value),
            "ratio": None if self.ratio is None else rounded(self.ratio),
            "direction": s.direction,
            "bound": s.bound,
            "bound_on": s.compared,
            "spread": [rounded(x) for x in m.spread],
            "holds": None if s.bound is None else self.holds,
            "machine": dict(self.machine),
            "commit": self.commit,
        }
        if m.note:
            found["note"] = m.note
        return found | {"quick": True} if self.quick else found


def rounded(number: float) -> float:
    """Five significant digits: more would be noise."""
    return float(f"{number:.5g}")


_TFIDF_LR: Final = "char 2-5-gram TF-IDF + logistic regression"
_TFIDF_CPU: Final = "char 2-5-gram TF-IDF + logistic regression on the same texts"
_HEAD: Final = "a head on the same encoder as it is"
_WITHOUT: Final = "the same bundle without them"
_UNTAUGHT: Final = "the same bundle, taught nothing"
_TFIDF_NN: Final = "char 2-5-gram TF-IDF, nearest training line"
_FP32: Final = "the same bundle's fp32 original"
_SCRIPT: Final = "paho callback -> tokenizers -> the same int8 ONNX, batch 1 -> publish"
_RATE: Final = "messages/s"
_OPTIMUM: Final = "optimum's default int8 for this CPU, the same kind of head"
_OLIVE: Final = "Olive's int8 passes for the CPU, named by hand, the same kind of head"
_NODE: Final = "Node.js: mqtt.js -> @huggingface/tokenizers -> onnxruntime-node, the same graph"


SPECS: Final[tuple[Spec, ...]] = (
    Spec(
        "clinc150-accuracy",
        "clinc150",
        "CLINC150, int8: in-scope accuracy without rejection",
        "%",
        _TFIDF_LR,
        ">=",
        95.0,
    ),
    Spec(
        "clinc150-oos-auroc",
        "clinc150",
        "CLINC150, int8: out-of-scope AUROC",
        "AUROC",
        _TFIDF_LR,
        ">=",
        0.955,
    ),
    Spec(
        "clinc150-int8",
        "clinc150",
        "CLINC150, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.5,
        "difference",
    ),
    Spec(
        "clinc150-oos-int8",
        "clinc150",
        "CLINC150, int8 against fp32: out-of-scope AUROC x 100",
        "points",
        _FP32,
        ">=",
        -0.5,
        "difference",
    ),
    Spec(
        "banking77-accuracy", "banking77", "BANKING77, int8: accuracy", "%", _TFIDF_LR, ">=", 92.5
    ),
    Spec(
        "banking77-int8",
        "banking77",
        "BANKING77, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.5,
        "difference",
    ),
    Spec("snips-accuracy", "snips", "SNIPS, int8: accuracy", "%", _TFIDF_LR, ">=", 97.0),
    Spec(
        "snips-int8",
        "snips",
        "SNIPS, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.5,
        "difference",
    ),
    Spec(
        "finetune-clinc150-accuracy",
        "finetune_clinc150",
        "CLINC150, fine-tuned, int8: in-scope accuracy without rejection",
        "%",
        _HEAD,
        ">=",
        96.4,
    ),
    Spec(
        "finetune-clinc150-oos-auroc",
        "finetune_clinc150",
        "CLINC150, fine-tuned, int8: out-of-scope AUROC",
        "AUROC",
        _HEAD,
        ">=",
        0.975,
    ),
    Spec(
        "finetune-clinc150-oos-recall",
        "finetune_clinc150",
        "CLINC150, fine-tuned, int8: texts out of scope rejected, with 5 % of those in scope",
        "%",
        _HEAD,
        ">=",
        88,
    ),
    Spec(
        "finetune-clinc150-oos-int8",
        "finetune_clinc150",
        "CLINC150, fine-tuned, int8 against fp32: out-of-scope AUROC x 100",
        "points",
        _FP32,
        ">=",
        -0.4,
        "difference",
    ),
    Spec(
        "finetune-clinc150-cpu",
        "finetune_clinc150",
        "CLINC150: CPU time of fine-tuning, all processes",
        "min",
        _TFIDF_CPU,
        "<=",
        20,
    ),
    Spec(
        "finetune-clinc150-int8",
        "finetune_clinc150",
        "CLINC150, fine-tuned, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.4,
        "difference",
    ),
    Spec(
        "finetune-banking77-accuracy",
        "finetune_banking77",
        "BANKING77, fine-tuned, int8: accuracy",
        "%",
        _HEAD,
        ">=",
        92.7,
    ),
    Spec(
        "finetune-banking77-int8",
        "finetune_banking77",
        "BANKING77, fine-tuned, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.4,
        "difference",
    ),
    Spec(
        "finetune-snips-accuracy",
        "finetune_snips",
        "SNIPS, fine-tuned, int8: accuracy",
        "%",
        _HEAD,
        ">=",
        98.3,
    ),
    Spec(
        "finetune-snips-int8",
        "finetune_snips",
        "SNIPS, fine-tuned, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.4,
        "difference",
    ),
    Spec(
        "finetune-maintie-accuracy",
        "finetune_maintie",
        "MaintIE, fine-tuned, mean of 5 folds, int8: accuracy",
        "%",
        _HEAD,
        ">=",
        96.5,
    ),
    Spec(
        "finetune-maintie-int8",
        "finetune_maintie",
        "MaintIE, fine-tuned, mean of 5 folds, int8 against fp32: accuracy",
        "points",
        _FP32,
        ">=",
        -0.4,
        "difference",
    ),
    Spec("bgl-auroc", "bgl", "BGL lines, mean of 5 seeds: AUROC", "AUROC", _TFIDF_NN, ">=", 0.99),
    Spec("bgl-f1", "bgl", "BGL lines at alarm budget 1 %: mean F1", "F1", _TFIDF_NN, ">=", 0.88),
    Spec(
        "bgl-f1-worst",
        "bgl",
        "BGL lines at alarm budget 1 %: F1 of the worst seed",
        "F1",
        _TFIDF_NN,
        ">=",
        0.70,
    ),
    Spec(
        "bgl-false-alarms",
        "bgl",
        "BGL lines at alarm budget 1 %: mean false alarms",
        "%",
        _TFIDF_NN,
        "<=",
        1.3,
    ),
    Spec(
        "bgl-false-alarms-worst",
        "bgl",
        "BGL lines at alarm budget 1 %: false alarms of the worst seed",
        "%",
        _TFIDF_NN,
        "<=",
        2.5,
    ),
    Spec(
        "feedback-auroc-1",
        "feedback",
        "BGL in time order, review, each notice judged 1 message later: AUROC",
        "AUROC",
        _UNTAUGHT,
        ">=",
        0.97,
    ),
    Spec(
        "feedback-auroc-50",
        "feedback",
        "The same, judged 50 messages later: AUROC",
        "AUROC",
        _UNTAUGHT,
        ">=",
        0.89,
    ),
    Spec(
        "feedback-recall",
        "feedback",
        "BGL in time order at alarm budget 5 %, review, 1 later: recall",
        "share",
        _UNTAUGHT,
        ">=",
        0.95,
    ),
    Spec(
        "feedback-false-alarms",
        "feedback",
        "The same: false alarms per 1,000 messages",
        "per 1,000",
        _UNTAUGHT,
        "<=",
        55.0,
    ),
    Spec(
        "feedback-notices",
        "feedback",
        "BGL in time order at 1 %, alarms judged 50 later: notices per 1,000 messages",
        "per 1,000",
        "a notice for each alarm",
        "<=",
        20.0,
    ),
    Spec(
        "skab-auroc",
        "skab",
        "SKAB valve1 rows as text: mean AUROC of 16 files",
        "AUROC",
        _TFIDF_NN,
        ">=",
        0.88,
    ),
    Spec(
        "skab-f1",
        "skab",
        "SKAB valve1 rows at alarm budget 1 %: F1",
        "F1",
        _TFIDF_NN,
        ">=",
        0.81,
    ),
    Spec(
        "skab-false-alarms",
        "skab",
        "SKAB valve1 rows at alarm budget 1 %: normal ones that alarm",
        "%",
        _TFIDF_NN,
        "<=",
        25,
    ),
    Spec(
        "skab-missed",
        "skab",
        "SKAB valve1 rows at alarm budget 1 %: anomalies that do not",
        "%",
        _TFIDF_NN,
        "<=",
        20,
    ),
    Spec(
        "nab-machine-auroc",
        "nab",
        "NAB machine temperature as text: AUROC",
        "AUROC",
        _TFIDF_NN,
        ">=",
        0.90,
    ),
    Spec(
        "nab-ambient-auroc",
        "nab",
        "NAB ambient temperature as text: AUROC",
        "AUROC",
        _TFIDF_NN,
        ">=",
        0.78,
    ),
    Spec(
        "hdfs-auroc",
        "hdfs",
        "HDFS sessions: AUROC",
        "AUROC",
        _TFIDF_NN,
        ">=",
        0.74,
    ),
    Spec(
        "hdfs-f1",
        "hdfs",
        "HDFS sessions at alarm budget 1 %: F1",
        "F1",
        _TFIDF_NN,
        ">=",
        0.65,
    ),
    Spec(
        "adversarial-caught",
        "adversarial",
        "hostile lines of six kinds, a bundle each: caught of 26",
        "lines",
        _TFIDF_NN,
        ">=",
        26,
    ),
    Spec(
        "adversarial-false",
        "adversarial",
        "their six normal lines: false alarms",
        "lines",
        _TFIDF_NN,
        "<=",
        0,
    ),
    Spec(
        "adversarial-plant-caught",
        "adversarial_plant",
        "the same lines, one bundle of a mixed plant: caught of 26",
        "lines",
        _TFIDF_NN,
        ">=",
        18,
    ),
    Spec(
        "adversarial-plant-numbers",
        "adversarial_plant",
        "of these, numbers gone wrong: missed",
        "lines",
        _TFIDF_NN,
        "<=",
        0,
    ),
    Spec(
        "adversarial-plant-false",
        "adversarial_plant",
        "their six normal lines: false alarms",
        "lines",
        _TFIDF_NN,
        "<=",
        0,
    ),
    Spec(
        "memory-cost",
        "memory_cost",
        "windows, sessions and explanation: CPU time a message",
        "us",
        _WITHOUT,
        "<=",
        60,
        "difference",
    ),
    Spec(
        "cache-hit-rate",
        "repetition",
        "plant traffic: cache hits, 4,096 entries, cold start",
        "share",
        "lru_cache(4096) on the text",
        ">=",
        0.93,
    ),
    Spec(
        "split-cost",
        "repetition",
        "plant traffic: splitting a line into template and numbers",
        "us/line",
        "one re.sub that masks digits",
        "<=",
        25,
    ),
    Spec(
        "throughput-cold",
        "plant",
        "plant traffic, cold cache, against a straightforward script",
        _RATE,
        _SCRIPT,
        ">=",
        8,
        "ratio",
    ),
    Spec(
        "throughput-cold-cached",
        "plant",
        "plant traffic, cold cache, against that script with a cache",
        _RATE,
        "that script with lru_cache(4096) on the text",
        ">=",
        3,
        "ratio",
    ),
    Spec(
        "throughput-warm",
        "plant",
        "plant traffic, warm cache, against an echo",
        _RATE,
        "bare paho echo, no model",
        ">=",
        0.6,
        "ratio",
    ),
    Spec(
        "throughput-unrepeated",
        "unrepeated",
        "texts that never repeat, against a straightforward script",
        _RATE,
        _SCRIPT,
        ">=",
        1.5,
        "ratio",
    ),
    Spec(
        "throughput-unrepeated-callers",
        "unrepeated",
        "texts that never repeat, against inference alone",
        _RATE,
        "one session, one thread, two callers, no MQTT",
        ">=",
        0.75,
        "ratio",
    ),
    Spec(
        "latency",
        "latency",
        "publish -> result received at 20 % load, p50, above bare inference",
        "ms",
        "bare inference at the same pace: tokenizers and one session",
        "<=",
        3,
        "difference",
    ),
    Spec(
        "steady-pss",
        "footprint",
        "steady PSS of the agent with one model",
        "MB",
        "bare process: onnxruntime, tokenizers, the same model",
        "<=",
        1.3,
        "ratio",
    ),
    Spec(
        "cold-start",
        "footprint",
        "process start to first result",
        "ms",
        "bare process: onnxruntime, tokenizers, the same model",
        "<=",
        4,
        "ratio",
    ),
    Spec(
        "swap-failed",
        "swap",
        "a model exchanged 20 times at 25 % load: texts lost, or answered with an error",
        "texts",
        "none",
        "<=",
        0,
    ),
    Spec(
        "swap-p99",
        "swap",
        "a model exchanged at 25 % load: publish -> result, p99 meanwhile",
        "ms",
        "the same agent while nothing is exchanged",
        "<=",
        2,
        "ratio",
    ),
    Spec(
        "swap-pss",
        "swap",
        "PSS of the agent after 20 updates",
        "MB",
        "before the first of them",
        "<=",
        1.05,
        "ratio",
    ),
    Spec(
        "int8-size",
        "int8",
        "size of graph and weights, int8 against fp32",
        "MB",
        "fp32 ONNX of the same model",
        "<=",
        0.27,
        "ratio",
    ),
    Spec(
        "int8-speed",
        "int8",
        "batch 1, 16 to 32 tokens, one thread, int8 against fp32",
        "texts/s",
        "fp32 ONNX of the same model",
        ">=",
        2,
        "ratio",
    ),
    Spec(
        "node-plant",
        "node",
        "plant traffic, cold cache, against a service in Node.js",
        _RATE,
        _NODE,
        ">=",
        1,
        "ratio",
    ),
    Spec(
        "node-plant-cpu",
        "node",
        "plant traffic, cold cache: CPU time of the process",
        "ms/message",
        _NODE,
        "<=",
        None,
        "ratio",
    ),
    Spec(
        "node-unrepeated",
        "node",
        "texts that never repeat, against a service in Node.js",
        _RATE,
        _NODE,
        ">=",
        1,
        "ratio",
    ),
    Spec(
        "node-unrepeated-cpu",
        "node",
        "texts that never repeat: CPU time of the process",
        "ms/message",
        _NODE,
        "<=",
        None,
        "ratio",
    ),
    Spec(
        "matrix-time",
        "matrix",
        "six profiles in one matrix, against six exports: wall time",
        "s",
        "six single exports, the encoder exported before",
        "<=",
        0.6,
        "ratio",
    ),
    Spec(
        "identical-exports",
        "identical",
        "two exports of each target with one lock file: files that differ",
        "files",
        "none",
        "<=",
        0,
    ),
    Spec(
        "tune-latency",
        "tune",
        "recipe found by --tune: batch 1, 16 to 32 tokens, one thread",
        "ms",
        _OPTIMUM,
        "<=",
        0.8,
        "ratio",
    ),
    Spec(
        "tune-throughput",
        "tune",
        "recipe found by --tune: texts a second, all cores",
        "texts/s",
        _OPTIMUM,
        ">=",
        1.25,
        "ratio",
    ),
    Spec(
        "tune-batched",
        "tune",
        "recipe found by --tune: texts a second, the rival in batches that its answers depend on",
        "texts/s",
        _OPTIMUM,
        ">=",
        None,
        "ratio",
    ),
    Spec(
        "tune-accuracy",
        "tune",
        "recipe found by --tune: accuracy on BANKING77",
        "%",
        _OPTIMUM,
        ">=",
        0,
        "difference",
    ),
    Spec(
        "tune-olive-latency",
        "olive",
        "recipe found by --tune: batch 1, 16 to 32 tokens, one thread",
        "ms",
        _OLIVE,
        "<=",
        1.0,
        "ratio",
    ),
    Spec(
        "tune-olive-throughput",
        "olive",
        "recipe found by --tune: texts a second, all cores",
        "texts/s",
        _OLIVE,
        ">=",
        1.0,
        "ratio",
    ),
    Spec(
        "tune-olive-batched",
        "olive",
        "recipe found by --tune: texts a second, the rival in batches that its answers depend on",
        "texts/s",
        _OLIVE,
        ">=",
        None,
        "ratio",
    ),
    Spec(
        "tune-olive-accuracy",
        "olive",
        "recipe found by --tune: accuracy on BANKING77",
        "%",
        _OLIVE,
        ">=",
        0,
        "difference",
    ),
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
        _FP32,
        ">=",
        -1.0,
        "difference",
    ),
    Spec(
        "npu-intent-buckets",
        "npu_intent",
        "QNN, emulated, BANKING77, 25 texts a bucket: the same intent, least bucket",
        "%",
        _FP32,
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
        _FP32,
        ">=",
        -1.0,
        "difference",
    ),
    Spec(
        "npu-anomaly-buckets",
        "npu_anomaly",
        "QNN, emulated, BGL lines, 25 texts a bucket: the same verdict, least bucket",
        "%",
        _FP32,
        ">=",
        92,
    ),
    Spec(
        "push-transfer",
        "push",
        "A model of 140 MB to one device: first request to verified hash",
        "s",
        "mosquitto_pub of the same bytes in one message, to mosquitto_sub",
        "<=",
        1.5,
        "ratio",
    ),
    Spec(
        "push-broker-memory",
        "push",
        "The broker's peak memory meanwhile",
        "MB",
        "while mosquitto_pub sends the same bytes",
        "<=",
        30,
    ),
    Spec(
        "push-fleet",
        "push",
        "A model of 25 MB to 20 devices at once: bytes that the server sends",
        "MB",
        "to one device",
        "<=",
        1.3,
        "ratio",
    ),
    Spec(
        "push-head",
        "push_head",
        "CLINC150, the same encoder with a new head: bytes that a device fetches",
        "%",
        "all of the bundle",
        "<=",
        2,
    ),
    Spec(
        "idle-traffic",
        "idle",
        "A device without inputs: bytes of MQTT a day, both ways",
        "kB",
        "none",
        "<=",
        200,
    ),
    Spec(
        "idle-cpu",
        "idle",
        "A device without inputs: processor time of agent and updater, of one core",
        "%",
        "none",
        "<=",
        0.5,
    ),
    Spec(
        "idle-wakeups",
        "idle",
        "A device without inputs: how often threads of agent and updater wake",
        "1/s",
        "none",
        "<=",
        5,
    ),
    Spec(
        "soak-rss",
        "soak",
        "An hour at 80 % load: growth of the agent's memory after the first ten minutes",
        "MB/h",
        "none",
        "<=",
        1,
    ),
    Spec(
        "soak-lost",
        "soak",
        "An hour at 80 % load: texts without an answer",
        "texts",
        "none",
        "<=",
        0,
    ),
    Spec(
        "soak-descriptors",
        "soak",
        "An hour at 80 % load: growth of the agent's open descriptors",
        "descriptors",
        "none",
        "<=",
        0,
    ),
    Spec(
        "long-alerts",
        "long",
        "A week of outages, 100 kills, 100 restarts of brokers, 20 updates: alerts lost",
        "alerts",
        "none",
        "<=",
        0,
    ),
    Spec(
        "long-duplicates",
        "long",
        "The same week: duplicates that nothing tells from a first answer, telemetry amiss",
        "answers",
        "none",
        "<=",
        0,
    ),
    Spec(
        "flash-up",
        "flash",
        "100 messages a second, the uplink up: bytes written to flash for each",
        "B",
        "none",
        "<=",
        0,
    ),
    Spec(
        "flash-down",
        "flash",
        "100 messages a second, the uplink down, then catching up: bytes written to flash for each",
        "B",
        "none",
        "<=",
        3000,
    ),
    Spec(
        "flash-alerts",
        "flash",
        "The same where each result is an alert: bytes written to flash for each",
        "B",
        "none",
        "<=",
        3000,
    ),
    Spec(
        "flash-thinned",
        "flash",
        "The same for telemetry of 2,000 sources that is summed up: bytes written for each message",
        "B",
        "none",
        "<=",
        None,
    ),
    Spec(
        "flash-idle",
        "flash",
        "A device without inputs, the uplink up and then down: bytes written to flash",
        "B",
        "none",
        "<=",
        0,
    ),
    Spec(
        "unit-start",
        "boot",
        "From the start of the agent's unit on a booted system to the first answer",
        "s",
        "none",
        "<=",
        3,
    ),
    Spec(
        "package-size",
        "package",
        "The Debian package for amd64, CPU, without a bundle",
        "MB",
        "the wheels it is made of, all that pip downloads",
        "<=",
        40,
    ),
    Spec(
        "package-installed",
        "package",
        "The same, installed",
        "MB",
        "those wheels, unpacked",
        "<=",
        150,
    ),
    Spec(
        "fleet-page-p95",
        "fleet_page",
        "The fleet's page over 5,000 devices, sorted, filtered and turned over: p95",
        "ms",
        "the same pages over 50 devices",
        "<=",
        200,
    ),
    Spec(
        "fleet-states",
        "fleet_rates",
        "States of devices that a worker of the fleet's service checks and commits",
        "messages/CPU s",
        "decoding their JSON",
        ">=",
        500,
    ),
    Spec(
        "fleet-results",
        "fleet_rates",
        "Results of devices, one in 50 an alarm, that it checks, samples and commits",
        "messages/CPU s",
        "decoding their JSON",
        ">=",
        2000,
    ),
    Spec(
        "fleet-lost",
        "fleet",
        "Simulated devices, a roll-out of 1 %, 10 %, 100 %: lost, or done twice",
        "devices",
        "none",
        "<=",
        0,
    ),
    Spec(
        "fleet-knowing",
        "fleet",
        "From `rollout start` until every device has its assignment",
        "s",
        "until half of them have it",
        "<=",
        5,
    ),
    Spec(
        "fleet-pss",
        "fleet",
        "PSS of `edgeslm fleet serve` meanwhile, with its page, at most",
        "MB",
        "none",
        "<=",
        250,
    ),
    Spec(
        "fleet-exposure",
        "fleet_bad",
        "A bad version, the first wave 1 %: devices that are given it",
        "%",
        "none",
        "<=",
        1,
    ),
    Spec(
        "fleet-abort",
        "fleet_bad",
        "A bad version: from the message that proves it to the decision to stop",
        "s",
        "none",
        "<=",
        5,
    ),
    Spec(
        "fleet-rough",
        "fleet_rough",
        "5 % silent, 5 % flapping, the broker restarted: devices unaccounted for, or done twice",
        "devices",
        "none",
        "<=",
        0,
    ),
    Spec(
        "provision-time",
        "provision",
        "500 devices out of the box, one service: until all have their certificates",
        "s",
        "none",
        "<=",
        120,
    ),
    Spec(
        "provision-shared",
        "provision",
        "Of them: devices whose key, certificate or id another has",
        "devices",
        "none",
        "<=",
        0,
    ),
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
        _FP32,
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
BY_NAME: Final = {spec.name: spec for spec in SPECS}
