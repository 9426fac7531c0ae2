"""What the server did, in Prometheus' text format."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlx_tune.serving.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """A registry of its own, so that two servers of one process do not share one.

    Attributes:
        first_token: Seconds from a request to the first piece of its answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        self.first_token = Histogram(
            "mlx_tune_time_to_first_token_seconds",
            "From a request to the first piece of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector:
    """Reads the engine's own counts when it is scraped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        counts = self._engine.counts
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts.", counts.prompt_tokens),
            ("prefix_tokens", "Tokens of prompts known from before.", counts.saved_tokens),
            ("generated_tokens", "Tokens generated.", counts.generated_tokens),
            ("engine_faults", "Times a model's answers failed all at once.", counts.faults),
        ):
            yield CounterMetricFamily(f"mlx_tune_{name}", text, value)
        finished = CounterMetricFamily(
            "mlx_tune_answers", "Answers, by how they ended.", labels=["finish"]
        )
        for how, count in sorted(counts.finished.items()):
            finished.add_metric([how], count)
        yield finished
        yield GaugeMetricFamily(
            "mlx_tune_answers_running", "Answers that are not finished.", self._engine.running
        )
        healthy = self._engine.trouble is None
        yield GaugeMetricFamily("mlx_tune_engine_up", "1 while it answers.", float(healthy))
