"""How busy the parts of a GPU are (NVML's GPM, from Hopper on): sampled by the agent beside the rest.

Utilisation says that some kernel ran, these say how much of the chip it used. Two samples of the
counters, at least 100 ms apart, give the means between them; no daemon and no lock is involved.
"""

import logging
import math
import time
from typing import Any

import pynvml

FIGURES = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: "sm_active_percent",
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: "tensor_active_percent",
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "memory_bandwidth_percent",
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC: "nvlink_received_mebibytes_per_second",
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC: "nvlink_sent_mebibytes_per_second",
}
SHORTEST_SECONDS = 0.1
"""Between two samples: nearer ones give no means."""

_log = logging.getLogger(__name__)


class Gpm:
    """The counters of one GPU or MIG device; where the driver has none, or refuses them, every reading is empty."""

    def __init__(self, index: int, board: Any, mig_device: Any = None) -> None:
        self._board = board
        self._instance: int | None = None
        """Of the GPU in MIG mode, that of the device."""
        self._samples: list[Any] = []
        self._taken = 0.0
        try:
            if pynvml.nvmlGpmQueryDeviceSupport(board).isSupportedDevice:
                if mig_device is not None:
                    self._instance = pynvml.nvmlDeviceGetGpuInstanceId(mig_device)
                self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
                self._take(self._samples[0])
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            self._samples = []
        except pynvml.NVMLError as error:  # a container may lack the permission
            self._samples = []
            _log.info("GPU %d does not show its activity counters (%s): left out", index, error)

    def _take(self, sample: Any) -> None:
        if self._instance is None:
            pynvml.nvmlGpmSampleGet(self._board, sample)
        else:
            pynvml.nvmlGpmMigSampleGet(self._board, self._instance, sample)
        self._taken = time.monotonic()

    def read(self) -> dict[str, float]:
        """Means since the last ones, by GpuSample's names; what is not known is left out. Raises NVMLError."""
        if not self._samples or time.monotonic() - self._taken < SHORTEST_SECONDS:
            return {}
        before, now = self._samples
        self._take(now)
        self._samples = [now, before]
        asked = pynvml.c_nvmlGpmMetricsGet_t(
            version=pynvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=len(FIGURES), sample1=before, sample2=now
        )
        for place, metric in enumerate(FIGURES):
            asked.metrics[place].metricId = metric
        pynvml.nvmlGpmMetricsGet(asked)
        answers = [(asked.metrics[place], name) for place, name in enumerate(FIGURES.values())]
        return {
            name: float(f"{answer.value:.4g}")
            for answer, name in answers
            if answer.nvmlReturn == pynvml.NVML_SUCCESS and math.isfinite(answer.value)
        }
