"""What Prometheus is told: the `state` message and a few counters, as a table of metrics.

`prometheus_client` is an extra: it is loaded where the endpoint is on, and there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edgeslm.adapters.http_page import PageServer
from edgeslm.contract.messages import ModelState, State
from edgeslm.contract.settings import MetricsSettings
from edgeslm.errors import UnavailableError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

PATH: Final = "/metrics"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MB: Final = 2**20
HOUR_S: Final = 3600.0

Labels = tuple[str, ...]
Sample = tuple[Labels, float]


class MetricsMissingError(UnavailableError):
    """[metrics] needs the package prometheus_client, which the extra `metrics` brings."""

    code = "metrics.missing"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the main loop knows at one moment.

    Args:
        state: as it would be published.
        uplink: whether the uplink is connected.
        inputs: by model, whether its input session is.
    """

    state: State
    uplink: bool
    inputs: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: as Prometheus has it, with its unit.
        kind: of its values.
        help: for people.
        labels: of its samples.
        samples: reads them; none: the metric is left out.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: Labels
    samples: Callable[[Snapshot], Iterable[Sample]]


def _one(value: Callable[[Snapshot], float | None]) -> Callable[[Snapshot], list[Sample]]:
    """Read one number of the device; None: there is none."""

    def read(snapshot: Snapshot) -> list[Sample]:
        found = value(snapshot)
        return [] if found is None else [((), float(found))]

    return read


def _each(value: Callable[[ModelState], float | None]) -> Callable[[Snapshot], Iterator[Sample]]:
    """Read a number of each model that has it."""

    def read(snapshot: Snapshot) -> Iterator[Sample]:
        for model in snapshot.state["models"]:
            if (found := value(model)) is not None:
                yield (model["name"],), float(found)

    return read


def _drift(model: ModelState, name: Literal["suspected", "new_rate"]) -> float | None:
    return model["drift"].get(name) if "drift" in model else None


def _agent_info(snapshot: Snapshot) -> Iterator[Sample]:
    state = snapshot.state
    yield (state["device"], state["agent_version"], state.get("profile", "")), 1.0


def _model_info(snapshot: Snapshot) -> Iterator[Sample]:
    for model in snapshot.state["models"]:
        if "hash" in model:
            about = (
                model["name"],
                str(model.get("version", 0)),
                model["hash"],
                model.get("task", ""),
                model.get("provider", ""),
                model.get("variant", ""),
            )
            yield about, 1.0


def _drops(snapshot: Snapshot) -> Iterator[Sample]:
    for reason, count in sorted(snapshot.state["drops"].items()):
        yield (reason,), float(count)


def _latencies(snapshot: Snapshot) -> Iterator[Sample]:
    for model in snapshot.state["models"]:
        if "p50_ms" in model and "p99_ms" in model:
            yield (model["name"], "0.5"), model["p50_ms"] / 1e3
            yield (model["name"], "0.99"), model["p99_ms"] / 1e3


def _growth(snapshot: Snapshot) -> float | None:
    grew = snapshot.state.get("rss_mb_per_h")
    return None if grew is None else grew * MB / HOUR_S


def _pressure(snapshot: Snapshot) -> float | None:
    return snapshot.state["pressure"]["level"] if "pressure" in snapshot.state else None


def _temperature(snapshot: Snapshot) -> float | None:
    return snapshot.state["pressure"].get("temperature_c") if "pressure" in snapshot.state else None


def _crashes(snapshot: Snapshot) -> float:
    return snapshot.state["crashes"]["count"] if "crashes" in snapshot.state else 0


def _inputs(snapshot: Snapshot) -> Iterator[Sample]:
    for name, connected in snapshot.inputs.items():
        yield (name,), float(connected)


