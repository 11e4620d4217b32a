"""collect_statistics against torch and numpy: each kind of layer, padding, Jacobians, no traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import rankpress
from rankpress.loading.gathering import NoStatistics
from rankpress.loading.moments import Moments
from rankpress.names import Sensitivity
from rankpress.schemas.statistics import METADATA_KEY, StatisticsInfo


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 5, bias=False),
        nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip


def batches(width: int = 6, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(7, width, generator=generator, dtype=torch.float64) + 2 for _ in range(count)
    ]


def collected(path: Path, model: nn.Module, given: Any, **options: Any) -> dict[str, torch.Tensor]:
    assert rankpress.collect_statistics(model, given, path / "s", **options) == path / "s"
    return load_file(path / "s")


def test_moments_do_not_depend_on_the_batches() -> None:
    rows = torch.randn(100, 4, dtype=torch.float64) * 0.1 + 1e4
    whole, pieces = Moments(), Moments()
    whole.add(rows)
    for piece in rows.split([1, 40, 0, 59]):
        pieces.add(piece)
    assert pieces.count == 100
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=1e-14, atol=0)
    expected = np.cov(rows.numpy().T, bias=True)
    for found in (whole, pieces):
        np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-7)


def test_inputs_of_linear_layers(tmp_path: Path) -> None:
    model, given = small(), batches()
    found = collected(tmp_path, model, given)
    x = torch.cat(given)
    hidden = torch.relu(model[0](x)).detach()
    for key, inputs in {"0.weight": x, "3.weight": hidden}.items():
        np.testing.assert_allclose(found[f"{key}/mean"], inputs.mean(dim=0), rtol=1e-12)
        expected = np.cov(inputs.numpy().T, bias=True)
        np.testing.assert_allclose(found[f"{key}/covariance"], expected, rtol=1e-10, atol=1e-12)
    assert not any(key.endswith("sensitivity") for key in found)
    with safe_open(tmp_path / "s", framework="pt") as file:
        info = StatisticsInfo.model_validate_json(file.metadata()[METADATA_KEY])
    assert (info.samples, info.two_sided, info.vectors["0.weight"]) == (21, False, 21)


def test_exact_jacobian(tmp_path: Path) -> None:
    model, given = small(), batches()
    found = collected(tmp_path, model, given, two_sided=True)
    model.eval()
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for x in torch.cat(given):
        J = torch.autograd.functional.jacobian(lambda y: model[1:](y.clone()), model[0](x).detach())
        expected += J.T @ J / 21
    torch.testing.assert_close(found["0.weight/sensitivity"], expected)
    # The last layer's output is the model's: its Jacobian is the identity.
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found["5.weight/sensitivity"], identity)


@pytest.mark.parametrize("outputs", [3, 70])
def test_sensitivity_of_the_softmax(outputs: int, tmp_path: Path) -> None:
    """The Hessian of KL(softmax(z / 2) || softmax(z' / 2)) by the layer's output, times 4."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    found = collected(
        tmp_path, model, batches(), two_sided=True, sensitivity="softmax", projections=400
    )
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for x in torch.cat(batches()):
        hidden = model[0](x).detach()
        p = (model[1:](hidden) / 2).softmax(dim=0).detach()

        def divergence(y: torch.Tensor, p: torch.Tensor = p) -> torch.Tensor:
            return torch.sum(p * (p.log() - (model[1:](y) / 2).log_softmax(dim=0)))

        expected += 4 * torch.autograd.functional.hessian(divergence, hidden) / 21
    error = torch.linalg.norm(found["0.weight/sensitivity"] - expected)
    assert error < (1e-12 if outputs == 3 else 0.1) * torch.linalg.norm(expected)
    with safe_open(tmp_path / "s", framework="pt") as file:
        info = StatisticsInfo.model_validate_json(file.metadata()[METADATA_KEY])
    assert (info.sensitivity, info.exact) == (Sensitivity.SOFTMAX, outputs == 3)


def test_an_error_of_all_logits_alike_counts_nothing(tmp_path: Path) -> None:
    found = collected(tmp_path, small(), batches(), two_sided=True, sensitivity="softmax")
    H = found["5.weight/sensitivity"]  # of the last layer, whose output the logits are
    torch.testing.assert_close(H @ torch.ones(3).double(), torch.zeros(3).double(), atol=1e-15,
                               rtol=0)  # fmt: skip
    assert float(H.trace()) > 0.1


def test_a_softmax_has_two_sides_and_a_known_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two_sided=True"):
        rankpress.collect_statistics(small(), batches(), tmp_path / "s", sensitivity="softmax")
    with pytest.raises(ValueError, match="'sigmoid' is not a valid Sensitivity"):
        collected(tmp_path, small(), batches(), two_sided=True, sensitivity="sigmoid")


def test_random_projections_estimate_the_jacobian(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 70)).double()
    found = collected(tmp_path, model, batches(), two_sided=True, projections=400)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for x in torch.cat(batches()):
        J = torch.autograd.functional.jacobian(model[1:], model[0](x).detach())
        expected += J.T @ J / 21
    error = torch.linalg.norm(found["0.weight/sensitivity"] - expected)
    assert error < 0.1 * torch.linalg.norm(expected)
    again = collected(tmp_path, model, batches(), two_sided=True, projections=400)
    assert torch.equal(found["0.weight/sensitivity"], again["0.weight/sensitivity"])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, (3, 2), stride=2, padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(3, 5, 3, padding="same", padding_mode="reflect"),
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
        nn.Conv1d(3, 5, 4, stride=3, padding=2),
    ],
    ids=str,
)
def test_patches_of_convolutions(layer: nn.Conv1d | nn.Conv2d, tmp_path: Path) -> None:
    """The weight times the patches' moments gives the moments of what the layer really answers."""
    layer = layer.double()
    shape = (4, 3, 9, 8) if isinstance(layer, nn.Conv2d) else (4, 3, 17)
    x = torch.randn(shape, dtype=torch.float64) + 1
    found = collected(tmp_path, nn.Sequential(layer), [x], two_sided=True,
                      output=lambda y: y.flatten(2).mean(2))  # fmt: skip
    answers = layer(x).detach().movedim(1, -1).reshape(-1, 5)
    weight = layer.weight.detach().reshape(5, -1)
    assert layer.bias is not None
    mean = weight @ found["0.weight/mean"] + layer.bias.detach()
    torch.testing.assert_close(mean, answers.mean(dim=0))
    spread = weight @ found["0.weight/covariance"] @ weight.T
    np.testing.assert_allclose(spread, np.cov(answers.numpy().T, bias=True), rtol=1e-9, atol=1e-12)
    # Each of P positions counts 1 / P for its own channel: summed over a sample's positions, 1 / P.
    positions = answers.shape[0] / 4
    torch.testing.assert_close(
        found["0.weight/sensitivity"], torch.eye(5, dtype=torch.float64) / positions
    )


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 4, padding_idx=0)
        self.body = nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        return {"logits": (self.body(self.words(input_ids)) * attention_mask[..., None]).sum(1)}


