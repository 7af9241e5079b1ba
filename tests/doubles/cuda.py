"""A double, on a CPU, of the part of torch.cuda that the GPU runner uses.

It computes at once but copies late: a non-blocking copy happens when the CPU or another stream
waits for a later event. Graphs record the operators of their capture and run them again. The double
records what it is asked to do, and fails where a test tells it to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from resnext.classifier import Classifier

GIB = 2**30
CROP = 4
CLASSES = 256
STICKY = "CUDA error: device-side assert triggered"
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


@dataclass
class Capture:
    bucket: int
    thread: str
    pool: Any
    mode: str


@dataclass
class Cuda:
    """A GPU. `install` puts it in the place of torch's."""

    memory: int = 140 * GIB
    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132
    captures: list[Capture] = field(default_factory=list)
    replays: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    """The options of each event."""
    pools: int = 0
    on_compute: Callable[[int], None] = lambda _: None
    """Called with the number of images in a batch where its kernels would launch; may raise."""
    on_capture: Callable[[int], None] = lambda _: None
    """Called in the same way at the end of a capture."""
    on_replay: Callable[[], None] = lambda: None
    on_wait: Callable[[], None] = lambda: None
    """Called when the CPU waits for an event or queries it."""
    on_empty_cache: Callable[[], None] = lambda: None
    when_pinned_is_freed: Callable[[], None] = lambda: None
    broken: str | None = None
    hangs: bool = False
    goes_on: threading.Event = field(default_factory=threading.Event)
    """A device that hangs blocks its callers until this is set."""
    streams: list[Stream] = field(default_factory=list)
    stream: Stream | None = None
    """The current stream."""
    capturing: Graph | None = None
    clock_ms: float = 0.0
    """The time that the device has computed so far; operators `spend` it."""

    def spend(self, milliseconds: float) -> None:
        """Spends the device's time. Within a capture, each replay spends it."""
        if self.capturing is None:
            self.clock_ms += milliseconds
        else:
            self.capturing.milliseconds += milliseconds

    def break_down(self, message: str = STICKY) -> None:
        """From now on everything fails, and pending copies never happen."""
        self.broken = message
        for stream in self.streams:
            stream.forget()

    def check(self) -> None:
        if self.broken is not None:
            raise torch.AcceleratorError(self.broken)

    def install(self, patch: Callable[[Any, str, Any], None]) -> None:
        """`patch` is setattr, or monkeypatch's."""
        cuda, empty = torch.cuda, torch.empty
        patch(Memory, "gpu", self)

        def memory(
            *shape: Any, pin_memory: bool = False, device: Any = None, **options: Any
        ) -> Any:
            made = empty(*shape, **options).as_subclass(Memory)
            made.fill_(99) if made.dtype != torch.bool else made.fill_(value=False)
            if pin_memory:
                weakref.finalize(made, self.when_pinned_is_freed).atexit = False
            return made

        def any_empty(*shape: Any, **options: Any) -> Any:
            on_cuda = str(options.get("device", "")).startswith("cuda")
            if options.get("pin_memory") or on_cuda:
                return memory(*shape, **options)
            return empty(*shape, **options)

        properties = SimpleNamespace(
            name="NVIDIA Double",
            total_memory=self.memory,
            multi_processor_count=self.multiprocessors,
            major=self.capability[0],
            minor=self.capability[1],
        )
        to = torch.Tensor.to

        def any_to(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            """Tensors that move to the GPU stay where they are."""
            here = ["cpu" if str(one).startswith("cuda") else one for one in args]
            named = {name: "cpu" if name == "device" else one for name, one in options.items()}
            return to(tensor, *here, **named)

        patch(torch, "empty", any_empty)
        patch(torch.Tensor, "to", any_to)
        patch(cuda, "synchronize", lambda *_: self.check())
        patch(cuda, "Stream", lambda *_: Stream(self))
        patch(cuda, "Event", lambda **options: Event(self, options))
        patch(cuda, "CUDAGraph", Graph)
        patch(cuda, "stream", self._on_stream)
        patch(cuda, "graph", self._capture)
        patch(cuda, "graph_pool_handle", self._new_pool)
        patch(cuda, "empty_cache", self._empty_cache)
        patch(cuda, "is_available", lambda: True)
        patch(cuda, "device_count", lambda: 1)
        patch(cuda, "get_device_capability", lambda _=None: self.capability)
        patch(cuda, "get_device_properties", lambda _=None: properties)

    def _empty_cache(self) -> None:
        self.on_empty_cache()

    def _new_pool(self) -> tuple[int, int]:
        self.pools += 1
        return (self.pools, 0)

    @contextmanager
    def _on_stream(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def _capture(
        self, graph: Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        """Ends the capture whatever happened in it, as torch does. Ending it may fail as well."""
        self.check()
        graph.cuda, self.capturing = self, graph
        try:
            yield
        finally:
            self.capturing = None
            self.on_capture(graph.images)
        thread = threading.current_thread().name
        self.captures.append(Capture(graph.images, thread, pool, capture_error_mode))


class Memory(torch.Tensor):
    """Pinned memory, or memory of the GPU. Copies into it may be late."""

    gpu: Cuda | None = None
    """The double that is installed."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.copy_ and kwargs.get("non_blocking"):
            into, source = args[0], args[1].detach().as_subclass(torch.Tensor)
            assert cls.gpu is not None
            cls.gpu.check()
            assert cls.gpu.stream is not None
            cls.gpu.stream.later.append(
                lambda: into.as_subclass(torch.Tensor).copy_(source)  # what source holds by then
            )
            return into
        made = super().__torch_function__(func, types, args, kwargs)
        if cls.gpu is not None and cls.gpu.capturing is not None:
            cls.gpu.capturing.calls.append((func, args, kwargs, made))
        return made


class Stream:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.later: list[Callable[[], Any] | None] = []
        self.done = 0
        cuda.streams.append(self)

    def run_to(self, position: int) -> None:
        with torch.inference_mode():
            for place in range(self.done, position):
                copy, self.later[place] = self.later[place], None  # frees the memory it holds
                if copy is not None:
                    copy()
        self.done = max(self.done, position)

    def forget(self) -> None:
        self.later = [None] * len(self.later)

    def wait_event(self, event: Event) -> None:
        self.cuda.check()
        event.happen()

    def synchronize(self) -> None:
        self.cuda.check()
        self.run_to(len(self.later))


class Event:
    def __init__(self, cuda: Cuda, options: dict[str, Any]) -> None:
        self.cuda = cuda
        self.cuda.events.append(options)
        self.recorded: tuple[Stream, int] | None = None
        self.at_ms = 0.0

    def record(self, stream: Stream) -> None:
        self.cuda.check()
        self.at_ms = self.cuda.clock_ms
        self.recorded = (stream, len(stream.later))

    def happen(self) -> None:
        if self.recorded is not None:
            stream, position = self.recorded
            stream.run_to(position)

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms

    def query(self) -> bool:
        if self.recorded is not None:
            self.cuda.on_wait()
        self.cuda.check()
        return not self.cuda.hangs

    def synchronize(self) -> None:
        if self.recorded is not None:
            self.cuda.on_wait()
        self.cuda.check()
        if self.cuda.hangs and self.recorded is not None:
            self.cuda.goes_on.wait()
        self.happen()


class Graph:
    """The operators of a capture."""

    cuda: Cuda

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.images = 0
        self.milliseconds = 0.0

    def replay(self) -> None:
        """Runs the operators again, into the same memory as in the capture."""
        self.cuda.check()
        self.cuda.on_replay()
        self.cuda.replays += 1
        self.cuda.clock_ms += self.milliseconds
        for func, args, options, made in self.calls:
            again = func(*args, **options)
            olds = made if isinstance(made, tuple) else (made,)
            news = again if isinstance(again, tuple) else (again,)
            for old, new in zip(olds, news, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FirstByte(torch.nn.Module):
    """(N, crop, crop, 3) uint8 → (N, CLASSES) float32: a picture's class is its first byte."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self.cuda = cuda
        self.classes = torch.arange(CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.cuda.check()
        if self.cuda.capturing is not None:
            self.cuda.capturing.images = len(pixels)
        self.cuda.on_compute(len(pixels))
        return -(self.classes - pixels[:, 0, 0, :1].float()).abs()


def make_classifier(cuda: Cuda, batch_images: int = 8, **options: Any) -> Classifier:
    """Returns the real classifier, on the double."""
    spec: Any = SimpleNamespace(
        name="resnext101_32x4d",
        preprocessing=SimpleNamespace(crop=CROP),
        categories=tuple(str(n) for n in range(CLASSES)),
    )
    given: dict[str, Any] = {
        "weights": "nvidia", "weights_sha256": "e" * 64, "licence": "none", "precision": "fp16",
    }  # fmt: skip
    device = torch.device("cuda", 0)
    return Classifier(
        spec, FirstByte(cuda), device=device, batch_images=batch_images, **(given | options)
    )


def pictures(*values: int) -> np.ndarray:
    """(N, crop, crop, 3) uint8, each of one value."""
    shape = (len(values), CROP, CROP, 3)
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], shape).copy()


def lanes_of(classifier: Classifier) -> list[list[int]]:
    """Returns, for each lane, the batch sizes that it has a graph for."""
    return [sorted(lane.graphs) for lane in classifier._runner._lanes]
