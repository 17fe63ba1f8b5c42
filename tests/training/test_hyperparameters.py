"""Every encoding in which a caller's value reaches hyperparameters.json, and what is refused."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from training.hyperparameters import ignored, resolve, shown


@dataclass(frozen=True)
class Config:
    optimizer: str = field(default="sgd", metadata={"choices": ("sgd", "adam")})
    name: str = "unnamed"
    learning_rate: float = field(default=0.1, metadata={"minimum": 0.0, "maximum": 1.0})
    epochs: int = field(default=1, metadata={"minimum": 1, "maximum": 10**17})
    flip: bool = False
    max_minutes: float | None = None
    scales: tuple[float, ...] = field(default=(1.0,), metadata={"minimum": 0.5})
    words: tuple[str, ...] = ()
    api_key: str = "none"
    workers: int | Literal["auto"] = field(default="auto", metadata={"minimum": 1, "maximum": 8})


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ('"auto"', "auto"), ("3", 3), ('"3"', 3), (3, 3)]
)
def test_a_number_may_have_a_word_beside_it(text, value):
    workers = resolve(Config, {"workers": text}).workers
    assert workers == value
    assert type(workers) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("many", "must be an integer or auto, not 'many'"), ("0", "at least 1"), ("9", "at most 8")],
)
def test_beside_that_word_it_is_a_number_in_its_range(text, message):
    with pytest.raises(ValueError, match=message):
        resolve(Config, {"workers": text})


@pytest.mark.parametrize("text", ["adam", '"adam"', '"\\"adam\\""'])
def test_text_comes_bare_quoted_or_quoted_twice(text):
    assert resolve(Config, {"optimizer": text}).optimizer == "adam"


@pytest.mark.parametrize("text", ["0.01", '"0.01"', '"\\"0.01\\""', "1e-2", 0.01])
def test_numbers(text):
    assert resolve(Config, {"learning_rate": text}).learning_rate == 0.01


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ('"3"', 3), ("3.0", 3), ("1e3", 1000), (3, 3), ("9007199254740993", 9007199254740993)],
)
def test_integers(text, value):
    epochs = resolve(Config, {"epochs": text}).epochs
    assert epochs == value
    assert type(epochs) is int


@pytest.mark.parametrize("text", ["true", "True", "TRUE", '"true"', '"True"', "1", True])
def test_true(text):
    assert resolve(Config, {"flip": text}).flip is True


@pytest.mark.parametrize("text", ["false", "False", '"false"', "0", False])
def test_false(text):
    @dataclass(frozen=True)
    class On:
        flip: bool = True

    assert resolve(On, {"flip": text}).flip is False


@pytest.mark.parametrize(
    "text", ["[1, 2.5]", '"[1, 2.5]"', "(1, 2.5)", "['1', '2.5']", '["1", "2.5"]', [1, 2.5]]
)
def test_lists_in_json_and_in_pythons_spelling(text):
    assert resolve(Config, {"scales": text}).scales == (1.0, 2.5)


@pytest.mark.parametrize("text", ["['it''s', 'b']", '["its", "b"]'])
def test_lists_of_text(text):
    assert resolve(Config, {"words": text}).words == ("its", "b")


@pytest.mark.parametrize("text", ["null", "None", '"null"', None])
@pytest.mark.parametrize("name", ["epochs", "optimizer", "max_minutes"])
def test_none_leaves_the_default(name, text):
    assert resolve(Config, {name: text}) == Config()


@pytest.mark.parametrize(
    "text", ["0.01", "12", "true", "[1, 2]", '{"a": 1}', "it's", "", '"', "__import__('os')"]
)
def test_a_text_field_keeps_what_looks_like_something_else(text):
    assert resolve(Config, {"name": text}).name == text
    assert resolve(Config, {"name": json.dumps(text)}).name == text


def test_optional_field():
    assert resolve(Config, {"max_minutes": "1.5"}).max_minutes == 1.5


def test_a_dash_stands_for_an_underscore():
    assert resolve(Config, {"learning-rate": "0.5"}).learning_rate == 0.5


def test_sagemakers_own_names_are_ignored():
    raw = {
        "_tuning_objective_metric": "val",
        "sagemaker_program": '"train.py"',
        "sagemaker_submit_directory": '"s3://bucket/sourcedir.tar.gz"',
        "sagemaker_mpi_enabled": "true",
        "default_user_module_name": "x",
    }
    assert resolve(Config, raw | {"epochs": "2"}) == Config(epochs=2)
    assert ignored(raw | {"epochs": "2"}) == sorted(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"epcohs": "3"}, "hyperparameter 'epcohs' is unknown; did you mean 'epochs'?"),
        ({"Learning-Rate": "3"}, "hyperparameter 'Learning-Rate' is unknown; did you mean 'learning_rate'?"),
        ({"zzz": "3"}, "hyperparameter 'zzz' is unknown; the model has optimizer, name, learning_rate"),
        ({"epochs": "ten"}, "hyperparameter 'epochs' must be an integer, not 'ten'"),
        ({"epochs": "2.5"}, "hyperparameter 'epochs' must be an integer, not '2.5'"),
        ({"epochs": "true"}, "hyperparameter 'epochs' must be an integer, not 'true'"),
        ({"epochs": ""}, "hyperparameter 'epochs' must be an integer, not ''"),
        ({"epochs": "[1]"}, "hyperparameter 'epochs' must be an integer"),
        ({"epochs": "0"}, "hyperparameter 'epochs' must be at least 1, not '0'"),
        ({"epochs": "9" * 400}, "hyperparameter 'epochs' must be an integer that is finite"),
        ({"learning_rate": "fast"}, "hyperparameter 'learning_rate' must be a number, not 'fast'"),
        ({"learning_rate": "1.1"}, "hyperparameter 'learning_rate' must be at most 1.0, not '1.1'"),
        ({"learning_rate": "nan"}, "hyperparameter 'learning_rate' must be a number that is finite"),
        ({"learning_rate": "1e400"}, "hyperparameter 'learning_rate' must be a number that is finite"),
        ({"flip": "yes"}, "hyperparameter 'flip' must be true or false, not 'yes'"),
        ({"optimizer": "adamw"}, "hyperparameter 'optimizer' must be one of sgd, adam, not 'adamw'"),
        ({"scales": "1"}, "hyperparameter 'scales' must be a list, not '1'"),
        ({"scales": "[" * 2000}, "hyperparameter 'scales' must be a list"),
        ({"scales": "[1, 0.1]"}, "hyperparameter 'scales' must be at least 0.5, not '[1, 0.1]'"),
        ({"scales": "[1, null]"}, "hyperparameter 'scales' must be a number"),
        ({"api-key": "[", "epochs": "a"}, "hyperparameter 'epochs' must be an integer, not 'a'"),
        ({"learning-rate": "0.1", "learning_rate": "0.2"}, "'learning_rate' is given twice"),
    ],
)
def test_refusals_name_the_field_and_what_it_must_be(raw, message):
    with pytest.raises(ValueError, match="hyperparameter") as refusal:
        resolve(Config, raw)
    assert message in str(refusal.value)


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match=r"'epcohs' is unknown.*'flip' must be true or false"):
        resolve(Config, {"epcohs": "3", "flip": "perhaps"})


def test_long_values_are_cut_and_secret_ones_masked():
    @dataclass(frozen=True)
    class Secret:
        api_key: int = 1

    with pytest.raises(ValueError, match=r"must be an integer, not \*\*\*$"):
        resolve(Secret, {"api-key": "hunter2"})
    with pytest.raises(ValueError, match="'epochs'") as refusal:
        resolve(Config, {"epochs": "x" * 2500})
    assert len(str(refusal.value)) < 150


def test_the_resolved_configuration_is_one_line_without_secrets():
    line = shown(resolve(Config, {"api_key": "hunter2", "name": "a\nb"}))
    assert json.loads(line)["name"] == "a\nb"
    assert json.loads(line)["learning_rate"] == 0.1
    assert "hunter2" not in line
    assert "\n" not in line


def test_a_field_of_another_type_is_the_packages_fault():
    @dataclass(frozen=True)
    class Strange:
        table: dict[str, int] = field(default_factory=dict)

    with pytest.raises(TypeError, match=r"field of type dict\[str, int\]"):
        resolve(Strange, {"table": "{}"})
