"""A worker's metrics in Prometheus's form. `worker.main` registers this collector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.registry import Collector

from contract import VERSION
from contract.metrics.exporter import Family, family
from contract.metrics.metric import Values
from worker.chunk.live_runs import Runs
from worker.metrics.stages import METRICS, Metrics
from worker.process.identity import Identity


class WorkerCollector(Collector):
    """Reads counts and gauges when Prometheus asks. It costs nothing in between."""

    def __init__(
        self,
        metrics: Metrics,
        runs: Runs,
        identity: Identity,
        *,
        loader_restarts: Callable[[], Mapping[str, int]],
        device_memory: Callable[[], Mapping[str, int]],
    ) -> None:
        """
        Args:
            metrics: the worker's metrics.
            runs: the worker's runs.
            identity: the worker's identity.
            loader_restarts: the number of replaced loaders, by cause.
            device_memory: bytes by kind; empty if the device has no separate memory.
        """
        self._metrics = metrics
        self._runs = runs
        self._identity = identity
        self._loader_restarts = loader_restarts
        self._device_memory = device_memory

    def collect(self) -> Iterator[Family]:
        values = {**self._metrics.read(), **self._others()}
        for name, metric in METRICS.items():
            yield family(metric, values[name])

    def _others(self) -> Mapping[str, Values]:
        identity = self._identity
        labels = (
            identity.worker, VERSION, identity.device, identity.precision, identity.queue,
        )  # fmt: skip
        return {
            "resnext_images_in_flight": _labelled(self._runs.in_flight()),
            "resnext_chunks_in_flight": {(): len(self._runs)},
            "resnext_loader_restarts_total": _labelled(self._loader_restarts()),
            "resnext_device_memory_bytes": _labelled(self._device_memory()),
            "resnext_worker_info": {labels: 1},
        }


def _labelled(values: Mapping[str, int]) -> Values:
    return {(label,): value for label, value in values.items()}
