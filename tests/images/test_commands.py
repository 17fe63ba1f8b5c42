"""The words after `docker run IMAGE`, and what an image does without one."""

import pytest

pytestmark = pytest.mark.docker


@pytest.fixture(params=["train", "serve"])
def image(request):
    return request.getfixturevalue(f"{request.param}_image")


def test_a_program_of_the_image_runs_instead(containers, image):
    ended = containers.run(image, ["bash", "-c", "echo $0 is here; exit 7"])

    assert (ended.exit_code, ended.stdout) == (7, "bash is here\n")


@pytest.mark.parametrize("python", ["python", "python3"])
def test_both_names_of_python_are_the_one_with_torch(containers, image, python, engine):
    ended = containers.run(
        image, [python, "-c", "import torch; print(torch.version.cuda)"], network_mode="none"
    )

    assert ended.stdout.strip() == engine.images.get(image).labels["cuda.version"], ended.stderr


def test_an_unknown_word_is_refused_with_what_is_accepted(containers, image):
    ended = containers.run(image, "trian")

    assert ended.exit_code == 2
    assert "trian" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_other_image_s_word_is_refused(containers, train_image, serve_image):
    assert containers.run(train_image, "serve").exit_code == 2
    assert containers.run(serve_image, "train").exit_code == 2


@pytest.mark.parametrize("entrypoint", ["/opt/program/train", "train"])
def test_an_entrypoint_of_the_caller_s_without_a_word_trains(containers, train_image, entrypoint):
    """AlgorithmSpecification.ContainerEntrypoint without ContainerArguments: nothing follows it."""
    ended = containers.run(train_image, entrypoint=[entrypoint], tmpfs={"/opt/ml": ""})

    assert_it_tried_to_train(ended)


def test_the_train_image_trains_without_a_word(containers, train_image):
    assert_it_tried_to_train(containers.run(train_image, tmpfs={"/opt/ml": ""}))


def test_the_serve_image_serves_without_a_word(containers, serve_image, model_mount):
    containers.server(serve_image, None, volumes=model_mount)


def assert_it_tried_to_train(ended):
    """There was nothing to train on, which it says."""
    assert ended.exit_code == 1
    assert "channel" in ended.stderr.splitlines()[-1]
