"""First step of a training job: SageMaker's hyperparameter strings become the model's `Config`.

Every value reaches hyperparameters.json as text, and each caller writes its own: boto3 sends what
was typed, the Python SDK sends `str(value)`, JSON, or JSON of JSON, by version and estimator.
"""

import ast
import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

IGNORED_PREFIX = "sagemaker_"
IGNORED = ("_tuning_objective_metric", "default_user_module_name")
"""What tuning jobs and the SDK's script mode add for programs other than this one."""

SECRET_WORDS = {"secret", "password", "passwd", "token", "key", "credential", "credentials"}
MASK = "***"


def ignored(raw: Mapping[str, Any]) -> list[str]:
    """The names in `raw` that are no hyperparameters of the model but SageMaker's own."""
    return sorted(name for name in raw if name.startswith(IGNORED_PREFIX) or name in IGNORED)


def resolve(config_class: type, raw: Mapping[str, Any]) -> Any:
    """The model's `Config` from the file's names and values.

    A dash stands for an underscore; null or None leaves the default. Raises ValueError naming every
    unknown name (with near misses), wrong type and value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    kinds = typing.get_type_hints(config_class)
    skipped = ignored(raw)
    values: dict[str, Any] = {}
    problems = []
    for given, text in raw.items():
        name = given.replace("-", "_")
        if given in skipped:
            continue
        if name not in fields:
            problems.append(f"{given!r} is unknown{_near(name, list(fields))}")
            continue
        if name in values:
            problems.append(f"{given!r} is given twice, with a dash and with an underscore")
        try:
            value = decode(text, kinds[name])
            if value is not None:
                values[name] = _in_range(value, fields[name].metadata)
        except ValueError as error:
            problems.append(f"{given!r} {error}, not {_shown(given, text)}")
    if problems:
        raise ValueError("hyperparameter " + "; hyperparameter ".join(problems))
    return config_class(**values)


def decode(text: Any, kind: Any) -> Any:
    """One value from the file as `kind`: bool, int, float, str or a tuple of one of them; None for null.

    A number may have words beside it, as in `int | Literal["auto"]`. Raises ValueError saying what it must be.
    """
    text = _unquoted(str(text))  # other than text only where a person wrote the file
    if text in ("null", "None"):
        return None
    if types.NoneType in typing.get_args(kind):
        kind = typing.get_args(kind)[0]
    if words := _words(kind):
        if text in words:
            return text
        try:
            return _plain(text, typing.get_args(kind)[0])
        except ValueError as error:
            raise ValueError(f"{error} or {_names(words)}") from None
    if typing.get_origin(kind) is tuple:
        return tuple(_plain(_unquoted(str(item)), typing.get_args(kind)[0]) for item in _list(text))
    return _plain(text, kind)


def shown(config: Any) -> str:
    """The resolved configuration as one line of JSON, what looks secret masked."""
    values = dataclasses.asdict(config)
    return json.dumps({name: MASK if _secret(name) else value for name, value in values.items()}, default=str)


def _unquoted(text: str) -> str:
    """Take off JSON's quotes, as often as some caller put them on."""
    while len(text) > 1 and text[0] == text[-1] == '"':
        try:
            inner = json.loads(text)
        except ValueError:
            break
        text = inner
    return text


def _words(kind: Any) -> list[str]:
    """The words that a field may hold beside a number."""
    literals = [part for part in typing.get_args(kind) if typing.get_origin(part) is typing.Literal]
    return [word for part in literals for word in typing.get_args(part)]


def _plain(text: str, kind: Any) -> Any:
    decoders: dict[type, Callable[[str], Any]] = {bool: _bool, int: _int, float: _float, str: str}
    if kind not in decoders:
        raise TypeError(f"the model's Config has a field of type {kind}; it may have {_names(decoders)}")
    return decoders[kind](text)


def _bool(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    try:
        return values[text.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _int(text: str) -> int:
    number = _float(text, "an integer")
    if not number.is_integer():
        raise ValueError("must be an integer")
    try:
        return int(text)  # exact where a float is not
    except ValueError:
        return int(number)  # 1e4, 100.0


def _float(text: str, kind: str = "a number") -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"must be {kind}") from None
    if not math.isfinite(number):
        raise ValueError(f"must be {kind} that is finite")
    return number


def _list(text: str) -> list[Any]:
    """A list in JSON or in Python's own spelling, which the SDK sends as `str(value)`."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested too deep
            continue
        if isinstance(value, list | tuple):
            return list(value)
    raise ValueError("must be a list")


def _in_range(value: Any, metadata: Mapping[str, Any]) -> Any:
    for item in value if isinstance(value, tuple) else (value,):
        if "choices" in metadata and item not in metadata["choices"]:
            raise ValueError(f"must be one of {_names(metadata['choices'])}")
        if isinstance(item, str):
            continue
        if "minimum" in metadata and item < metadata["minimum"]:
            raise ValueError(f"must be at least {metadata['minimum']}")
        if "maximum" in metadata and item > metadata["maximum"]:
            raise ValueError(f"must be at most {metadata['maximum']}")
    return value


def _near(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name.lower(), known)
    if matches:
        return f"; did you mean {' or '.join(map(repr, matches))}?"
    return f"; the model has {_names(known)}"


def _names(names: Iterable[Any]) -> str:
    return ", ".join(getattr(name, "__name__", str(name)) for name in names)


def _shown(name: str, text: Any) -> str:
    if _secret(name):
        return MASK
    spelt = repr(text)
    return spelt if len(spelt) <= 60 else spelt[:59] + "…"


def _secret(name: str) -> bool:
    return not SECRET_WORDS.isdisjoint(name.lower().replace("-", "_").split("_"))
