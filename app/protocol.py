"""HTTP/1.1 as uvicorn speaks it; what never becomes a request is answered with a problem, too."""

from __future__ import annotations

import sys
import uuid

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.problems import MEDIA_TYPE
from rankpress.errors import BadRequest, HeadersTooLarge, RankpressError

MAX_HEAD_BYTES = 64 * 1024  # request line and header fields
LINGER_SECONDS = 2.0


class Protocol(H11Protocol):
    """No middleware is asked: the application does not hear of these bytes."""

    _refused = False

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is under way: cut off, it cannot pass as whole
            return
        error = _error(sys.exception())
        request_id = uuid.uuid4().hex
        problem = error.to_problem(f"urn:rankpress:request:{request_id}")
        body = problem.model_dump_json().encode()
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "x-request-id": request_id,
            "connection": "close",
        }
        answer = h11.Response(
            status_code=error.status,
            headers=[(k.encode(), v.encode()) for k, v in headers.items()],
            reason=error.title.encode(),
        )
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        # A connection that is closed while bytes are still coming is reset, and the answer may be
        # lost: what comes is thrown away for a moment.
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _error(cause: BaseException | None) -> RankpressError:
    if isinstance(cause, h11.RemoteProtocolError) and cause.error_status_hint == 431:
        return HeadersTooLarge(
            f"the request's line and header fields take more than {MAX_HEAD_BYTES} bytes"
        )
    return BadRequest("the bytes are no HTTP/1.1 request")
