"""A worker's metrics as Prometheus reads them, over HTTP.

`worker.main` opens the port before weights are loaded, so that a mistake is told at once, and
registers a collector once there is something to show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from contract import VERSION
from contract.errors import UnavailableError
from contract.settings import PREFIX, Settings
from worker.chunk.live_runs import Runs
from worker.metrics.stages import METRICS, Histogram, Metric, Metrics, Values
from worker.process.identity import Identity

log = logging.getLogger(__name__)

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@contextmanager
def exporting(settings: Settings) -> Iterator[CollectorRegistry]:
    """What is registered is shown until the end; to nobody where no port is set.

    Raises:
        UnavailableError: the address is taken, or not this machine's.
    """
    registry = CollectorRegistry()
    if settings.metrics_port is None:
        yield registry
        return
    ProcessCollector(registry=registry)
    address, port = settings.metrics_address, settings.metrics_port
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise UnavailableError(
            f"The metrics cannot be shown on {address}:{port}: {error.strerror}. Set "
            f"{PREFIX}METRICS_PORT to a free port (0: any), or {PREFIX}METRICS_ADDRESS."
        ) from error
    log.info("metrics on %s, port %d", address, server.server_port)
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class WorkerCollector(Collector):
    """Reads counts and gauges when Prometheus asks; between, it costs nothing."""

    def __init__(self, metrics: Metrics, runs: Runs, identity: Identity) -> None:
        self._metrics = metrics
        self._runs = runs
        self._identity = identity

    def collect(self) -> Iterator[Family]:
        values = {**self._metrics.read(), **self._gauges()}
        for name, metric in METRICS.items():
            yield _family(metric, values[name])

    def _gauges(self) -> Mapping[str, Values]:
        identity = self._identity
        labels = (
            identity.worker, VERSION, identity.device, identity.precision, identity.queue,
        )  # fmt: skip
        return {
            "resnext_images_in_flight": {(s,): n for s, n in self._runs.in_flight().items()},
            "resnext_chunks_in_flight": {(): len(self._runs)},
            "resnext_worker_info": {labels: 1},
        }


def _family(metric: Metric, values: Histogram | Values) -> Family:
    if isinstance(values, Histogram):
        counts = zip(map(str, values.edges), values.counts, strict=True)
        buckets = [*counts, ("+Inf", values.count)]
        return HistogramMetricFamily(metric.name, metric.help, buckets, values.sum)
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
