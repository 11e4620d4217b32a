"""The sections of docs/results.md beside the tables of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
SEEDS = (0, 1)
ANCHOR = """
## MNIST: the public anchor, a CNN (conv32-conv64-fc128-fc10)

`entropy`, tau = 0.9, on the 3136 x 128 layer alone. Published: rank 102, 421,642 -> 353,162
parameters, accuracy 99.04 -> 99.03 %.

| seed | rank | parameters | accuracy |
|---|---|---|---|
"""
LEARNED = """
## Learned ranks, an experiment

`python -m benchmarks.reproduce.learned`: gates over each layer's singular directions, trained by
gradient to keep the dense network's logits on the calibration images (no labels), under a penalty
on the parameters, then made whole within the budget. Learned is one threshold for each layer, or
every gate by itself; both start from the Lagrangian's ranks and use the same directions, images and
parameters. In brackets: learned less Lagrangian on the test images, paired 95 % interval in points.

| network | share | directions | Lagrangian (`budget`) | learned thresholds | learned gates |
|---|---|---|---|---|---|
"""
MINILM = """
## A sentence encoder: all-MiniLM-L6-v2 at 80 % of its block weights

`python -m benchmarks.reproduce.minilm`: the cosine between the dense model's embedding and the
compressed one's, on 200 texts that played no part. Statistics by `rankpress.collect_statistics` on
200 other texts. It is not lossless: neighbours move, and a search index has to be made anew.

| rule | block weights kept | mean cosine | lowest |
|---|---|---|---|
"""
PROMISE = """
## The rule auto, a hundred times

`python -m benchmarks.reproduce.promise`: 5,000 of 20,000 images drawn anew for each search
(`two_sided`, `max_drop` half a point of accuracy); kept means that the model found loses no more
than that on the other 15,000.

| network | sensitivity | kept, of 100 | found a smaller model | largest loss on images not seen \
| median share of the weights |
|---|---|---|---|---|---|
"""


def sections(found: dict[str, Any]) -> str:
    """Markdown, of what is there."""
    text = _section(ANCHOR, _anchor, found, "anchor")
    text += _section(LEARNED, _learned, found, "learned")
    if learned := _under(found, "learned"):
        text += _summed([row for value in learned.values() for row in value["rows"]])
    if "minilm" in found:
        text += MINILM + "".join(map(_minilm, found["minilm"]))
    return text + _section(PROMISE, _searches, found, "promise")


def missing_sections(found: dict[str, Any]) -> list[str]:
    """In words, what could have been run for `sections` and was not."""
    missing = [
        f"The CNN anchor, seed {seed}" for seed in SEEDS if f"anchor/mnist/{seed}" not in found
    ]
    missing += [
        f"Learned ranks, {title}, seed {seed}"
        for name, title in TITLES.items()
        for seed in SEEDS
        if f"learned/{name}/{seed}" not in found
    ]
    missing += ["The sentence encoder"] * ("minilm" not in found)
    return missing + ["A hundred searches of `auto`"] * (not _under(found, "promise"))


def _under(found: dict[str, Any], first: str) -> dict[str, Any]:
    return {key: value for key, value in sorted(found.items()) if key.startswith(f"{first}/")}


def _section(head: str, row: Callable[[str, Any], str], found: dict[str, Any], first: str) -> str:
    rows = [row(key, value) for key, value in _under(found, first).items()]
    return head + "".join(rows) if rows else ""


def _anchor(key: str, row: dict[str, Any]) -> str:
    before, after = row["accuracy"]
    return (
        f"| {key.rpartition('/')[2]} | {row['rank']} | {row['parameters_before']:,} -> "
        f"{row['parameters_after']:,} | {before:.2%} -> {after:.2%} |\n"
    )


def _learned(key: str, value: dict[str, Any]) -> str:
    _, name, seed = key.split("/")
    return "".join(
        f"| {TITLES[name]}, seed {seed} | {row['share']:.0%} | {row['directions']} | "
        f"{row['lagrangian']:.2%} | {_against(row['thresholds'])} | {_against(row['gates'])} |\n"
        for row in value["rows"]
    )


def _against(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['accuracy']:.2%} ({100 * low:+.2f} to {100 * high:+.2f})"


def _summed(rows: list[dict[str, Any]]) -> str:
    """Who won, by kind of direction: a win or loss is an interval without zero."""
    text = "\n"
    for directions in dict.fromkeys(row["directions"] for row in rows):
        there = [row for row in rows if row["directions"] == directions]
        for how in ("thresholds", "gates"):
            better = sum(row[how]["interval"][0] > 0 for row in there)
            worse = sum(row[how]["interval"][1] < 0 for row in there)
            mean = sum(row[how]["accuracy"] - row["lagrangian"] for row in there) / len(there)
            text += (
                f"- {directions}, learned {how}: surely better in {better} of {len(there)}, surely "
                f"worse in {worse}; {100 * mean:+.2f} points on average.\n"
            )
    return text


def _minilm(row: dict[str, Any]) -> str:
    tau = f", tau = {row['threshold']:g}" if row["threshold"] else ""
    return (
        f"| {row['rule']}{tau} | {row['block_share']:.1%} | {row['cosine']:.3f} | "
        f"{row['lowest']:.3f} |\n"
    )


def _searches(key: str, row: dict[str, Any]) -> str:
    _, name, seed, sensitivity = key.split("/")
    return (
        f"| {TITLES[name]}, seed {seed} | {sensitivity} | {row['kept']} | {row['found']} | "
        f"{100 * row['largest_drop']:.2f} points | {row['median_share']:.2%} |\n"
    )
