"""A job's report and spectrum on their way out: small documents, in the form asked for."""

from __future__ import annotations

import hashlib

from fastapi import Request
from starlette.responses import Response

from app.headers import attachment, digest_field, etag_matches
from app.negotiation import choose
from rankpress.errors import PreconditionFailed
from rankpress.reporting import report_csv, report_html, report_markdown
from rankpress.reporting.html import policy, style_sheet
from rankpress.schemas.report import RankReport
from rankpress.schemas.spectrum import SpectrumDocument

JSON, CSV, HTML, MARKDOWN = "application/json", "text/csv", "text/html", "text/markdown"
REPORT_TYPES = (JSON, CSV, HTML, MARKDOWN)  # the first is what a caller without a wish gets


def report_type(request: Request) -> str:
    """Raises `NotAcceptable`."""
    return choose(request.headers.get("accept"), REPORT_TYPES)


def render(media_type: str, report: bytes, spectrum: bytes | None) -> bytes:
    """The stored report in another form. Only the HTML one draws the spectrum."""
    if media_type == JSON:
        return report
    parsed = RankReport.model_validate_json(report)
    if media_type == CSV:
        return report_csv(parsed).encode()
    if media_type == MARKDOWN:
        return report_markdown(parsed).encode()
    document = None if spectrum is None else SpectrumDocument.model_validate_json(spectrum)
    return report_html(parsed, document).encode()


def respond(request: Request, body: bytes, media_type: str, filename: str) -> Response:
    """200, 304 or 412: conditional on a strong validator, the SHA-256 of the bytes sent."""
    digest = hashlib.sha256(body).hexdigest()
    etag = f'"{digest}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": digest_field(digest),
        "Cache-Control": "private, no-cache",
        "Vary": "Accept",
    }
    must, known = request.headers.get("if-match"), request.headers.get("if-none-match")
    if must is not None and not etag_matches(must, etag, weak=False):
        raise PreconditionFailed(f"the document's entity tag is {etag}")
    if known is not None and etag_matches(known, etag, weak=True):
        return Response(status_code=304, headers=headers)
    if media_type == HTML:
        # Names in it came from a stranger's file: no script would run, and no origin is lent.
        headers["Content-Security-Policy"] = f"{policy(style_sheet())}; sandbox"
    elif media_type == CSV:
        headers["Content-Disposition"] = attachment(filename)
    return Response(body, headers=headers, media_type=_with_charset(media_type))


def _with_charset(media_type: str) -> str:
    """JSON has no such parameter (RFC 8259)."""
    return media_type if media_type == JSON else f"{media_type}; charset=utf-8"
