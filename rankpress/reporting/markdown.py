"""A summary in GitHub-flavoured Markdown, for a pull request or a model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rankpress.names import Action
from rankpress.reporting import frontier, words
from rankpress.schemas.report import EvaluationReport, LayerReport, RankReport

ROWS_SHOWN = 12  # the layers that saved most; the rest is folded
ROWS_FOLDED = 200  # a comment on GitHub may have 65,536 characters
_PLAIN = re.compile(r"[A-Za-z0-9_./:-]+")


def report_markdown(report: RankReport) -> str:
    """Headings, tables and one `<details>`; every name that came with the file is escaped."""
    blocks = [_headline(report), _sizes(report), _frontier(report)]
    if report.evaluation is not None:
        blocks.append(_evaluation(report.evaluation))
    blocks += [_layers(report.layers), *_notes(report), _footer(report)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def code(text: str) -> str:
    """A name as code. Outside plain names every sign of ASCII punctuation becomes a character
    reference, which Markdown and HTML both show and neither obeys."""
    text = words.visible(text)
    if _PLAIN.fullmatch(text):
        return f"`{text}`"
    return f"<code>{prose(text)}</code>" if text else "<code>&nbsp;</code>"


def prose(text: str) -> str:
    """Text that is not Markdown, whatever it holds: no mark-up, no mention, no link."""
    escaped = (
        f"&#{ord(c)};" if c.isascii() and not c.isalnum() and c not in " .,-" else c
        for c in words.visible(text)
    )
    # A reference in every word that could begin a bare link.
    return re.sub(r"(?i)\bwww\.", "www&#46;", "".join(escaped))


def _headline(report: RankReport) -> str:
    tau = "" if report.threshold is None else f", τ = {report.threshold:g}"
    return (
        f"### Rankpress: the file is at {words.share(report.bytes_after, report.bytes_before)} "
        f"of its size\n\nRule: {words.RULES[report.rule]} (`{report.rule}`{tau})"
    )


def _sizes(report: RankReport) -> str:
    rows = [
        ("Parameters", report.parameters_before, report.parameters_after, str),
        ("Tensor data", report.tensor_bytes_before, report.tensor_bytes_after, "bytes"),
        ("File", report.bytes_before, report.bytes_after, "bytes"),
    ]
    if report.flops_per_sample_before is not None and report.flops_per_sample_after is not None:
        flops = report.flops_per_sample_before, report.flops_per_sample_after
        rows.append(("FLOPs per sample", *flops, str))
    return _table(
        ("", "before", "after", "share"),
        (
            (name, _amount(before, unit), _amount(after, unit), words.share(after, before))
            for name, before, after, unit in rows
        ),
    )


def _frontier(report: RankReport) -> str:
    rows = frontier.rows(report)
    if not rows:
        return ""
    # The star would be mark-up, so all cells are escaped.
    table = _table(frontier.HEAD, (tuple(map(prose, row)) for row in rows), left=(0, 1, 4, 5))
    return f"**Frontier** (the star marks the result that this is of)\n\n{table}"


def _amount(value: int, unit: object) -> str:
    return words.size(value) if unit == "bytes" else f"{value:,}"


def _evaluation(found: EvaluationReport) -> str:
    table = _table(
        ("metric", "dense", "compressed", "difference [95 % interval]"),
        (
            (
                prose(words.metric_name(m.name)),
                words.metric_value(m.name, m.dense),
                words.metric_value(m.name, m.compressed),
                words.metric_difference(m),
            )
            for m in found.metrics
        ),
    )
    lines = [
        f"**Evaluation** on {found.samples:,} samples, {prose(found.architecture)}"
        + (" (assumed from the shapes)" if found.architecture_assumed else ""),
        table,
    ]
    if found.verdict is not None:
        lines.append(f"Verdict: **{words.VERDICTS[found.verdict]}**")
    lines += [
        f"Batches of {t.batch_size}: {t.speedup:.2f} times as fast as dense "
        f"({1000 * t.dense_seconds:.3g} ms → {1000 * t.compressed_seconds:.3g} ms, "
        f"{prose(found.device)}, {t.threads} threads)"
        for t in found.latency
    ]
    return "\n\n".join(lines)


def _layers(layers: Sequence[LayerReport]) -> str:
    """Those that saved most first; tensors passed through are counted, not listed."""
    listed = [x for x in layers if x.action is not Action.PASSED_THROUGH]
    listed.sort(key=lambda x: x.bytes_after - x.bytes_before)
    blocks = [_layer_table(listed[:ROWS_SHOWN])] if listed else []
    if rest := listed[ROWS_SHOWN : ROWS_SHOWN + ROWS_FOLDED]:
        table = _layer_table(rest)
        blocks.append(
            f"<details><summary>{len(rest)} more layers</summary>\n\n{table}\n\n</details>"
        )
    if (left_out := len(listed) - ROWS_SHOWN - ROWS_FOLDED) > 0:
        blocks.append(f"{left_out} more layers are in the report itself.")
    if passed := len(layers) - len(listed):
        blocks.append(f"{passed} tensors passed through unchanged.")
    return "\n\n".join(blocks)


def _layer_table(layers: Iterable[LayerReport]) -> str:
    return _table(
        ("layer", "shape", "rank", "parameters", "share", "relative error", "what was done"),
        (
            (
                code(x.name),
                words.shape_text(x.shape),
                words.rank_text(x),
                f"{x.parameters_after:,}",
                words.share(x.parameters_after, x.parameters_before),
                words.number(x.relative_error, 3),
                prose(words.action_text(x)),
            )
            for x in layers
        ),
        left=(0, 1, 6),
    )


def _notes(report: RankReport) -> list[str]:
    notes = [*report.notes, *(report.evaluation.notes if report.evaluation else ())]
    if report.protected_output_assumed and report.protected_output is not None:
        notes.insert(0, f"The output layer was assumed to be {report.protected_output}.")
    return ["\n".join(f"- {prose(note)}" for note in notes)] if notes else []


def _footer(report: RankReport) -> str:
    return (
        f"<sub>Job {code(report.job_id)}, {report.created_at:%Y-%m-%d %H:%M} UTC; output SHA-256 "
        f"{code(report.output_sha256)}; Rankpress {prose(report.versions.rankpress)}</sub>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: tuple[int, ...] = (0,)) -> str:
    rule = ["---" if i in left else "--:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