MODEL: Final = ("model",)
METRICS: Final = (
    Metric(
        "edgeslm_agent_info",
        "gauge",
        "Always 1; which agent this is.",
        ("device", "version", "profile"),
        _agent_info,
    ),
    Metric(
        "edgeslm_uptime_seconds",
        "gauge",
        "Since the agent began.",
        (),
        _one(lambda s: s.state["uptime_s"]),
    ),
    Metric(
        "edgeslm_resident_memory_bytes",
        "gauge",
        "Memory of the agent's process.",
        (),
        _one(lambda s: s.state["rss_mb"] * MB),
    ),
    Metric(
        "edgeslm_resident_memory_growth_bytes_per_second",
        "gauge",
        "Its slope over the last hours; absent until they have passed.",
        (),
        _one(_growth),
    ),
    Metric(
        "edgeslm_uplink_connected",
        "gauge",
        "1 while results can leave.",
        (),
        _one(lambda s: s.uplink),
    ),
    Metric(
        "edgeslm_outbox_results",
        "gauge",
        "Results on disk, waiting for the uplink.",
        (),
        _one(lambda s: s.state["outbox"]),
    ),
    Metric(
        "edgeslm_outbox_alerts",
        "gauge",
        "Alerts among them.",
        (),
        _one(lambda s: s.state.get("outbox_alerts")),
    ),
    Metric(
        "edgeslm_outbox_oldest_seconds",
        "gauge",
        "Age of the oldest result there; absent where there is none.",
        (),
        _one(lambda s: s.state.get("outbox_oldest_s")),
    ),
    Metric(
        "edgeslm_withheld_inputs",
        "gauge",
        "Inputs whose acknowledgement waits for the outbox.",
        (),
        _one(lambda s: s.state["withheld"]),
    ),
    Metric(
        "edgeslm_drops_total",
        "counter",
        "Messages not answered and answers that nobody takes; docs/error-codes.md lists reasons.",
        ("reason",),
        _drops,
    ),
    Metric(
        "edgeslm_pressure_level",
        "gauge",
        "0 to 2, see [pressure]; absent where there are no limits.",
        (),
        _one(_pressure),
    ),
    Metric(
        "edgeslm_temperature_celsius",
        "gauge",
        "Of the processor; absent where there are no limits, or no sensor.",
        (),
        _one(_temperature),
    ),
    Metric(
        "edgeslm_crash_reports",
        "gauge",
        "Reports kept of agents before this one that ended badly.",
        (),
        _one(_crashes),
    ),
    Metric(
        "edgeslm_model_info",
        "gauge",
        "Always 1; which bundle answers.",
        ("model", "version", "hash", "task", "provider", "variant"),
        _model_info,
    ),
    Metric(
        "edgeslm_model_serving",
        "gauge",
        "1 while the model answers; 0 while it is loaded, or has failed.",
        MODEL,
        _each(lambda m: m["state"] == "serving"),
    ),
    Metric(
        "edgeslm_model_input_connected",
        "gauge",
        "1 while its input session is.",
        MODEL,
        _inputs,
    ),
    Metric(
        "edgeslm_model_paused",
        "gauge",
        "1 while its inputs wait because the device is hard pressed.",
        MODEL,
        _each(lambda m: m.get("paused", False)),
    ),
    Metric(
        "edgeslm_model_queue_inputs",
        "gauge",
        "Inputs taken and not yet acknowledged.",
        MODEL,
        _each(lambda m: m["queue"]),
    ),
    Metric(
        "edgeslm_model_oldest_input_seconds",
        "gauge",
        "How long the first of them has been here; absent where there is none.",
        MODEL,
        _each(lambda m: m.get("oldest_s")),
    ),
    Metric(
        "edgeslm_model_answers_total",
        "counter",
        "Inputs answered without an error.",
        MODEL,
        _each(lambda m: m["answered"]),
    ),
    Metric(
        "edgeslm_model_alarms_total",
        "counter",
        "Of these, with the label anomaly.",
        MODEL,
        _each(lambda m: m.get("alarms", 0)),
    ),
    Metric(
        "edgeslm_model_errors_total",
        "counter",
        "Inputs answered with an error.",
        MODEL,
        _each(lambda m: m["errors"]),
    ),
    Metric(
        "edgeslm_model_expired_total",
        "counter",
        "Inputs dropped because their own expiry had passed.",
        MODEL,
        _each(lambda m: m["expired"]),
    ),
    Metric(
        "edgeslm_model_cache_hits_total",
        "counter",
        "Answers for which the model did not run.",
        MODEL,
        _each(lambda m: m["cache_hits"]),
    ),
    Metric(
        "edgeslm_model_cache_misses_total",
        "counter",
        "Runs of the model.",
        MODEL,
        _each(lambda m: m["cache_misses"]),
    ),
    Metric(
        "edgeslm_model_latency_seconds",
        "gauge",
        "Quantiles of the last minute's answers, received to answered; absent where none.",
        ("model", "quantile"),
        _latencies,
    ),
    Metric(
        "edgeslm_model_drift_suspected",
        "gauge",
        "1 while the model does not hear what it was trained on; absent where that is not watched.",
        MODEL,
        _each(lambda m: _drift(m, "suspected")),
    ),
    Metric(
        "edgeslm_model_new_template_ratio",
        "gauge",
        "Share of the last 500 messages whose template is new; absent of intents, and unwatched.",
        MODEL,
        _each(lambda m: _drift(m, "new_rate")),
    ),
    Metric(
        "edgeslm_model_node_ratio",
        "gauge",
        "Share of the graph that its provider runs.",
        MODEL,
        _each(lambda m: m.get("node_share")),
    ),
    Metric(
        "edgeslm_model_handed_over_ratio",
        "gauge",
        "Of a cascade: share of its answers since it was loaded that the second stage gave.",
        MODEL,
        _each(lambda m: m.get("handed_over")),
    ),
)


