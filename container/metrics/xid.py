"""Beside the sampling: waits for the driver's own error messages (XIDs), in a thread of its own."""

import ctypes
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pynvml

WAIT_MILLISECONDS = 1000

_log = logging.getLogger(__name__)


class XidWatch:
    """Counts what the driver reports of the GPUs from now on; without support for it, nothing is counted."""

    def __init__(self, handles: Mapping[int, Any]) -> None:
        """`handles`: NVML's, by the GPU's number."""
        self._gpus: dict[int | None, int] = {}
        self._counts: Counter[int] = Counter()
        self._changing = threading.Lock()
        try:
            self._events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError as error:
            _log.info("the driver's own errors (XIDs) are not heard (%s)", error)
            return
        for gpu, handle in handles.items():
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
            except pynvml.NVMLError as error:
                _log.info("GPU %d: the driver's own errors (XIDs) are not heard (%s)", gpu, error)
            else:
                self._gpus[_address(handle)] = gpu
        if self._gpus:
            threading.Thread(target=self._run, daemon=True).start()

    def take(self, gpu: int) -> int | None:
        """How many came since the last call; None for none."""
        with self._changing:
            return self._counts.pop(gpu, None)

    def _run(self) -> None:
        while True:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, WAIT_MILLISECONDS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError as error:
                _log.warning("the driver's own errors (XIDs) are no longer heard (%s)", error)
                return
            gpu = self._gpus.get(_address(event.device))
            if gpu is not None:
                _log.error(
                    "GPU %d: the driver reports XID %d (NVIDIA's list of XIDs says why)", gpu, event.eventData
                )
                with self._changing:
                    self._counts[gpu] += 1


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
