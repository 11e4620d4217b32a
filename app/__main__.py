"""`python -m app`: migrates the database and serves, with the settings of the environment."""

from __future__ import annotations

import sys
import threading
from types import FrameType

import uvicorn

from app.auth import check_binding
from app.main import create_app, tracing_of_api
from app.protocol import MAX_HEAD_BYTES, Protocol
from rankpress.service import logs
from rankpress.service.engine import migrate_when_ready
from rankpress.service.settings import Settings
from rankpress.service.store import Store


class Server(uvicorn.Server):
    """uvicorn waits for the answers that are under way; those held on purpose would keep it."""

    def __init__(self, config: uvicorn.Config, closing: threading.Event) -> None:
        super().__init__(config)
        self._closing = closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)


def main() -> None:
    settings = Settings()
    logs.configure(settings.log_level)
    try:
        check_binding(settings, Store(settings.store_url))
    except ValueError as error:
        sys.exit(str(error))
    migrate_when_ready(settings)
    app = create_app(settings, tracing_of_api())
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Protocol,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=10,
    )
    Server(config, app.state.closing).run()


if __name__ == "__main__":
    main()
