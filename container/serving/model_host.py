"""The thread of a worker that touches the model: finds it, loads it, then predicts for ever."""

import logging
import math
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_api import ModelPackageError, Predictor, load_predictor
from serving.batching import Batcher, shape_of
from serving.drift import DriftWatch, open_watch
from serving.execution_parameters import PREDICTION_SHARE, available_memory_bytes
from serving.failure import leave_with
from serving.health import Health
from serving.media_types import JSON, JSON_LINES, AnswerType, Offer, default_answer
from serving.request_metrics import RequestMetrics
from serving.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready, and what it says of itself, read once."""

    predictor: Predictor
    request_types: Sequence[str]
    """Its own, and JSON in which these are wrapped."""
    offers: tuple[Offer, ...]
    """Its `response_types`."""
    default: AnswerType
    """Its answer to a request that asks for nothing."""
    group_of: Callable[[Any], Hashable]
    """Which inputs may go through it together."""
    memory_bytes: Callable[[Any], int]
    """What predicting an input takes; 0 where the model says nothing."""
    lanes: int
    """In how many threads it predicts at once, an input each; 1: in one, batches."""
    room_bytes: float
    """What there is for that."""

    def predict(self, inputs: list[Any], is_wanted: Callable[[], bool]) -> list[Any]:
        """Its outputs, if it does not stop as nobody wants them any more."""
        if hasattr(self.predictor, "predict_while"):
            outputs: list[Any] = self.predictor.predict_while(inputs, is_wanted)
            return outputs
        return self.predictor.predict(inputs)

    @classmethod
    def of(cls, predictor: Predictor, default_accept: str | None, room_bytes: float) -> "LoadedModel":
        """Raises ValueError when the model does not make `default_accept`."""
        offers = tuple(Offer.parse(text) for text in predictor.response_types)
        default = default_answer(default_accept, offers) if default_accept else offers[0].usual()
        if default is None:
            raise ValueError(
                f"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT={default_accept!r} must be one of "
                f"{list(predictor.response_types)}"
            )
        request_types = tuple(dict.fromkeys([*predictor.request_types, JSON, JSON_LINES]))
        return cls(
            predictor,
            request_types,
            offers,
            default,
            getattr(predictor, "batch_key", shape_of),
            getattr(predictor, "memory_bytes", lambda value: 0),
            getattr(predictor, "lanes", 1),
            room_bytes,
        )

    def most_of(self, value: Any) -> float:
        """How many inputs like this one there is room for at once: below 1, not even for one."""
        needed = self.memory_bytes(value)
        return self.room_bytes / needed if needed else math.inf


class ModelHost:
    """Where a request's thread finds the loaded model and the queue before it.

    Loading and predicting share a thread because GPU libraries keep state per thread: what the
    warm-up made is then there for the first request.
    """

    def __init__(
        self,
        settings: Settings,
        run_directory: Path,
        health: Health,
        metrics: RequestMetrics,
        *,
        workers: int,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._run_directory = run_directory
        self._health = health
        self._metrics = metrics
        self.loaded: LoadedModel | None = None
        """None while the model is loading."""
        self.drift: DriftWatch | None = None
        """None also for a model that does not know what it was measured on, or without metrics."""
        self.batcher = Batcher(
            self._predict,
            max_batch=settings.max_batch,
            queue_changed=self._queue_changed,
            group_of=self._group_of,
            most_of=self._most_of,
            waited=metrics.queue.observe,
        )

    def start(self) -> None:
        """Load in the background; the process ends if that fails."""
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def _run(self) -> None:
        try:
            self._load()
        except BaseException as error:  # noqa: BLE001 (whatever it is, without a model there is no server)
            expected = isinstance(error, (ValueError, OSError, ModelPackageError))
            _log.log(logging.DEBUG if expected else logging.ERROR, "loading failed", exc_info=error)
            if not self._health.draining:  # else the server is ending already
                cause = " ".join(str(error).split())
                leave_with(
                    f"the model cannot be served: {cause} ({type(error).__name__}; "
                    f"MODEL_PACKAGE {self._settings.model_package}, folder {self._settings.model_dir})",
                    self._run_directory,
                )
            return
        assert self.loaded is not None
        if self.loaded.lanes > 1:
            self.batcher.max_batch = 1
        for _ in range(1, self.loaded.lanes):
            threading.Thread(target=self._predict_for_ever, name="model", daemon=True).start()
        self._predict_for_ever()

    def _predict_for_ever(self) -> None:
        try:
            self.batcher.run()
        except BaseException:  # noqa: BLE001 (for example a model that calls sys.exit)
            _log.critical("the model's thread ended, and so does this worker", exc_info=True)
            os._exit(1)

    def _load(self) -> None:
        settings = self._settings
        folder = find_model(settings.model_dir)
        _log.info("loading %s from %s", settings.model_package, folder)
        predictor = load_predictor(
            settings.model_package, folder, engine=settings.engine, threads=settings.threads
        )
        self.drift = open_watch(predictor) if settings.gpu_metrics else None
        room_bytes = PREDICTION_SHARE * available_memory_bytes() / self._workers
        self.loaded = LoadedModel.of(predictor, settings.default_accept, room_bytes)
        self._health.loading_done()
        _log.info("ready: takes %s, makes %s", list(predictor.request_types), list(predictor.response_types))

    def _queue_changed(self, waiting: int) -> None:
        self._metrics.queue_depth = waiting

    def _group_of(self, value: Any) -> Hashable:
        assert self.loaded is not None
        return self.loaded.group_of(value)

    def _most_of(self, value: Any) -> float:
        assert self.loaded is not None
        return self.loaded.most_of(value)

    def _predict(self, inputs: list[Any], is_wanted: Callable[[], bool]) -> list[Any]:
        assert self.loaded is not None
        self._metrics.batch_size.observe(len(inputs))
        with self._metrics.predict.time():
            return self.loaded.predict(inputs, is_wanted)


def find_model(model_dir: Path) -> Path:
    """`model_dir`, or the one folder in it: archives are often made one level too high.

    Raises FileNotFoundError when there is nothing.
    """
    # Hidden files are what a desktop leaves in an archive.
    entries = (
        [path for path in model_dir.iterdir() if not path.name.startswith(".")] if model_dir.is_dir() else []
    )
    if not entries:
        state = "is empty" if model_dir.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{model_dir} {state}: give the endpoint's model a ModelDataUrl, mount a folder there, "
            "or set SAGEMAKER_BASE_DIR"
        )
    if len(entries) == 1 and entries[0].is_dir():
        _log.warning("%s holds nothing but %s/: taking the model from there", model_dir, entries[0].name)
        return entries[0]
    return model_dir
