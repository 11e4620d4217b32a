"""Side-by-side runs on one machine in one go: `make bench`, or `python -m benchmarks`.

Contenders take turns, round by round, and every ratio is taken within a round: what else the
machine does then hits both. One table, one JSON in `benchmarks/results/`.
"""
