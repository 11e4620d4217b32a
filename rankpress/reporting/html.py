"""The report as one self-contained HTML file: no script, no request, nothing but its own style.

Every text that came from elsewhere passes through `safe`; the document's own policy forbids
scripts and any style but this one, should a viewer be handed something else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib import resources

from rankpress.reporting import frontier, html_layers, words
from rankpress.reporting.html_layers import safe
from rankpress.schemas.report import EvaluationReport, Metric, RankReport
from rankpress.schemas.spectrum import SpectrumDocument


def report_html(report: RankReport, spectrum: SpectrumDocument | None = None) -> str:
    """A page that opens from disk, in light and dark and on paper. Without `spectrum` (an old
    job's may be gone) the plots of singular values are left out, and the page says so."""
    style = style_sheet()
    title = f"Rank report {safe(report.job_id)}"
    sections = [
        _header(report),
        _cards(report),
        _frontier(report),
        html_layers.spectra(report, spectrum),
        _evaluation(report.evaluation) if report.evaluation is not None else "",
        html_layers.table(report),
        _details(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(style))}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" '
        f'content="no-referrer"><title>{title}</title><style>{style}</style></head>\n<body><main>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def style_sheet() -> str:
    return resources.files(__package__).joinpath("report.css").read_text("utf-8")


def policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _header(report: RankReport) -> str:
    tau = "" if report.threshold is None else f", τ = {report.threshold:g}"
    output = "no output layer was protected"
    if report.protected_output is not None:
        assumed = " (assumed)" if report.protected_output_assumed else ""
        output = f"the output layer <code>{safe(report.protected_output)}</code>{assumed} is dense"
    return (
        f"<header><h1>Rank report</h1><p>Rule: {safe(words.RULES[report.rule])}{tau}; {output}."
        f"</p><p class='quiet'>Job <code>{safe(report.job_id)}</code>, "
        f"{report.created_at:%d %B %Y, %H:%M} UTC</p></header>"
    )


def _cards(report: RankReport) -> str:
    cards = [
        _change("File", report.bytes_before, report.bytes_after, in_bytes=True),
        _change("Parameters", report.parameters_before, report.parameters_after),
    ]
    if report.flops_per_sample_before is not None and report.flops_per_sample_after is not None:
        flops = report.flops_per_sample_before, report.flops_per_sample_after
        cards.append(_change("FLOPs per sample", *flops))
    if report.evaluation is not None:
        by_name = {m.name: m for m in report.evaluation.metrics}
        cards += [_metric_card(by_name[n]) for n in words.HEADLINE_METRICS if n in by_name][:1]
        cards += [
            _card(
                f"Speed, batches of {t.batch_size}",
                f"{t.speedup:.2f} ×",
                f"{1000 * t.dense_seconds:.3g} → {1000 * t.compressed_seconds:.3g} ms a batch",
            )
            for t in report.evaluation.latency[:2]
        ]
    return f"<section class='cards' aria-label='Summary'>{''.join(cards)}</section>"


def _change(title: str, before: int, after: int, *, in_bytes: bool = False) -> str:
    form = words.size if in_bytes else "{:,}".format
    return _card(title, words.share(after, before), f"{form(before)} → {form(after)}")


def _metric_card(metric: Metric) -> str:
    dense = words.metric_value(metric.name, metric.dense)
    compressed = words.metric_value(metric.name, metric.compressed)
    note = f"dense {dense}; difference {words.metric_difference(metric)}"
    return _card(words.metric_name(metric.name).capitalize(), compressed, note)


def _card(title: str, value: str, note: str) -> str:
    return (
        f"<div class='card'><h2>{safe(title)}</h2><p class='value'>{safe(value)}</p>"
        f"<p class='quiet'>{safe(note)}</p></div>"
    )


def _frontier(report: RankReport) -> str:
    rows = frontier.rows(report)
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{name}</th>" for name in frontier.HEAD)
    body = "".join(
        f"<tr><th scope='row'>{safe(first)}</th>"
        + "".join(f"<td>{safe(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        "<section><h2>Frontier</h2><p class='quiet'>Every result of this job; the star marks the "
        "one that this report is of.</p><div class='scroll' tabindex='0' role='region' "
        f"aria-label='Frontier'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "</div></section>"
    )


def _evaluation(found: EvaluationReport) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{safe(words.metric_name(m.name))}</th>"
        f"<td>{words.metric_value(m.name, m.dense)}</td>"
        f"<td>{words.metric_value(m.name, m.compressed)}</td>"
        f"<td>{words.metric_difference(m)}</td>"
        f"<td class='text'>{safe(_about(m))}</td></tr>"
        for m in found.metrics
    )
    assumed = ", assumed from the shapes" if found.architecture_assumed else ""
    verdict = "" if found.verdict is None else f" Verdict: {words.VERDICTS[found.verdict]}."
    return (
        "<section><h2>Evaluation</h2>"
        f"<p>{found.samples:,} samples, {safe(found.architecture)}{assumed}; scored on the "
        f"artifact after it was read back, on {safe(found.device)}.{verdict}</p>"
        "<div class='scroll' tabindex='0' role='region' aria-label='Metrics'><table><thead><tr>"
        "<th scope='col'>metric</th><th scope='col'>dense</th><th scope='col'>compressed</th>"
        "<th scope='col'>difference [interval]</th><th scope='col' class='text'>about</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></div>{_list(found.notes)}</section>"
    )


def _about(metric: Metric) -> str:
    parts = ["higher is better" if metric.higher_is_better else "lower is better"]
    if metric.interval is not None:
        level = f"{100 * metric.interval.level:g} % interval by {metric.interval.method}"
        parts.append(level.replace("_", " "))
    if metric.reason:
        parts.append(metric.reason)
    return "; ".join(parts)


def _details(report: RankReport) -> str:
    rows = [
        ("Input SHA-256", "\n".join(report.input_sha256)),
        ("Output SHA-256", report.output_sha256),
        ("Output format", report.output_format),
        ("Weights found at", report.weights_path),
        ("Seconds", ", ".join(f"{stage} {s:.3g}" for stage, s in report.seconds.items())),
        ("Device", report.versions.device),
        (
            "Versions",
            f"Rankpress {report.versions.rankpress}, torch {report.versions.torch}, "
            f"Python {report.versions.python}",
        ),
    ]
    items = "".join(
        f"<dt>{name}</dt><dd>{'<br>'.join(map(safe, value.splitlines()))}</dd>"
        for name, value in rows
        if value
    )
    return f"<section><h2>Details</h2>{_list(report.notes)}<dl>{items}</dl></section>"


def _list(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{safe(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""
