"""How the table of results is kept, chosen and written. Nothing is trained here."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.reproduce import measured, table
from benchmarks.reproduce.data import ROOT
from benchmarks.reproduce.models import NETWORKS, SHAPES
from benchmarks.reproduce.rules import AUTO, CANDIDATES, STEP, surely_within
from benchmarks.reproduce.running import fields_of, setting_of
from rankpress.names import Rule
from rankpress.schemas.report import FrontierPoint, Interval, Metric


def point(index: int, parameters: int, low: float) -> FrontierPoint:
    interval = Interval(low=low, high=0.001, level=0.95, method="newcombe_paired")
    accuracy = Metric(
        name="accuracy",
        dense=0.9,
        compressed=0.9,
        difference=0.0,
        interval=interval,
        higher_is_better=True,
    )
    return FrontierPoint(
        index=index,
        rule=Rule.BUDGET,
        ranks={},
        parameters_after=parameters,
        bytes_after=parameters * 4,
        output_sha256="0" * 64,
        metrics=(accuracy,),
    )


def test_the_search_ends_at_the_first_model_that_is_not_surely_within() -> None:
    points = (point(2, 40, -0.004), point(0, 90, -0.001), point(1, 60, -0.006))
    assert surely_within(points) == [0]
    assert surely_within(points[:2]) == [0, 2]
    assert surely_within(points[2:]) == []


def test_settings_fall_so_that_parts_of_them_can_be_tried_in_turn() -> None:
    for candidate in CANDIDATES:
        sizes = [next(iter(x.values())) if isinstance(x, dict) else x for x in candidate.settings]
        assert sizes == sorted(set(sizes), reverse=True)
        parts = candidate.parts(6)
        assert sum((part.settings for part in parts), ()) == candidate.settings
        if candidate.setting == "budget":
            steps = [small / large for large, small in pairwise(sizes)]
            assert steps == pytest.approx([STEP] * len(steps), rel=5e-3)


def test_a_row_says_which_request_it_is_of() -> None:
    for candidate in CANDIDATES:
        for i in range(len(candidate.settings) or 1):
            fields = candidate.at(i)
            row = {"rule": candidate.name, "setting": setting_of(fields, candidate.setting)}
            assert fields_of(row) == fields
    share = fields_of({"rule": AUTO, "share": 0.25})["budget"]["parameters"]
    assert share == pytest.approx(0.25, abs=1e-8)
    with pytest.raises(RuntimeError, match="no setting"):
        fields_of({"rule": "budget", "setting": "0.3 of the parameters"})


def test_rows_of_other_rules_stay_while_the_setup_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    measured.kept_rows("net", [{"rule": "a", "x": 1}, {"rule": "b", "x": 1}], {"net": "1"}, path)
    measured.kept_rows("net", [{"rule": "a", "x": 2}], {"net": "1"}, path)
    rows = measured.found(path)["net"]["rows"]
    assert sorted((row["rule"], row["x"]) for row in rows) == [("a", 2), ("b", 1)]
    assert measured.rows_of("net", {"net": "1"}, path) == rows
    assert measured.rows_of("net", {"net": "2"}, path) == []
    measured.kept("other", [1], path)
    measured.kept_rows("net", [{"rule": "b", "x": 3}], {"net": "2"}, path)
    found = measured.found(path)
    assert found["net"] == {"setup": {"net": "2"}, "rows": [{"rule": "b", "x": 3}]}
    assert found["other"] == [1]


def test_the_page_is_the_one_that_the_program_writes() -> None:
    assert (ROOT / "docs" / "results.md").read_text() == table.page(measured.found())


def test_what_was_not_run_is_said() -> None:
    page = table.page({})
    assert "- MNIST, seed 0: every rule." in page
    assert "- The CNN anchor, seed 0: not run." in page


def test_every_section_has_its_rows() -> None:
    tested = {
        "parameters_before": 1000,
        "parameters_after": 80,
        "share": 0.08,
        "bytes_before": 4000,
        "bytes_after": 320,
        "accuracy": [0.9, 0.897],
        "interval": [-0.005, -0.001],
        "macro_f1": [0.9, 0.89],
        "load": 0.5,
        "latency": [
            {"batch": 1, "dense": 2e-3, "compressed": 1e-3},
            {"batch": 256, "dense": 3e-3, "compressed": 1e-3},
        ],
    }
    ours = {"rule": "two_sided + budget", "chosen": True, "setting": "x", **tested}
    paper = {"rule": "entropy, output dense", "chosen": True, "setting": "y", **tested}
    by_gates = {"accuracy": 0.88, "interval": [0.001, 0.004]}
    by_thresholds = {"accuracy": 0.86, "interval": [-0.002, 0.001]}
    learned = {"directions": "plain SVD", "share": 0.08, "lagrangian": 0.87}
    anchor = {"rank": 102, "parameters_before": 10, "parameters_after": 8, "accuracy": [0.99, 0.98]}
    search = {"kept": 99, "found": 100, "largest_drop": 0.0056, "median_share": 0.0467}
    page = table.page(
        {
            "fashion_mnist/mlp/0": {
                "rows": [ours | {"promised": tested}, paper | {"share": 0.2, "load": 3.0}]
            },
            "fashion_mnist/resnet/1": {"rows": [{"rule": "budget", "chosen": False}, ours]},
            "anchor/mnist/1": anchor,
            "learned/mnist/0": {
                "rows": [learned | {"gates": by_gates, "thresholds": by_thresholds}]
            },
            "promise/mnist/0/softmax": search,
        }
    )
    for line in (
        "| Fashion-MNIST, seed 0 | two_sided + budget | 8% | 8.00% | 90.00% | 89.70% | "
        "-0.30 points | yes |",
        "| Fashion-MNIST, seed 0 | two_sided + budget | 8.00% | 8% | 20.00% | 0.40 | 0.50 | "
        "-0.30 points |",
        "| two_sided + budget | x | 80 | 8.00% | 320 | 89.70% | -0.30 points (-0.50 to -0.10) | "
        "89.00% | 2.00 x | 3.00 x |",
        "| busy | busy |",
        "## Fashion-MNIST: ResNet of six basic blocks, 0.2 M weights, seed 1",
        "| budget | none tried is surely within | | | | | | | | |",
        "| 1 | 102 | 10 -> 8 | 99.00% -> 98.00% |",
        "| MNIST, seed 0 | 8% | plain SVD | 87.00% | 86.00% (-0.20 to +0.10) | "
        "88.00% (+0.10 to +0.40) |",
        "- plain SVD, learned gates: surely better in 1 of 1, surely worse in 0; "
        "+1.00 points on average.",
        "| MNIST, seed 0 | softmax | 99 | 100 | 0.56 points | 4.67% |",
        "- Fashion-MNIST, ResNet of six basic blocks, seed 0: every rule.",
        "- The CNN anchor, seed 0: not run.",
    ):
        assert line in page
    assert "The CNN anchor, seed 1" not in page


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_answer_ten_logits(kind: str) -> None:
    images = torch.rand(2, 784).reshape(SHAPES[kind])
    assert NETWORKS[kind]().eval()(images).shape == (2, 10)
