"""The smallest slice of `make bench`: that it runs, and the form of what comes out. No times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import layersets, machine, measure, peers, table
from benchmarks.__main__ import main
from benchmarks.factorising import ENGINE, FLOOR, compare
from benchmarks.jobs import Overhead, Throughput
from benchmarks.latency import Latency
from benchmarks.measure import Summary, Turn, geometric_mean, number, ratios, summary, take_turns
from benchmarks.transfers import Transfer, model_file


def one(x: float) -> Summary:
    return summary([x])


def test_the_smallest_slice_runs_and_keeps_a_table_and_a_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--smoke", "--only", "factorise", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (kept,) = tmp_path.glob("*.json")
    assert kept.with_suffix(".md").read_text() in printed
    found = json.loads(kept.read_text())
    (row,) = found["factorising"]
    assert row["ranks_equal"] == row["count"] == 3
    assert row["factorised"] >= 1
    assert set(row["seconds"]) == {ENGINE, FLOOR, "torch svd", "scipy gesdd", "sklearn randomised"}
    assert set(row["ratio"]) == {"torch svd", "scipy gesdd", "sklearn randomised"}
    assert found["machine"]["cores"] >= 1
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert lines[0] == "| what | measured | against | ratio |"
    assert len(lines) == 2 + 4
    assert all(line.count("|") == 5 for line in lines)


def test_ranks_of_peer_and_reference_agree() -> None:
    layers = layersets.tiny()
    matrices = layers.matrices
    assert peers.torch_svd(matrices, 0.9) == peers.exact_ranks(matrices, 0.9)
    assert peers.scipy_gesdd(matrices, 0.9) == peers.exact_ranks(matrices, 0.9)


def test_a_peer_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str, version: str) -> Path:
        raise layersets.NotHere(f"the package index has no {package} {version}")

    monkeypatch.setattr(peers, "fetch_wheel", missing)
    row = compare(layersets.tiny(), 0.5, rounds=1, against=("torch svd", "fasterai"))
    assert row.missing == {"fasterai": "the package index has no fasterai 0.4.1"}
    text = table.render(table.Results(machine=machine.describe(), factorising=[row]))
    assert "not run: the package index has no fasterai" in text


def test_a_set_that_is_not_there_is_said() -> None:
    def missing() -> layersets.LayerSet:
        raise layersets.NotHere("nobody has it")

    found, notes = layersets.available([layersets.tiny, missing])
    assert [layers.name for layers in found] == ["tiny"]
    assert notes == ["a layer set was not run: nobody has it"]


def test_tall_layers_are_those_of_aspect_four() -> None:
    tall = layersets.tiny().tall()
    assert set(tall.tensors) == {"b"}
    assert tall.is_part


def test_everyone_takes_turns_and_begins_in_turn() -> None:
    order: list[str] = []
    contenders = {name: lambda name=name: order.append(name) for name in "abc"}
    turns = take_turns(contenders, rounds=3, warm_up=False)
    assert "".join(order) == "abcbcacab"
    assert all(len(each) == 3 for each in turns.values())


def test_medians_and_quartiles() -> None:
    found = summary([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (found.low, found.median, found.high, found.count) == (2.0, 3.0, 4.0, 5)
    assert str(one(0.5)) == "0.500"
    with pytest.raises(ValueError, match="nothing"):
        summary([])


def test_ratios_are_taken_within_a_round() -> None:
    slow = [Turn(wall=2.0, processor=1.0), Turn(wall=40.0, processor=1.0)]
    fast = [Turn(wall=1.0, processor=1.0), Turn(wall=20.0, processor=1.0)]
    assert ratios(slow, fast).median == 2.0
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (0.00123, "0.00123"), (1.5, "1.50"), (123.4, "123"), (98765.0, "98765")],
)
def test_numbers_have_three_digits(x: float, text: str) -> None:
    assert number(x) == text


def test_every_kind_of_row_fits_the_table() -> None:
    row = compare(layersets.tiny(), 0.5, rounds=1, against=("torch svd",))
    results = table.Results(
        machine=machine.describe(),
        factorising=[row],
        transfers=[
            Transfer(
                direction="upload",
                reference="nginx",
                size_bytes=10**9,
                service_mb=one(300.0),
                reference_mb=one(400.0),
                share=one(0.75),
            )
        ],
        overheads=[
            Overhead(
                size_bytes=10**6,
                jobs=1,
                whole_seconds=one(1.0),
                compute_seconds=one(0.8),
                overhead_seconds=one(0.2),
                share_of_compute=one(0.25),
            )
        ],
        throughputs=[Throughput(workers=n, jobs=6, per_minute=50.0 * n) for n in (1, 2)],
        latencies=[
            Latency(
                model="MLP",
                rank_multiple=8,
                batch=64,
                parameters=0.25,
                dense_seconds=one(2e-3),
                compressed_seconds=one(1e-3),
                speedup=one(2.0),
            )
        ],
        notes=["GPU rows: not run"],
    )
    lines = table.render(results).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") == 5 for line in rows)
    assert len(rows) == 2 + 2 + 1 + 1 + 2 + 1
    assert lines[-1] == "- GPU rows: not run"


def test_a_model_file_is_about_as_large_as_asked(tmp_path: Path) -> None:
    size = model_file(tmp_path / "m.safetensors", 10**6).stat().st_size
    assert 0.9e6 <= size <= 1.1e6
    assert measure.number(size / 1e6)
