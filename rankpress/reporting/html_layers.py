"""The layers in the HTML report: spectra with the cut, and the table of every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rankpress.names import Action
from rankpress.reporting import svg, words
from rankpress.schemas.report import LayerReport, RankReport
from rankpress.schemas.spectrum import LayerSpectrum, SpectrumDocument

SPECTRA_SHOWN = 96  # the largest; a page with more is no longer read
EXPERTS_SHOWN = 8


def safe(text: str) -> str:
    """Text as HTML, in element content and in quoted attributes."""
    return escape(words.visible(text), quote=True)


def spectra(report: RankReport, document: SpectrumDocument | None) -> str:
    """A plot for each layer that has singular values, in the file's order."""
    if document is None:
        return (
            "<section><h2>Singular values</h2><p>The spectra of this job were not at hand when "
            "this page was made.</p></section>"
        )
    by_name = {layer.name: layer for layer in report.layers}
    known = [(by_name[s.name], s) for s in document.layers if s.name in by_name]
    largest = sorted(known, key=lambda pair: -pair[0].parameters_before)[:SPECTRA_SHOWN]
    shown_names = {layer.name for layer, _ in largest}
    shown = [pair for pair in known if pair[0].name in shown_names]
    if not shown:
        return ""
    more = len(known) - len(shown)
    left_out = f" The {more} smaller layers are in the table alone." if more else ""
    figures = "".join(_figure(layer, spectrum) for layer, spectrum in shown)
    return (
        "<section><h2>Singular values</h2><p class='quiet'>Each s<sub>i</sub> as a share of the "
        "largest, on a logarithmic scale over six decades. What lies left of the line is kept."
        f"{left_out}</p><div class='figures'>{figures}</div></section>"
    )


def _figure(layer: LayerReport, spectrum: LayerSpectrum) -> str:
    values = spectrum.spectra()[:EXPERTS_SHOWN]
    rank = layer.rank if layer.action is Action.FACTORISED else None
    outcome = (
        f"rank {words.rank_text(layer)}, {_share(layer)} of the parameters"
        if rank is not None
        else words.action_text(layer)
    )
    label = f"Singular values of {words.visible(layer.name)}: {outcome}"
    of_experts = (
        f" (experts 1 to {len(values)} of {spectrum.count})"
        if spectrum.count > EXPERTS_SHOWN
        else ""
    )
    return (
        f"<figure>{svg.spectrum_plot(values, rank, label)}<figcaption>"
        f"<code>{safe(layer.name)}</code><span>{safe(outcome + of_experts)}</span>"
        "</figcaption></figure>"
    )


def table(report: RankReport) -> str:
    """Every tensor in the file's order; those without a matrix are folded away."""
    layers = [x for x in report.layers if x.action is not Action.PASSED_THROUGH]
    passed = [x for x in report.layers if x.action is Action.PASSED_THROUGH]
    parts = [_layer_table(layers)] if layers else ["<p>No tensor has a matrix to factorise.</p>"]
    if passed:
        parts.append(
            f"<details{'' if layers else ' open'}><summary>{len(passed)} tensors passed through "
            f"unchanged</summary>{_passed_table(passed)}</details>"
        )
    return f"<section><h2>Tensors</h2>{''.join(parts)}</section>"


def _layer_table(layers: Sequence[LayerReport]) -> str:
    head = _head(
        "tensor", "shape", "rank", "parameters", "relative error", "energy kept", "outcome"
    )
    rows = "".join(
        f"<tr><th scope='row'><code>{safe(x.name)}</code></th><td>{words.shape_text(x.shape)}</td>"
        f"<td>{_rank(x)}</td><td>{_parameters(x)}</td><td>{words.number(x.relative_error, 3)}</td>"
        f"<td>{'–' if x.energy_kept is None else f'{100 * x.energy_kept:.2f} %'}</td>"
        f"<td class='text {x.action}'>{safe(words.action_text(x))}</td></tr>"
        for x in layers
    )
    return _scroll("Layers", f"<table>{head}<tbody>{rows}</tbody></table>")


def _passed_table(layers: Sequence[LayerReport]) -> str:
    head = _head("tensor", "shape", "dtype", "bytes", "outcome")
    rows = "".join(
        f"<tr><th scope='row'><code>{safe(x.name)}</code></th><td>{words.shape_text(x.shape)}</td>"
        f"<td>{safe(x.dtype)}</td><td>{x.bytes_before:,}</td>"
        f"<td class='text'>{safe(words.action_text(x))}</td></tr>"
        for x in layers
    )
    return _scroll("Tensors passed through", f"<table>{head}<tbody>{rows}</tbody></table>")


def _head(*names: str) -> str:
    last = len(names) - 1
    cells = (
        f"<th scope='col'{' class=text' if i in (0, last) else ''}>{name}</th>"
        for i, name in enumerate(names)
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _scroll(label: str, content: str) -> str:
    """A region that scrolls sideways on a phone, and by the keyboard."""
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{label}'>{content}</div>"


def _rank(layer: LayerReport) -> str:
    if layer.rank is None or not layer.full_rank:
        return "–"
    mark = None if layer.break_even_rank is None else layer.break_even_rank / layer.full_rank
    text = words.rank_text(layer)
    if layer.action is not Action.FACTORISED:
        text = f"dense, asked for {layer.rank}"
    return f"{text}{svg.bar(layer.rank / layer.full_rank, mark, f'rank {text}')}"


def _parameters(layer: LayerReport) -> str:
    if not layer.parameters_before:
        return f"{layer.parameters_after:,}"
    kept = layer.parameters_after / layer.parameters_before
    label = f"{_share(layer)} of the parameters"
    return f"{layer.parameters_after:,}, {_share(layer)}{svg.bar(kept, None, label)}"


def _share(layer: LayerReport) -> str:
    return words.share(layer.parameters_after, layer.parameters_before)
