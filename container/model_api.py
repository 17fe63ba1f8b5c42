"""The seam between the contract layers and a model: six names, found by import.

A model package (its name is in MODEL_PACKAGE, default `surface_normals`) offers

`<package>.training`
    `Config`   a frozen dataclass: the hyperparameters. Every field has a default, a plain
               type (bool, int, float, str, `X | None` or `tuple[X, ...]` of one) and, in its
               metadata, `help`, and where they apply `minimum`, `maximum` (inclusive) or `choices`.
    `train`    does the work; see `Train`.
    `DISTRIBUTED = True`, which may be left out, has `train` called in one process for each GPU of each
               host, as torch's launcher does it, with torch.distributed's default process group ready.
               Only the first process's `report` is heard, and only that one may write. Without it
               there is one process, whatever the host has, and a job of several hosts is refused.
`<package>.predictor`
    `load`     `load(model_dir)` returns a `Predictor`: weights on the device and one
               prediction made, so that the first request is as fast as the second.
    `ENGINES`, which may be left out, names what the model can compute its predictions with. Then
               `load(model_dir, engine=..., threads=...)` is told which, or None for the best, and
               how many threads of the CPU are its share.

A `Predictor` may also know what it was measured on, and the server then watches whether requests have become
unlike that:
    `reference`           a `Histogram` for each figure, by its name (ASCII letters, digits and _)
    `describe(input, output)`  a number for each of these figures, of one answered request; it is called in many
               threads at once, and should take a millisecond.

A `Predictor` that would end its process where the host's memory ends, rather than raise, offers
    `memory_bytes(input)`  what predicting this input takes, beside the model. Batches are then made no larger than
               there is room for, and an input for which there is none is refused (413).

One whose predictions may take longer than a client waits offers
    `predict_while(inputs, is_wanted)`, which is then called in the place of `predict`; once `is_wanted()` is false,
               nobody waits for any of them, and it should raise something, so that others have their turn.

One that predicts faster in several threads, an input in each, than in batches has
    `lanes`    in how many: `predict` is then called in so many threads at once, with one input.

One rule on errors. ValueError is the caller's fault: wrong bytes in `decode`, wrong data or
hyperparameters in `train`. It may carry a `status` attribute, a 4xx number, where 400 is too
coarse. Anything else is ours. Everything that crosses is plain: bytes, str, numbers, Path, dict,
callables. A model imports nothing of this project.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypedDict, cast

DEFAULT_PACKAGE = "surface_normals"


class ModelPackageError(Exception):
    """The model package is missing, or does not offer what the seam asks for."""


class Train(Protocol):
    """Train to the end or until `should_stop()`; leave a loadable model in `model_dir` either way.

    `channels` maps a channel's name to its folder. `report(name, value, step)` publishes one
    number. `checkpoint_dir` holds what an earlier run of the same job left; the function resumes
    from it. Both ends of every file are the function's: written under a temporary name that begins with a
    dot, renamed. A stop that ends it by force is a success where files stand in `model_dir`.
    """

    def __call__(
        self,
        config: Any,
        *,
        channels: Mapping[str, Path],
        model_dir: Path,
        output_dir: Path,
        checkpoint_dir: Path,
        report: Callable[[str, float, int], None],
        should_stop: Callable[[], bool],
    ) -> None: ...


class Histogram(TypedDict):
    """How often a figure was in each bin: below the first edge, from it to the next, ..., from the last on."""

    edges: list[float]
    """Rising."""
    counts: list[int]
    """One more than edges."""


class Predictor(Protocol):
    """A loaded model. `decode` and `encode` run in many threads at once, `predict` in one (or in `lanes`)."""

    request_types: Sequence[str]
    """Media types `decode` takes; the first stands for a request that names none."""
    response_types: Sequence[str]
    """Media types `encode` makes, parameters included; the first is the default.

    `image/png;bits=8|16` leaves a choice to the client; its first value is the default.
    """

    def decode(self, body: bytes, media_type: str) -> Any:
        """One request's bytes to one input. Raises ValueError when the bytes are wrong."""

    def predict(self, inputs: list[Any]) -> list[Any]:
        """A batch of inputs to as many outputs, in order.

        They all have the same `batch_key(input)`, where the model offers such a function (it is called in
        many threads at once), else the same `shape`, where they have one.
        """

    def encode(self, output: Any, media_type: str) -> bytes:
        """One output as the bytes of one of `response_types`, every choice spelt out: `image/png;bits=8`."""


def load_training(package: str) -> tuple[type, Train]:
    """`(Config, train)` of a model package. Raises ModelPackageError saying what is missing."""
    module = _import(package, "training")
    return cast(type, _name(module, "Config")), cast(Train, _name(module, "train"))


def is_distributed(package: str) -> bool:
    """Whether `train` may be called in several processes together. Raises ModelPackageError."""
    return bool(getattr(_import(package, "training"), "DISTRIBUTED", False))


def load_predictor(
    package: str, model_dir: Path, *, engine: str | None = None, threads: int | None = None
) -> Predictor:
    """The model in `model_dir`, ready. Raises ModelPackageError, or what the model's `load` raises."""
    module = _import(package, "predictor")
    load, engines = _name(module, "load"), getattr(module, "ENGINES", ())
    if engine is not None and engine not in engines:
        raise ModelPackageError(
            f"ENGINE={engine!r}, but {module.__name__} offers {', '.join(engines) or 'no ENGINES'}"
        )
    predictor = load(model_dir, engine=engine, threads=threads) if engines else load(model_dir)
    for name in ("request_types", "response_types", "decode", "predict", "encode"):
        if not hasattr(predictor, name):
            raise ModelPackageError(f"{package}.predictor.load() returned an object without `{name}`")
    return cast(Predictor, predictor)


def _import(package: str, part: str) -> ModuleType:
    name = f"{package}.{part}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (package, name):
            raise
        raise ModelPackageError(
            f"no module {name!r}: MODEL_PACKAGE is {package!r}; put that folder beside surface_normals/"
        ) from error


def _name(module: ModuleType, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ModelPackageError(
            f"{module.__name__} offers no `{name}`; model_api.py lists what it must"
        ) from error
