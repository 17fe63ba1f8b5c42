"""Which models a multi-model endpoint has loaded: each by its name, opaque to us, with the process that serves it.

    load:  absent -> loading -> ready        unload:  ready -> leaving -> absent

Whoever wants to change a model that somebody else is changing waits for that.
"""

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.batching import is_out_of_memory
from serving.errors import RequestError
from serving.execution_parameters import available_memory_bytes
from serving.multi_model.process import LoadFailed, ModelProcess
from serving.settings import MEBIBYTE

LOAD_SECONDS = 360.0
"""SageMaker lets a load go on for so long after it has given up the request."""
LOADS_AT_ONCE = 8
"""Each waits in a thread, and some are kept for everything else. So many again may wait for a name of these."""
SERVER_BYTES = 64 * MEBIBYTE
"""What a model's processes take besides its files, at the least."""
CANNOT_BE_SERVED = 4
"""A server's exit code when it is the model's folder that is wrong."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Model:
    """An entry; `url`: its folder, as the platform named it."""

    name: str
    url: str
    process: ModelProcess
    needed_bytes: int
    """What it was expected to take when its load began."""
    ready: bool = False
    leaving: bool = False
    running: int = 0
    """Requests that it is at."""


class Models:
    """The table. Its methods may be called by many threads, and raise RequestError."""

    def __init__(self, folder: Path, gpus: Sequence[str], *, request_timeout_seconds: float) -> None:
        self._folder = folder
        self._gpus = gpus
        self._request_timeout_seconds = request_timeout_seconds
        self._models: dict[str, Model] = {}
        self._numbers = itertools.count()
        self._waiters = 0
        self._changed = threading.Condition()

    def load(self, name: str, url: str) -> None:
        """Start the model in folder `url`; return when it is ready.

        409 when the name is loaded, 507 when there is no room, 400 when the folder holds no model that can be
        served, 503 when too many others are being loaded, 500 when its process fails otherwise.
        """
        with self._changed:
            self._wait_for_others(name)
            self._forget_if_dead(name)
            if name in self._models:
                raise RequestError(409, f"model {name!r} is loaded already")
            if sum(not model.ready for model in self._models.values()) >= LOADS_AT_ONCE:
                raise RequestError(503, f"{LOADS_AT_ONCE} models are being loaded")
            needed_bytes = self._require_room(Path(url))
            process = ModelProcess(self._folder / str(next(self._numbers)), Path(url), self._free_gpu())
            model = self._models[name] = Model(name, url, process, needed_bytes)
        try:
            process.wait_until_ready(LOAD_SECONDS)
        except LoadFailed as error:
            status = 400 if process.exit_code == CANNOT_BE_SERVED else 500
            if is_out_of_memory(error) or "MemoryError" in str(error):
                status = 507
            self._end(model)
            raise RequestError(status, f"model {name!r} was not loaded: {error}") from error
        except BaseException:
            self._end(model)
            raise
        with self._changed:
            model.ready = True
            self._changed.notify_all()
        _log.info("loaded model %r from %s", name, url)

    def unload(self, name: str) -> None:
        """End the model when it has answered what it is at; its memory is free then. 404 when it is not loaded."""
        with self._changed:
            self._wait_for_others(name)
            model = self._find(name)
            model.leaving = True
            self._changed.wait_for(lambda: not model.running, self._request_timeout_seconds)
        self._end(model)
        _log.info("unloaded model %r", name)

    def get(self, name: str) -> Model:
        """The model, ready. 404 when it is not loaded, 503 while it is being loaded."""
        with self._changed:
            return self._find(name)

    def names(self) -> list[str]:
        """Of the models that are ready, in order."""
        with self._changed:
            return sorted(name for name, model in self._models.items() if self._is_ready(model))

    @contextmanager
    def use(self, name: str) -> Iterator[ModelProcess]:
        """The model's process, which is not unloaded meanwhile. As `get`, else."""
        with self._changed:
            model = self._find(name)
            model.running += 1
        try:
            yield model.process
        finally:
            with self._changed:
                model.running -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End all of them."""
        with self._changed:
            models = list(self._models.values())
        for model in models:
            self._end(model)

    def _wait_for_others(self, name: str) -> None:
        def is_settled() -> bool:
            model = self._models.get(name)
            return model is None or (model.ready and not model.leaving)

        if is_settled():
            return
        busy = RequestError(503, f"model {name!r} is being loaded or unloaded")
        if self._waiters >= LOADS_AT_ONCE:
            raise busy
        self._waiters += 1
        try:
            if not self._changed.wait_for(is_settled, LOAD_SECONDS):
                raise busy
        finally:
            self._waiters -= 1

    def _is_ready(self, model: Model) -> bool:
        return model.ready and not model.leaving and model.process.exit_code is None

    def _find(self, name: str) -> Model:
        self._forget_if_dead(name)
        model = self._models.get(name)
        if model is None or model.leaving:
            raise RequestError(404, f"model {name!r} is not loaded")
        if not model.ready:
            raise RequestError(503, f"model {name!r} is being loaded")
        return model

    def _forget_if_dead(self, name: str) -> None:
        model = self._models.get(name)
        if model is not None and model.ready and not model.leaving and model.process.exit_code is not None:
            _log.error("the server of model %r has ended: it is not loaded any more", name)
            del self._models[name]
            # It may take long where a driver hangs, and everybody waits for the table.
            threading.Thread(target=model.process.end, name="model's end", daemon=True).start()

    def _end(self, model: Model) -> None:
        model.process.end()
        with self._changed:
            if self._models.get(model.name) is model:
                del self._models[model.name]
            self._changed.notify_all()

    def _free_gpu(self) -> str | None:
        """The one with the fewest models."""
        used = [model.process.gpu for model in self._models.values()]
        return min(self._gpus, key=used.count, default=None)

    def _require_room(self, model_dir: Path) -> int:
        """As much as the largest of the others has, and not less than the model's files: 507 without.

        What the models that are being loaded will still take is spoken for.
        """
        files = sum(path.stat().st_size for path in model_dir.rglob("*") if path.is_file())
        taken = {model: model.process.memory_bytes() for model in self._models.values()}
        needed = max(SERVER_BYTES + files, *taken.values(), 0)
        spoken_for = sum(
            max(0, model.needed_bytes - memory) for model, memory in taken.items() if not model.ready
        )
        available = max(0, available_memory_bytes() - spoken_for)
        if available < needed:
            raise RequestError(
                507,
                f"no memory for another model: {needed // MEBIBYTE} MiB wanted, {available // MEBIBYTE} MiB left",
            )
        return needed
