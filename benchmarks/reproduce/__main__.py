"""Trains, compresses and measures; writes docs/results.md.

python -m benchmarks.reproduce                       # everything
python -m benchmarks.reproduce --data mnist --seeds 0 --parts mlp --rules budget auto
python -m benchmarks.reproduce --page                # the page alone, of what was measured
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from benchmarks.reproduce import anchor, running, table
from benchmarks.reproduce.data import NAMES, ROOT, load
from benchmarks.reproduce.measured import found, kept
from benchmarks.reproduce.models import IMAGE_NETWORKS
from benchmarks.reproduce.rules import NAMES as RULES
from benchmarks.reproduce.service import Compressor, service
from benchmarks.reproduce.subjects import subject
from rankpress.client import Client

PARTS = ("mlp", "anchor", *IMAGE_NETWORKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rules", nargs="+", help="parts of rules' names; others are not run")
    parser.add_argument("--busy", action="store_true", help="take no latencies: others work here")
    parser.add_argument("--missing", action="store_true", help="only rules that have no row yet")
    parser.add_argument("--retime", action="store_true", help="only latencies that are not there")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    if not options.page:
        wanted = options.rules or ("",)
        # In the order asked for.
        rules = list(dict.fromkeys(rule for part in wanted for rule in RULES if part in rule))
        with service() as url, Client(url) as client:
            _measure(Compressor(client), options, rules)
    options.out.write_text(table.page(found()))
    print(f"written: {options.out}")


def _measure(compressor: Compressor, options: argparse.Namespace, rules: list[str]) -> None:
    for name in options.data:
        data = load(name)
        for part, seed in itertools.product(options.parts, options.seeds):
            if part == "anchor":
                if name == "mnist" and not options.retime:
                    kept(f"anchor/mnist/{seed}", anchor.run(compressor, data, seed))
            elif part == "mlp" or name == "fashion_mnist":
                network = subject(compressor, data, part, seed)
                if options.retime:
                    running.retime(compressor, network)
                    continue
                running.run(
                    compressor,
                    network,
                    rules,
                    latency=not options.busy,
                    again=not options.missing,
                )


if __name__ == "__main__":
    main()
