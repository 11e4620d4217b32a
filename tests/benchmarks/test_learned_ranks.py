"""The relaxation behind the experiment with learned ranks: it is the network at its ends, and its
gradient leads where energies do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reproduce.gates import HOW, Cut, decomposed, first, learn, separate, thresholds
from worker.aware.roots import root_of
from worker.aware.weighting import Weighting

WIDTHS = (12, 20, 16)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)
    ).requires_grad_(requires_grad=False)


def cut_of(model: nn.Sequential, mean: float = 0.0) -> Cut:
    linears = [module for module in model if isinstance(module, nn.Linear)]
    layers = [
        decomposed(x, Weighting(), torch.full((x.in_features,), mean), relative=True)
        for x in linears[:-1]
    ]
    return Cut(layers=tuple(layers), head=linears[-1])


def ones(cut: Cut) -> list[Tensor]:
    return [torch.ones(len(layer.energies)) for layer in cut.layers]


def test_all_gates_open_are_the_dense_network() -> None:
    model, x = network(), torch.randn(50, 12)
    cut = cut_of(model, mean=0.3)
    torch.testing.assert_close(cut.answer(x, ones(cut)), model(x), rtol=1e-4, atol=1e-5)
    assert float(cut.cost(ones(cut))) == 12 * (12 + 20) + 16 * (20 + 16)


def test_a_closed_gate_loses_its_energy_under_the_weighting() -> None:
    """Weighted tail energy equals the mean squared weighted error of the centred inputs."""
    torch.manual_seed(1)
    x = torch.randn(500, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    sensitivity = torch.eye(20, dtype=torch.float64) * torch.linspace(0.5, 2, 20)
    rows, columns = root_of(sensitivity, ridge=0.0), root_of(covariance, ridge=0.0)
    linear = network()[0]
    assert isinstance(linear, nn.Linear)
    layer = decomposed(linear, Weighting(rows=rows, columns=columns), mean, relative=False)
    error = linear(x.float()) - layer.answer(x.float(), first(5, layer))
    lost = (error.double() @ rows.root).square().sum(dim=1).mean()
    assert float(lost) == pytest.approx(float(layer.energies[5:].sum()), rel=1e-4)
    # The mean of what was cut is in the bias.
    torch.testing.assert_close(error.mean(dim=0), torch.zeros(20), rtol=0, atol=1e-4)


def test_thresholds_harden_to_their_rank_and_have_its_gradient() -> None:
    cut = cut_of(network())
    ranks = (5, 7)
    values = [torch.tensor(float(k)).log().requires_grad_() for k in ranks]
    hard = thresholds(values, cut, 1e-3)
    for z, k, layer in zip(hard, ranks, cut.layers, strict=True):
        torch.testing.assert_close(z, first(k, layer))
    cut.cost(thresholds(values, cut, 0.3)).backward()
    for value, k, layer in zip(values, ranks, cut.layers, strict=True):
        assert value.grad is not None
        # d cost / d log r = r (m + n), but for the tails of the sigmoids.
        assert float(value.grad) == pytest.approx(k * layer.price, rel=0.05)


def test_separate_gates_harden_to_their_sign() -> None:
    values = [torch.tensor([-0.5, 0.2, 3.0])]
    (gates,) = separate(values, cut_of(network()), 1e-3)
    assert gates.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("how", HOW)
def test_learned_gates_are_whole_and_within_the_budget(how: str) -> None:
    model, x = network(), torch.randn(64, 12)
    cut = cut_of(model)
    gates = learn(cut, x, model(x), 400, how)
    assert float(cut.cost(gates)) <= 400
    assert all(set(z.tolist()) <= {0.0, 1.0} for z in gates)
    if how == "thresholds":
        assert all(z.tolist() == sorted(z.tolist(), reverse=True) for z in gates)


def test_gates_find_the_directions_that_matter_where_energies_mislead() -> None:
    """The strongest directions of the first layer end in units that nothing reads."""
    model = network()
    one, two = model[0], model[2]
    assert isinstance(one, nn.Linear)
    assert isinstance(two, nn.Linear)
    one.weight[:10] *= 20
    two.weight[:, :10] = 0
    cut, x = cut_of(model), torch.randn(300, 12)
    logits = model(x)
    budget = 7 * (12 + 20) + 8 * (20 + 16)

    def error(gates: list[Tensor]) -> float:
        return float((cut.answer(x, gates) - logits).square().mean())

    assert error(learn(cut, x, logits, budget, "gates")) < 0.9 * error(cut.by_lagrangian(budget))
