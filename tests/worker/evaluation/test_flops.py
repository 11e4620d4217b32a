"""Operations counted by torch, by the graph's shapes, and by hand agree."""

import pytest
import torch
from torch import nn

import rankpress
from tests.worker.evaluation.evaluation_helpers import request, run, write_npz
from tests.worker.evaluation.test_template import Cnn, Recurrent


def test_a_chain_is_counted_by_its_widths(tmp_path):
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 7))
    data = write_npz(
        tmp_path / "v.npz", inputs=torch.randn(9, 20), targets=torch.zeros(9, dtype=torch.int64)
    )
    report, _, _ = run(request(), model.state_dict(), {"0.weight": 4}, data)
    assert report.flops_per_sample_dense == 2 * (20 * 30 + 30 * 7)
    assert report.flops_per_sample_compressed == 2 * (4 * (20 + 30) + 30 * 7)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_graph_counts_as_torch_does(tmp_path, fixed):
    from torch.utils.flop_counter import FlopCounterMode

    model = Cnn().eval()
    inputs = torch.randn(8, 1, 10, 9)
    rankpress.export_template(model, inputs, tmp_path / "t", dynamic_batch=not fixed)
    data = write_npz(tmp_path / "v.npz", inputs=inputs, targets=torch.zeros(8, dtype=torch.int64))
    asked = request(architecture={"kind": "template", "template": "t"})
    ranks = {"body.weight": 3, "head.weight": 2}
    report, _, _ = run(asked, model.state_dict(), ranks, data, tmp_path / "t")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs[:1])
    dense = counter.get_total_flops()
    assert report.flops_per_sample_dense == dense
    positions = 5 * 9  # of the body's output
    kernel = 8 * 3 * 5
    saved = 2 * positions * (12 * kernel - 3 * (kernel + 12)) + 2 * (12 * 6 - 2 * (12 + 6))
    assert report.flops_per_sample_compressed == dense - saved


def test_a_recurrent_graph(tmp_path):
    model = Recurrent().eval()
    ids = torch.randint(0, 40, (6, 7))
    rankpress.export_template(model, {"input_ids": ids[:2]}, tmp_path / "t")
    data = write_npz(tmp_path / "v.npz", input_ids=ids, targets=torch.zeros(6, dtype=torch.int64))
    asked = request(architecture={"kind": "template", "template": "t"})
    report, _, _ = run(asked, model.state_dict(), {}, data, tmp_path / "t")
    assert report.flops_per_sample_dense == 2 * (7 * 4 * 18 * (14 + 18) + 18 * 6)
