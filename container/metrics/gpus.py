"""Reads the GPUs through NVML (nvidia-ml-py): called once a second by the agent's sampling thread.

NVML is initialised once per process and never shut down: where the driver keeps no GPU awake,
each initialisation would wake one, which takes seconds.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pynvml

from metrics.gpm import Gpm
from metrics.sample import GpuSample
from metrics.xid import XidWatch

MILLIWATTS_PER_WATT = 1000
MILLIJOULES_PER_JOULE = 1000
SAMPLES_PER_TEMPERATURE = 10
SAMPLES_PER_ERROR_COUNT = 60
THROTTLED = (
    pynvml.nvmlClocksThrottleReasonHwSlowdown
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
)

_log = logging.getLogger(__name__)


class NoGpuError(Exception):
    """There is nothing to sample; the text says why."""


class Gpu:
    """One GPU. A figure that it does not support is asked for once and never again."""

    def __init__(self, index: int, handle: Any, xids: XidWatch) -> None:
        self.index = index
        self._handle, self._xids = handle, xids
        self._gpm = Gpm(index, handle)
        self._unsupported: set[str] = set()
        self._reported: set[str] = set()
        self._counts: dict[str, int] = {}
        self._lost = False

    def sample(self, number: int) -> GpuSample | None:
        """All figures that are due in sample `number`, or None after the GPU was lost. Raises no NVML error."""
        if self._lost:
            return None
        try:
            return self._sample(number)
        except pynvml.NVMLError_GpuIsLost:
            self._lost = True
            _log.error("GPU %d is lost (it fell off the bus): it is sampled no more", self.index)
            return GpuSample(self.index, xids=self._xids.take(self.index), lost=True)

    def _sample(self, number: int) -> GpuSample:
        handle = self._handle
        rates = self._read("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        # Version 2 exists since driver 510; version 1 counts the driver's own reserve as used.
        memory = self._read(
            "memory", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        )
        power = self._read("power", lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
        reasons = self._read("clock reasons", lambda: _clock_reasons(handle))
        energy = self._increase("energy", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        temperature = errors = None
        if number % SAMPLES_PER_TEMPERATURE == 0:
            temperature = self._read(
                "temperature", lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            )
        if number % SAMPLES_PER_ERROR_COUNT == 0:
            counts = (
                self._increase("memory errors", lambda: _uncorrected_errors(handle)),
                self._increase("remapped rows", lambda: pynvml.nvmlDeviceGetRemappedRows(handle)[1]),
            )
            known = [count for count in counts if count is not None]
            errors = sum(known) if known else None
        return GpuSample(
            self.index,
            utilization_percent=None if rates is None else rates.gpu,
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            power_watts=None if power is None else power / MILLIWATTS_PER_WATT,
            temperature_celsius=temperature,
            throttled=None if reasons is None else bool(reasons & THROTTLED),
            power_capped=None
            if reasons is None
            else bool(reasons & pynvml.nvmlClocksThrottleReasonSwPowerCap),
            energy_joules=None if energy is None else energy / MILLIJOULES_PER_JOULE,
            errors=errors,
            xids=self._xids.take(self.index),
            **(self._read("activity", self._gpm.read) or {}),
        )

    def _increase(self, figure: str, read: Callable[[], int]) -> int | None:
        """How much a count has grown since it was last read; None the first time, and when it began anew."""
        count = self._read(figure, read)
        if count is None:
            return None
        before, self._counts[figure] = self._counts.get(figure), count
        return None if before is None or count < before else count - before

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


def _clock_reasons(handle: Any) -> int:
    """Why the clock is not higher, as a bit mask. The newer name came with driver 535."""
    try:
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError_FunctionNotFound:
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return int(reasons)


def _uncorrected_errors(handle: Any) -> int:
    """Uncorrected memory errors since the driver was loaded."""
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC))


def open_gpus() -> Sequence[Gpu]:
    """Initialise NVML and find the GPUs of this container, at least one. Raises NoGpuError."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        raise NoGpuError(str(error)) from error
    handles = {}
    for index in range(count):
        try:
            handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            _log.error("GPU %d cannot be opened (%s): it is not sampled", index, error)
    if not handles:
        raise NoGpuError("the driver shows this container no GPU")
    xids = XidWatch(handles)
    return [Gpu(index, handle, xids) for index, handle in handles.items()]
