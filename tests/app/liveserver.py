"""The application behind a real uvicorn on a free port, in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from app.main import create_app
from app.protocol import MAX_HEAD_BYTES, Protocol
from rankpress.service.settings import Settings


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The base URL, as long as the block runs."""
    config = uvicorn.Config(
        create_app(settings),
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        http=Protocol,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    ready = threading.Event()
    startup = server.startup

    async def announced(sockets: list | None = None) -> None:  # type: ignore[type-arg]
        await startup(sockets)
        ready.set()

    server.startup = announced  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()
