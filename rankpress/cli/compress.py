"""`rankpress compress`: from a file to a smaller file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rankpress.cli import tables
from rankpress.cli.options import DEFAULT_URL, ApiKey, Json, Url, connect
from rankpress.cli.progress import Bars
from rankpress.cli.text import size
from rankpress.names import Rule


def compress(
    model: Annotated[
        Path, typer.Argument(help=".safetensors, .pt, .onnx, ..., or a folder of shards.")
    ],
    threshold: Annotated[
        float | None, typer.Option("--threshold", "-t", help="tau in (0, 1]: how much to keep.")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", help="Samples to score both models on: inputs, targets."),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", help="The architecture: a file of rankpress.export_template."),
    ] = None,
    rule: Annotated[
        Rule | None, typer.Option("--rule", help="How ranks are chosen; entropy by default.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; beside the model by default."),
    ] = None,
    options: Annotated[
        str | None,
        typer.Option("--options", help="More fields of the request as JSON, or @FILE."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds to wait for the job.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Compress a model: upload, wait, download, and say what was done."""
    fields = parse_options(options)
    check_template(template, validation)
    if threshold is not None:
        fields["threshold"] = threshold
    if rule is not None:
        fields["rule"] = rule
    bars = Bars()
    try:
        with connect(url, api_key) as client, bars:
            done = client.compress(
                model,
                validation=validation,
                template=template,
                out=output,
                timeout=timeout,
                watch=bars.watchers(),
                **fields,
            )
    except KeyboardInterrupt:
        if bars.job_id is not None:
            sys.stderr.write(
                f"\njob {bars.job_id} goes on; to end it: rankpress cancel {bars.job_id}\n"
            )
        raise
    if as_json:
        tables.print_json(
            {
                "job": tables.as_json(done.job),
                "report": tables.as_json(done.report),
                "path": str(done.path),
            }
        )
        return
    out = tables.console()
    tables.print_report(out, done.report)
    out.print(f"job   {done.job.id}", markup=False)
    out.print(f"file  {done.path} ({size(done.report.bytes_after)})", markup=False, soft_wrap=True)


def parse_options(text: str | None) -> dict[str, Any]:
    """The JSON object of `--options`. Raises typer.BadParameter."""
    if text is None:
        return {}
    try:
        found = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {text[1:]}", param_hint="--options") from error
    except ValueError as error:
        raise typer.BadParameter("is no JSON", param_hint="--options") from error
    if not isinstance(found, dict):
        raise typer.BadParameter("must be a JSON object", param_hint="--options")
    if "model" in found:
        raise typer.BadParameter("`model` is the file given", param_hint="--options")
    return found


def check_template(template: Path | None, validation: Path | None) -> None:
    """Raises typer.BadParameter."""
    if template is not None and validation is None:
        raise typer.BadParameter("is for scoring: give --validation too", param_hint="--template")
