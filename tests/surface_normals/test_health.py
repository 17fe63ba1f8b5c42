"""Each rule of training health: a series that breaks it and one that does not."""

import dataclasses

import pytest
import torch
from torch import nn

from surface_normals.training.activations import ActivationWatch
from surface_normals.training.config import Config
from surface_normals.training.gradients import GradientNorms
from surface_normals.training.health import examine

FALLING = [50.0, 44.0, 38.0, 33.0, 29.0, 26.0, 24.0, 22.0, 20.0, 19.0, 18.0, 17.5]


def numbered(values, every=10):
    return [((index + 1) * every, value) for index, value in enumerate(values)]


def found(complete=False, config=Config(), dead=None, best_constant=None, **series):  # noqa: B008 - frozen
    series = {name: numbered(values) for name, values in series.items()}
    findings = examine(series, config, dead or {}, best_constant, complete=complete)
    assert all(finding.evidence and finding.advice for finding in findings)
    return {finding.name: finding for finding in findings}


def test_a_good_run_is_left_in_peace():
    assert not found(
        complete=True,
        best_constant=40.0,
        train_mean_angular_error=FALLING,
        val_mean_angular_error=[30.0, 25.0, 22.0, 21.9],
        gradient_norm=[3.0, 2.0, 5.0, 1.0] * 3,
        gradient_norm_encoder=[0.3] * 12,
        gradient_norm_decoder=[1.0] * 12,
        gradient_norm_head=[2.0] * 12,
        data_wait_percent=[2.0] * 12,
    )
    assert not found(complete=True), "a run without a number has no finding"


def test_a_loss_that_does_not_fall():
    assert "loss_not_falling" in found(train_mean_angular_error=[48.0, 49.0, 47.0] * 4)
    assert not found(train_mean_angular_error=[48.0] * 7), "too early to say"


def test_overfitting_is_worse_validation_at_better_training():
    worse = [30.0, 24.0, 26.0, 28.0]
    finding = found(val_mean_angular_error=worse, train_mean_angular_error=FALLING)["overfitting"]
    assert "step 20 (24.0 degrees)" in finding.evidence
    assert not found(val_mean_angular_error=[30.0, 24.0, 26.0], train_mean_angular_error=FALLING)
    rising = [20.0, 19.0, *[25.0] * 3]
    assert "overfitting" not in found(val_mean_angular_error=worse, train_mean_angular_error=rising)


def test_vanishing_gradients_name_the_part():
    norms = {"gradient_norm_decoder": [1.0] * 10, "gradient_norm_head": [2.0] * 10}
    finding = found(gradient_norm_encoder=[1e-6] * 10, **norms)["vanishing_gradients"]
    assert "encoder" in finding.evidence
    assert not found(gradient_norm_encoder=[1e-2] * 10, **norms)


def test_exploding_gradients_name_the_step():
    finding = found(gradient_norm=[2.0] * 8 + [900.0, 2.0])["exploding_gradients"]
    assert "step 90" in finding.evidence
    assert "exploding_gradients" in found(gradient_norm=[0.0] * 8 + [2.0]), "most steps were left out"
    assert not found(gradient_norm=[0.01] * 8 + [0.5, 0.01]), "below what is clipped it does no harm"


def test_dead_activations():
    finding = found(dead={"encoder.levels.0.0.2": 0.75, "smooth.0.2": 0.25})["dead_activations"]
    assert "encoder.levels.0.0.2 75 %" in finding.evidence
    assert not found(dead={"smooth.0.2": 0.25})


def test_steps_that_wait_for_pictures():
    assert "data_starved" in found(data_wait_percent=[90.0, *[35.0] * 8])
    assert not found(data_wait_percent=[90.0, *[3.0] * 8]), "the first batch always takes its time"


def test_a_loss_scale_below_one():
    assert "at step 30" in found(loss_scale=[65536.0, 2.0, 0.5])["loss_scale_sunken"].evidence
    assert not found(loss_scale=[65536.0, 0.5, 1.0]), "it has risen again"


@pytest.mark.parametrize("rate", [1e-7, 1.0])
def test_a_rate_at_the_end_of_its_range(rate):
    assert "learning_rate_at_its_bound" in found(config=dataclasses.replace(Config(), learning_rate=rate))


def test_an_end_that_came_too_early():
    still_falling = [40.0, 30.0, 25.0]
    assert "ended_too_early" in found(complete=True, val_mean_angular_error=still_falling)
    assert not found(val_mean_angular_error=still_falling), "it has not ended"


def test_a_model_no_better_than_not_looking():
    errors = [41.0, 40.0, 40.0]
    assert "no_better_than_a_constant" in found(
        complete=True, best_constant=40.5, val_mean_angular_error=errors
    )
    assert not found(complete=True, best_constant=60.0, val_mean_angular_error=errors)


class Small(nn.Module):
    """Three parts, and a gate of which two of four channels never open."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 1)
        self.gate = nn.ReLU(inplace=True)
        self.lateral = nn.Conv2d(4, 2, 1, bias=False)
        self.head = nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            self.encoder.weight.fill_(1.0)
            self.encoder.bias.copy_(torch.tensor([1.0, 1.0, -100.0, -100.0]))

    def forward(self, x):
        return self.head(self.lateral(self.gate(self.encoder(x))))


def test_channels_that_never_open_are_counted_only_while_watched():
    network, picture = Small(), torch.rand(1, 3, 8, 8)
    watch = ActivationWatch(network)
    network(picture)
    assert watch.dead_shares() == {}
    with watch:
        network(picture)
    network(picture + 100)
    assert watch.dead_shares() == {"gate": 0.5}
    with watch:
        network(picture + 100)  # in this picture all of them open
    assert watch.dead_shares() == {}


def test_gradient_norms_by_part_are_those_of_all_together():
    network = Small()
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    norms = GradientNorms(network)
    norms.add(step=0)
    total = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()]).item()
    head = network.head.weight.grad.norm().item()
    network.head.weight.grad.mul_(1000)
    norms.add(step=1)  # between two samples
    parts = norms.take()
    assert sum(norm**2 for norm in parts.values()) ** 0.5 == pytest.approx(total)
    assert parts["head"] == pytest.approx(head)
    assert norms.take() == {}, "each norm is told once"