def test_embeddings_and_padding(tmp_path: Path) -> None:
    model = Embedder().double()
    ids = torch.tensor([[1, 2, 2], [5, 4, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": mask}
    found = collected(tmp_path, model, [batch], two_sided=True)
    # The token 4 is padding by the mask, the token 0 by the layer.
    expected = torch.tensor([0, 1, 2, 0, 0, 1], dtype=torch.float64) / 4
    torch.testing.assert_close(found["words.weight/frequencies"], expected)
    vectors = model.words(torch.tensor([1, 2, 2, 5])).detach()
    torch.testing.assert_close(found["body.weight/mean"], vectors.mean(dim=0))
    W = model.body.weight.detach()
    torch.testing.assert_close(found["words.weight/sensitivity"], W.T @ W * 4 / 2)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = small().train()
    model[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    collected(tmp_path, model, batches(), two_sided=True)
    assert model.training
    assert model[2].training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_which_layers(tmp_path: Path) -> None:
    found = collected(tmp_path, small(), batches(), layers=["3.*"])
    assert set(found) == {"3.weight/mean", "3.weight/covariance"}


@pytest.mark.parametrize(
    ("model", "given", "options", "says"),
    [
        (nn.ReLU(), [torch.ones(2, 3)], {}, "no linear layer"),
        (small(), [], {}, "no samples"),
        (small(), batches(), {"layers": ["x"]}, "no linear layer"),
        (small(), [torch.full((2, 6), float("inf"), dtype=torch.float64)], {}, "not finite"),
        (nn.Linear(2, 2), [torch.ones(2, 2)], {"two_sided": True, "output": torch.ones_like},
         "does not depend"),
        (nn.Linear(2, 1), [torch.ones(2, 2)], {"two_sided": True, "sensitivity": "softmax"},
         "two classes"),
    ],
)  # fmt: skip
def test_what_gives_none(
    model: nn.Module, given: Any, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(NoStatistics, match=says):
        rankpress.collect_statistics(model, given, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()
