"""docs/results.md out of what was measured. Nothing is filled in that was not run."""

from __future__ import annotations

from typing import Any

from benchmarks.reproduce.data import CALIBRATION, VALIDATION
from benchmarks.reproduce.rules import BOUND, NAMES
from benchmarks.reproduce.running import HELD, PROMISED, QUIET
from benchmarks.reproduce.sections import TITLES, missing_sections, sections

PAPER = "entropy, output dense"
NETWORKS = {
    "mlp": "MLP 784-1024-1024-512-10, 2.4 M weights",
    "vgg": "VGG-style net, five convolutions and two matrices, 0.2 M weights",
    "resnet": "ResNet of six basic blocks, 0.2 M weights",
}
ALL = [*((name, "mlp") for name in TITLES), *(("fashion_mnist", n) for n in ("vgg", "resnet"))]
HEAD = """# Results

Made by `make reproduce` (`python -m benchmarks.reproduce`), which trains the networks, compresses
them through the running service and writes this page; [the figures as JSON](results.json). Nothing
was trained after the factorisation. `aware` rules were calibrated on {calibration:,} training
images, whose labels were not read.

How a setting was chosen, for every rule alike: {validation:,} of the 60,000 training images were
held out and not trained on. Each rule's settings were scored there, about as finely spaced as on
the path of the rule `auto`, where a model is 8 % smaller than the one before. From the largest
model down, the last was taken before one whose loss was not surely within {bound:g} points of
accuracy, which means that its whole paired 95 % interval has to be within. In that fixed order the
chance that a chosen model breaks the bound is about 2.5 % at most, however fine the grid; the
margin is the width of the interval and nobody's guess. What is shown is the score of the model
taken on the 10,000 test images, which played no part in the choice.

Latency is how many times faster the median of a batch is; "busy" where other work ran on the
machine: a time taken then would be no evidence.
"""
TARGET = """
## What the method is held to

`two_sided` with `budget`, at a share fixed beforehand, on the test images; "softmax" where
`sensitivity` is that, and not the output itself.

| network | rule | share allowed | share of the file | accuracy, dense | compressed | difference | \
within half a point |
|---|---|---|---|---|---|---|---|
"""
CHOSEN = """
The same at the share chosen on validation images, beside what the protected paper rule needed.

| network | rule | chosen share | aim | paper's rule, output dense | of that | aim | \
difference on test |
|---|---|---|---|---|---|---|---|
"""
NETWORK = """
## {title}: {network}, seed {seed}

Dense: accuracy {accuracy:.2%}, macro F1 {f1:.2%}, {parameters:,} parameters, {size:,} bytes.

| rule | chosen setting | parameters | share | bytes | accuracy | difference, 95 % interval | \
macro F1 | latency, batch 1 | batch 256 |
|---|---|---|---|---|---|---|---|---|---|
"""


def page(found: dict[str, Any]) -> str:
    """Markdown."""
    text = HEAD.format(calibration=CALIBRATION, validation=VALIDATION, bound=100 * BOUND)
    networks = [(key, _by_rule(found[key])) for key in _keys() if key in found]
    held = [
        (key, rows, rule)
        for key, rows in networks
        for rule in HELD
        if "promised" in rows.get(rule, {})
    ]
    if held:
        text += TARGET + "".join(_promise(*one) for one in held)
        text += CHOSEN + "".join(_compared(*one) for one in held)
    text += "".join(_network(key, rows) for key, rows in networks)
    text += sections(found)
    return text + _not_run(found)


def _keys() -> list[str]:
    return [f"{name}/{network}/{seed}" for name, network in ALL for seed in (0, 1)]


def _by_rule(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows in the order of the rules."""
    rows = {row["rule"]: row for row in value["rows"]}
    return {rule: rows[rule] for rule in NAMES if rule in rows}


def _title(key: str) -> str:
    name, network, seed = key.split("/")
    middle = "" if network == "mlp" else f", {NETWORKS[network].split(',')[0]}"
    return f"{TITLES[name]}{middle}, seed {seed}"


def _promise(key: str, rows: dict[str, dict[str, Any]], rule: str) -> str:
    at = rows[rule]["promised"]
    dense, compressed = at["accuracy"]
    share = PROMISED[key.rpartition("/")[0]]
    return (
        f"| {_title(key)} | {rule} | {share:.0%} | {at['share']:.2%} | {dense:.2%} | "
        f"{compressed:.2%} | {100 * (compressed - dense):+.2f} points | "
        f"{'yes' if compressed - dense >= -BOUND else 'no'} |\n"
    )


def _compared(key: str, rows: dict[str, dict[str, Any]], rule: str) -> str:
    ours, paper = rows[rule], rows.get(PAPER, {"chosen": False})
    aim = PROMISED[key.rpartition("/")[0]]
    if not ours["chosen"]:
        return f"| {_title(key)} | {rule} | none | {aim:.0%} | | | 0.50 | |\n"
    dense, compressed = ours["accuracy"]
    theirs = f"{paper['share']:.2%}" if paper["chosen"] else "none"
    part = f"{ours['share'] / paper['share']:.2f}" if paper["chosen"] else ""
    return (
        f"| {_title(key)} | {rule} | {ours['share']:.2%} | {aim:.0%} | {theirs} | {part} | 0.50 | "
        f"{100 * (compressed - dense):+.2f} points |\n"
    )


def _network(key: str, rows: dict[str, dict[str, Any]]) -> str:
    name, network, seed = key.split("/")
    first = next((row for row in rows.values() if row["chosen"]), None)
    if first is None:
        return ""
    text = NETWORK.format(
        title=TITLES[name],
        network=NETWORKS[network],
        seed=seed,
        accuracy=first["accuracy"][0],
        f1=first["macro_f1"][0],
        parameters=first["parameters_before"],
        size=first["bytes_before"],
    )
    return text + "".join(map(_row, rows.values()))


def _row(row: dict[str, Any]) -> str:
    if not row["chosen"]:
        return f"| {row['rule']} | none tried is surely within | | | | | | | | |\n"
    (dense, compressed), interval = row["accuracy"], row["interval"]
    between = f"{100 * (compressed - dense):+.2f} points"
    if interval:
        between += f" ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})"
    quiet = row["latency"] if row["load"] <= QUIET else []
    times = [f"{t['dense'] / t['compressed']:.2f} x" for t in quiet] or ["busy", "busy"]
    return (
        f"| {row['rule']} | {row['setting']} | {row['parameters_after']:,} | {row['share']:.2%} | "
        f"{row['bytes_after']:,} | {compressed:.2%} | {between} | {row['macro_f1'][1]:.2%} | "
        f"{times[0]} | {times[1]} |\n"
    )


def _not_run(found: dict[str, Any]) -> str:
    """Says of everything that the script could have run and did not."""
    text = "\n## Not run\n\n"
    for key in _keys():
        there = _by_rule(found[key]) if key in found else {}
        missing = [rule for rule in NAMES if rule not in there]
        if missing:
            what = "every rule" if len(missing) == len(NAMES) else "; ".join(missing)
            text += f"- {_title(key)}: {what}.\n"
    text += "".join(f"- {what}: not run.\n" for what in missing_sections(found))
    return text + (
        "- CIFAR-10, CIFAR-100, ResNet18, VGG16 and InceptionV3: their data is not fetched, and "
        "training\n  them on two cores takes days. Nothing is claimed about them here.\n"
    )
