"""Reads the GPUs through NVML (nvidia-ml-py): called once a second by the agent's sampling thread.

NVML is initialised once per process and never shut down: where the driver keeps no GPU awake,
each initialisation would wake one, which takes seconds.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pynvml

from metrics import readings
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
NEVER = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
)
"""What will be answered each time, as long as the container runs."""

_log = logging.getLogger(__name__)


class NoGpuError(Exception):
    """There is nothing to sample; the text says why."""


class Gpu:
    """One GPU, or one MIG device. A figure that it does not support is asked for once and never again."""

    def __init__(
        self, index: int, board: Any, xids: XidWatch, mig_device: Any = None, *, tells_board: bool = True
    ) -> None:
        """`board`, `mig_device`: NVML's handles. `tells_board`: power, heat and errors are for one of its devices."""
        self.index = index
        self._board, self._xids, self._tells_board = board, xids, tells_board
        self._device = board if mig_device is None else mig_device
        self._gpm = Gpm(index, board, mig_device)
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
        memory = self._read("memory", lambda: readings.memory(self._device))
        return GpuSample(
            self.index,
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            **(self._read("activity", self._gpm.read) or {}),
            **(self._of_board(number) if self._tells_board else {}),
        )

    def _of_board(self, number: int) -> dict[str, Any]:
        """What belongs to the whole board, by GpuSample's names."""
        board = self._board
        rates = self._read("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(board))
        power = self._read("power", lambda: pynvml.nvmlDeviceGetPowerUsage(board))
        reasons = self._read("clock reasons", lambda: readings.clock_reasons(board))
        energy = self._increase("energy", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(board))
        temperature = errors = None
        if number % SAMPLES_PER_TEMPERATURE == 0:
            temperature = self._read(
                "temperature", lambda: pynvml.nvmlDeviceGetTemperature(board, pynvml.NVML_TEMPERATURE_GPU)
            )
        if number % SAMPLES_PER_ERROR_COUNT == 0:
            counts = (
                self._increase("memory errors", lambda: readings.uncorrected_errors(board)),
                self._increase("replaced memory", lambda: readings.replaced_memory(board)),
            )
            known = [count for count in counts if count is not None]
            errors = sum(known) if known else None
        capped = pynvml.nvmlClocksThrottleReasonSwPowerCap
        return {
            "utilization_percent": None if rates is None else rates.gpu,
            "power_watts": None if power is None else power / MILLIWATTS_PER_WATT,
            "temperature_celsius": temperature,
            "throttled": None if reasons is None else bool(reasons & THROTTLED),
            "power_capped": None if reasons is None else bool(reasons & capped),
            "energy_joules": None if energy is None else energy / MILLIJOULES_PER_JOULE,
            "errors": errors,
            "xids": self._xids.take(self.index),
        }

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
        except NEVER as error:
            self._unsupported.add(figure)
            _log.info("GPU %d does not report its %s (%s): left out", self.index, figure, error)
        except pynvml.NVMLError as error:
            # Any other error may pass: this sample lacks the figure, the next one asks again.
            if figure not in self._reported:
                self._reported.add(figure)
                _log.warning("GPU %d: its %s could not be read (%s); said once", self.index, figure, error)
        return None


class LostGpu:
    """One that had been lost before the agent came: said in its only sample."""

    def __init__(self, index: int) -> None:
        self._index = index

    def sample(self, number: int) -> GpuSample | None:
        return GpuSample(self._index, lost=True) if number == 0 else None


def open_gpus() -> Sequence[Gpu | LostGpu]:
    """Initialise NVML and find the GPUs of this container, at least one. Raises NoGpuError.

    They are numbered as NVML does; from the first one in MIG mode on, its devices count one by one.
    """
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        raise NoGpuError(str(error)) from error
    lost: list[LostGpu] = []
    boards: dict[int, tuple[Any, list[Any]]] = {}
    number = 0
    for index in range(count):
        try:
            board = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError_GpuIsLost:
            lost.append(LostGpu(number))
            _log.error("GPU %d is lost (it fell off the bus): it is not sampled", number)
        except pynvml.NVMLError as error:
            _log.error("GPU %d cannot be opened (%s): it is not sampled", number, error)
        else:
            boards[number] = board, list(readings.mig_devices(board))
            number += len(boards[number][1][1:])
        number += 1
    if not boards and not lost:
        raise NoGpuError("the driver shows this container no GPU")
    xids = XidWatch({first: board for first, (board, _) in boards.items()})
    gpus = [
        Gpu(first + place, board, xids, mig_device, tells_board=place == 0)
        for first, (board, mig_devices) in boards.items()
        for place, mig_device in enumerate(mig_devices or [None])
    ]
    return [*gpus, *lost]
