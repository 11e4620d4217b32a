"""All that was measured as one table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.factorising import ENGINE, PEERS, Row
from benchmarks.jobs import Overhead, Throughput
from benchmarks.latency import Latency
from benchmarks.machine import Machine
from benchmarks.measure import geometric_mean, number
from benchmarks.transfers import MB, Transfer

HEADER = ("what", "measured", "against", "ratio")


@dataclass(frozen=True, kw_only=True)
class Results:
    """`factorising` rows in the order that they ran; `notes` say what did not run, and why."""

    machine: Machine
    factorising: list[Row] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)
    throughputs: list[Throughput] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def render(results: Results) -> str:
    """The table, the machine above it, the notes below. Ratios above 1 speak for rankpress."""
    machine = results.machine
    load = " ".join(f"{x:.2f}" for x in machine.load)
    rows = [
        *(cells for row in results.factorising for cells in _factorising(row)),
        *_means(results.factorising),
        *(_transfer(t) for t in results.transfers),
        *(_overhead(o) for o in results.overheads),
        *(_throughput(t, results.throughputs[0]) for t in results.throughputs),
        *(_latency(each) for each in results.latencies),
    ]
    lines = [
        f"{machine.at}, {machine.processor}, {machine.cores} cores, {machine.device}; load average "
        f"{load} before; " + ", ".join(f"{k} {v}" for k, v in machine.versions.items()),
        "",
        _line(HEADER),
        _line(["---"] * len(HEADER)),
        *(_line(cells) for cells in rows),
        "",
        "Medians, quartiles in brackets; each ratio within a round of turns.",
        *(f"- {note}" for note in results.notes),
    ]
    return "\n".join(lines) + "\n"


def _factorising(row: Row) -> list[tuple[str, ...]]:
    where = "" if row.device == "cpu" else f", {row.device}"
    what = (
        f"factorise {row.layers}, tau {row.threshold}{where}: {row.factorised} of {row.count} "
        f"layers written, ranks {row.ranks_equal} of {row.count} as {row.reference}"
    )
    ours = f"{row.seconds[ENGINE]} s"
    cells = [
        (what, ours, f"{name} {row.seconds[name]} s", str(row.ratio[name])) for name in row.ratio
    ]
    cells.append((what, ours, "the two products", f"takes {row.over_floor} times that"))
    cells += [(what, ours, name, f"not run: {why}") for name, why in row.missing.items()]
    return [cells[0], *(("", "", *rest) for _, _, *rest in cells[1:])]


def _means(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Geometric means over the real sets, of each peer at each threshold."""
    found: list[tuple[str, ...]] = []
    for threshold in sorted({row.threshold for row in rows}, reverse=True):
        real = [
            row
            for row in rows
            if row.real and row.threshold == threshold and row.device == "cpu" and not row.is_part
        ]
        for peer in PEERS:
            known = [row.ratio[peer].median for row in real if peer in row.ratio]
            if known and len(known) == len(real):
                what = f"geometric mean over {len(real)} real layer sets, tau {threshold}"
                found.append((what, "", peer, number(geometric_mean(known))))
    return found


def _transfer(t: Transfer) -> tuple[str, ...]:
    how = "by curl" if t.reference == "nginx" else "copied"
    return (
        f"{t.direction} {t.size_bytes / MB:.0f} MB",
        f"{t.service_mb} MB/s",
        f"{t.reference} {how} {t.reference_mb} MB/s",
        str(t.share),
    )


def _overhead(o: Overhead) -> tuple[str, ...]:
    return (
        f"job of a {o.size_bytes / MB:.0f} MB model beyond its compute, {o.jobs} jobs",
        f"{o.overhead_seconds} s",
        f"compute {o.compute_seconds} s",
        f"{o.share_of_compute} of compute",
    )


def _throughput(t: Throughput, one: Throughput) -> tuple[str, ...]:
    return (
        f"jobs of a 1 MB model, {t.workers} worker{'s' if t.workers > 1 else ''}, {t.jobs} jobs",
        f"{t.per_minute:.0f} a minute",
        "one worker",
        number(t.per_minute / one.per_minute),
    )


def _latency(each: Latency) -> tuple[str, ...]:
    rounded = f", ranks multiples of {each.rank_multiple}" if each.rank_multiple > 1 else ""
    return (
        f"latency of {each.model} at {each.parameters:.0%} of its parameters{rounded}, "
        f"batch {each.batch}",
        f"{_micro(each.compressed_seconds.median)}",
        f"dense {_micro(each.dense_seconds.median)}",
        str(each.speedup),
    )


def _micro(seconds: float) -> str:
    return f"{number(seconds * 1e6)} us"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