def families(snapshot: Snapshot) -> Iterator[Family]:
    """Yield the metrics of a snapshot, as `prometheus_client` has them."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    for metric in METRICS:
        family: CounterMetricFamily | GaugeMetricFamily
        if metric.kind == "counter":
            name = metric.name.removesuffix("_total")
            family = CounterMetricFamily(name, metric.help, labels=metric.labels)
        else:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.samples(snapshot):
            family.add_metric(labels, value)
        if family.samples:
            yield family


class _Collector:
    """What `prometheus_client` renders: one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Family]:
        return families(self._snapshot)


def page(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus's text format."""
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415 -- see above

    return generate_latest(_Collector(snapshot))


class Endpoint:
    """Owned by the agent's main thread, which is asked for a snapshot at most once a second.

    Args:
        ring: wakes the main thread.
        trouble: tells an event with an error: event, code, message.

    Attributes:
        asked: somebody wants a snapshot.
    """

    def __init__(self, ring: Callable[[], None], trouble: Callable[[str, str, str], None]) -> None:
        self.asked = False
        self._ring = ring
        self._trouble = trouble
        self._settings: MetricsSettings | None = None
        self._server: PageServer[Snapshot] | None = None

    def live_by(self, settings: MetricsSettings | None) -> None:
        """Serve there from now on, or nowhere; where that cannot be, it is told."""
        if settings == self._settings and (self._server is not None or settings is None):
            return
        if self._server is not None:
            self._server.stop()
            self._server = None
        self.asked = False
        self._settings = settings
        if settings is None:
            return
        try:
            self._server = _serve(settings, self._want)
        except UnavailableError as err:
            self._trouble("metrics_unavailable", err.code, str(err))

    def put(self, snapshot: Snapshot) -> None:
        """Show this."""
        self.asked = False
        if self._server is not None:
            self._server.put(snapshot)

    def _want(self) -> None:
        self.asked = True
        self._ring()


def _serve(settings: MetricsSettings, want: Callable[[], None]) -> PageServer[Snapshot]:
    try:
        import prometheus_client  # noqa: F401, PLC0415 -- see above
    except ImportError:
        msg = "[metrics] needs a package that is not here: pip install 'edgeslm[metrics]'"
        raise MetricsMissingError(msg) from None
    return PageServer[Snapshot](
        settings.address, path=PATH, content_type=CONTENT_TYPE, render=page, want=want
    )
