import math

import pytest
import torch
import torch.nn.functional as F

from surface_normals.training.losses import angle_between, normal_loss


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def turned(degrees):
    """(1, 3, 1, 1) vectors: the axis z, and z turned by an angle."""
    angle = math.radians(degrees)
    a = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    b = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).view(1, 3, 1, 1)
    return a, b


@pytest.mark.parametrize("degrees", [0.01, 1, 30, 90, 150, 179.9])
def test_a_known_rotation_is_its_angle(degrees):
    assert math.degrees(angle_between(*turned(degrees)).item()) == pytest.approx(degrees, abs=2e-4)


@pytest.mark.parametrize("degrees", [0, 180])
def test_the_gradient_is_finite_where_acos_has_none(degrees):
    a, b = turned(degrees)
    a.requires_grad_(True)
    angle_between(a, b).sum().backward()
    assert torch.isfinite(a.grad).all()


LOSSES = {
    "angmf": lambda angle, k: -math.log(k**2 + 1) + k * angle + math.log(1 + math.exp(-k * math.pi)),
    "angular": lambda angle, k: angle,
    "cosine": lambda angle, k: 1 - math.cos(angle),
}
ONE_PIXEL = torch.ones(1, 1, 1, dtype=torch.bool)


@pytest.mark.parametrize("degrees", [0.5, 25, 90, 170])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_follows_its_formula(name, degrees):
    a, b = turned(degrees)
    loss, angle = normal_loss(name, a, torch.full((1, 1, 1, 1), 3.0), b, ONE_PIXEL)
    assert loss.item() == pytest.approx(LOSSES[name](math.radians(degrees), 3.0), abs=1e-5)
    assert math.degrees(angle.item()) == pytest.approx(degrees, abs=1e-3)


@pytest.mark.parametrize("degrees", [0, 25, 180])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_finite_gradients_where_acos_has_none(name, degrees):
    a, b = turned(degrees)
    k = torch.full((1, 1, 1, 1), 3.0, requires_grad=True)
    a.requires_grad_(True)
    normal_loss(name, a, k, b, ONE_PIXEL)[0].backward()
    assert torch.isfinite(a.grad).all()
    # The expected error is trained by every loss, and by the same density.
    angle = math.radians(degrees)
    slope = -2 * 3 / (3**2 + 1) + angle - math.pi / (1 + math.exp(3 * math.pi))
    assert k.grad.item() == pytest.approx(slope, abs=1e-5)


def test_the_concentration_does_not_steer_the_normals_of_a_plain_loss():
    for name, steers in (("angmf", True), ("angular", False), ("cosine", False)):
        gradients = []
        for k in (0.5, 8.0):
            a, b = turned(25)
            a.requires_grad_(True)
            normal_loss(name, a, torch.full((1, 1, 1, 1), k), b, ONE_PIXEL)[0].backward()
            gradients.append(a.grad)
        assert torch.equal(*gradients) is not steers, name


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_without_truth_have_no_influence(name):
    normals, truth = unit(2, 3, 4, 5), unit(2, 3, 4, 5, seed=1)
    concentration = torch.rand(2, 1, 4, 5) + 0.1
    valid = torch.rand(2, 4, 5) > 0.5
    results = []
    for junk in (torch.zeros(3), torch.tensor([5.0, -3.0, 1.0])):
        leaf = normals.clone().requires_grad_(True)
        changed = torch.where(valid[:, None], truth, junk.view(1, 3, 1, 1))
        loss, angle = normal_loss(name, leaf, concentration, changed, valid)
        loss.backward()
        results.append((loss.item(), angle.item(), leaf.grad))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])
    assert (results[0][2].abs().sum(dim=1)[~valid] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_truth_is_no_division_by_zero(name):
    normals = unit(1, 3, 4, 4).requires_grad_(True)
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    loss, angle = normal_loss(name, normals, torch.ones(1, 1, 4, 4), torch.zeros(1, 3, 4, 4), nothing)
    loss.backward()
    assert (loss.item(), angle.item()) == (0, 0)
    assert torch.isfinite(normals.grad).all()


def test_half_precision_inputs_are_measured_in_full():
    a, b = turned(3)
    exact = angle_between(a.bfloat16(), b.bfloat16())
    assert exact.dtype == torch.float32
