"""From a worker to the metrics agent: once a second, what its requests were.

Next to nothing is done while a request is answered: the figures are differences of the counters that
/metrics keeps anyway, and times kept beside them, read by a thread of its own and sent without waiting.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from metrics.work import WorkSender
from serving.drift import DriftWatch
from serving.request_metrics import RequestMetrics

SECONDS_BETWEEN_REPORTS = 1.0
MILLISECONDS = 1000
REPORTS_BETWEEN_DRIFT = 60
STAGES = ("decode", "queue", "predict", "encode")
TIMES_PER_REPORT = 20
"""Of the request and of each stage: so many make percentiles, and go into one message."""

_log = logging.getLogger(__name__)


class WorkReport:
    """Tells the agent at `address`; without one it only has the figures written."""

    def __init__(
        self, metrics: RequestMetrics, address: str | None, drift: Callable[[], DriftWatch | None]
    ) -> None:
        self._metrics = metrics
        self._drift = drift
        self._address = address
        self._sender = WorkSender(address)
        self._before: Mapping[str, float] = {}
        self._sending = threading.Lock()

    def start(self) -> None:
        """Send each second from now on, in the background."""
        threading.Thread(target=self._run, name="work report", daemon=True).start()

    def send(self) -> None:
        """Tell what is new since the last time: before the process ends, for example."""
        with self._sending:
            totals = self._metrics.totals()
            new = {name: total - self._before.get(name, 0.0) for name, total in totals.items()}
            self._before = totals
            stages = [stage for stage in STAGES if f"{stage}_count" in totals]  # the others were never begun
            times = {stage: self._metrics.stage.labels(stage).take() for stage in stages}
            times["request"] = self._metrics.latency.take()
            self._sender.send(**figures(new), **milliseconds(times), in_flight=totals["in_flight"])

    def send_drift(self, *, is_last: bool = False) -> None:
        """Tell how far the requests are from the reference, and at the end of a window log it."""
        watch = self._drift()
        if watch is None or not (distances := watch.distances()):
            return
        psi = {f"drift_psi:{figure}": distance.psi for figure, distance in distances.items()}
        ks = {f"drift_ks:{figure}": distance.ks for figure, distance in distances.items()}
        self._sender.send(**psi, **ks)
        if watch.is_over or (is_last and watch.has_enough):
            figures = {figure: distance._asdict() for figure, distance in distances.items()}
            _log.info({"event": "drift", "inputs": watch.count, "figures": figures})
            watch.restart()

    def close(self) -> None:
        """Tell what is new, and nothing more."""
        self.send()
        self.send_drift(is_last=True)
        self._sender.close()

    def _run(self) -> None:
        pause = threading.Event()
        for number in itertools.count(1):
            pause.wait(SECONDS_BETWEEN_REPORTS)
            if self._address is None:
                self._metrics.settle()  # for other workers, who may be asked for the figures of all
                continue
            self.send()
            if number % REPORTS_BETWEEN_DRIFT == 0:
                self.send_drift()


def figures(new: Mapping[str, float]) -> dict[str, float]:
    """What the agent is told of a second, by the names of `metrics.period`: sums, and a mean of what happened."""
    told = {"requests": new["requests"], "errors": new["errors"]}
    if batches := new.get("batch_count"):
        told["batch_size"] = round(new["batch_sum"] / batches, 3)
        told["predict_seconds"] = round(new.get("predict_sum", 0.0), 6)
    return told


def milliseconds(times: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """A second's times, by the same names; of very many, as many evenly spaced in their order of arrival."""
    return {
        f"{stage}_milliseconds": [
            float(f"{MILLISECONDS * seconds:.4g}")
            for seconds in of_stage[:: -(-len(of_stage) // TIMES_PER_REPORT)]
        ]
        for stage, of_stage in times.items()
        if of_stage
    }
