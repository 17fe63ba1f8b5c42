"""Reads the GPUs through NVML (nvidia-ml-py): called once a second by the agent's sampling thread.

NVML is initialised once per process and never shut down: where the driver keeps no GPU awake,
each initialisation would wake one, which takes seconds.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pynvml

from metrics.sample import GpuSample

MILLIWATTS_PER_WATT = 1000

_log = logging.getLogger(__name__)


class NoGpuError(Exception):
    """There is nothing to sample; the text says why."""


class Gpu:
    """One GPU. A figure that it does not support is asked for once and never again."""

    def __init__(self, index: int, handle: Any) -> None:
        self.index = index
        self._handle = handle
        self._unsupported: set[str] = set()
        self._reported: set[str] = set()
        self._lost = False

    def sample(self) -> GpuSample | None:
        """All figures now, or None after the GPU was lost. Never raises an NVML error."""
        if self._lost:
            return None
        handle = self._handle
        try:
            rates = self._read("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
            # Version 2 exists since driver 510; version 1 counts the driver's own reserve as used.
            memory = self._read(
                "memory", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            )
            power = self._read("power", lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
            temperature = self._read(
                "temperature", lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            )
        except pynvml.NVMLError_GpuIsLost:
            self._lost = True
            _log.error("GPU %d is lost (it fell off the bus): it is sampled no more", self.index)
            return GpuSample(self.index, lost=True)
        return GpuSample(
            self.index,
            utilization_percent=None if rates is None else rates.gpu,
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            power_watts=None if power is None else power / MILLIWATTS_PER_WATT,
            temperature_celsius=temperature,
        )

    def _read(self, figure: str, read: Callable[[], Any]) -> Any:
        if figure in self._unsupported:
            return None
        try:
            return read()
        except pynvml.NVMLError_GpuIsLost:
            raise
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound) as error:
            self._unsupported.add(figure)
            _log.info("GPU %d does not report its %s (%s): left out", self.index, figure, error)
        except pynvml.NVMLError as error:
            # Any other error may pass: this sample lacks the figure, the next one asks again.
            if figure not in self._reported:
                self._reported.add(figure)
                _log.warning("GPU %d: its %s could not be read (%s); said once", self.index, figure, error)
        return None


def open_gpus() -> Sequence[Gpu]:
    """Initialise NVML and find the GPUs of this container, at least one. Raises NoGpuError."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        raise NoGpuError(str(error)) from error
    gpus = []
    for index in range(count):
        try:
            gpus.append(Gpu(index, pynvml.nvmlDeviceGetHandleByIndex(index)))
        except pynvml.NVMLError as error:
            _log.error("GPU %d cannot be opened (%s): it is not sampled", index, error)
    if not gpus:
        raise NoGpuError("the driver shows this container no GPU")
    return gpus
