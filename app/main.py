"""The HTTP service, put together. Nothing happens at import, and torch is never needed."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import Scope

from app import openapi, problems, webhooks
from app.auth import Authenticator
from app.body import BodyGuard
from app.context import Services
from app.metrics import ApiMetrics
from app.middleware import HeadAsGet, RequestContext
from app.rates import RateLimit
from app.routes import artifacts, docs, events, health, jobs, page, resumption, submit, uploads
from app.telemetry import telemetry_of
from rankpress import __version__
from rankpress.service import logs
from rankpress.service.engine import Engine
from rankpress.service.lease import leases
from rankpress.service.reaper import Reaper
from rankpress.service.settings import Settings
from rankpress.service.store import Store
from rankpress.service.tracing import NoTracing, Tracing, tracing_of

DESCRIPTION = """Compresses trained neural networks by adaptive-rank SVD.

Upload a checkpoint, submit a job, read the report, download the smaller weights. Every error is
`application/problem+json` (RFC 9457)."""
OWN_HEAD = re.compile(r"/v1/(jobs/[^/]+/weights|uploads/[^/]+)$")


def create_app(settings: Settings, tracing: Tracing | None = None) -> FastAPI:
    """The application; its lifespan opens the store and the job queue and closes them. The
    database must have been migrated (`rankpress.service.engine.migrate`)."""

    metrics = ApiMetrics()
    traced = tracing or NoTracing()
    closing = threading.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = await asyncio.to_thread(Engine, settings)
        try:
            store = await asyncio.to_thread(Store, settings.store_url)
            held = await asyncio.to_thread(leases, settings)
            reaper = Reaper(engine, held)
            app.state.services = Services(
                settings=settings,
                store=store,
                engine=engine,
                leases=held,
                authenticator=Authenticator(store, settings),
                metrics=metrics,
                tracing=traced,
                closing=closing,
                rates=RateLimit(settings.max_requests_per_second),
            )
            reaper.start()
            try:
                yield
            finally:
                await asyncio.to_thread(reaper.stop)
        finally:
            await asyncio.to_thread(engine.close)
            await asyncio.to_thread(traced.close)

    app = FastAPI(
        title="Rankpress",
        version=__version__,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        telemetry=telemetry_of(traced),
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        openapi_tags=[
            {"name": "uploads", "description": "Files going in"},
            {"name": "jobs", "description": "Compression jobs"},
            {"name": "artifacts", "description": "What a job left"},
            {"name": "service", "description": "Health"},
        ],
    )
    app.state.closing = closing
    # The last added is the outermost.
    app.add_middleware(HeadAsGet, own=OWN_HEAD)
    app.add_middleware(
        BodyGuard,
        max_bytes=settings.max_json_bytes,
        stalled_seconds=settings.stalled_body_seconds,
        streams=takes_a_stream,
    )
    app.add_middleware(RequestContext, metrics=metrics, tracing=traced)
    problems.install(app)
    openapi.install(app)
    webhooks.document(app)
    docs.install(app)
    for module in (uploads, resumption, submit, jobs, events, artifacts, health, page):
        app.include_router(module.router)
    return app


def takes_a_stream(scope: Scope) -> bool:
    """The routes whose body may be large: they count it themselves."""
    method, path = scope["method"], scope["path"]
    if method == "POST" and path == "/v1/jobs":
        content_type: bytes = dict(scope["headers"]).get(b"content-type", b"")
        return content_type.split(b";")[0].strip().lower() == submit.MULTIPART.encode()
    upload = method == "POST" and path == "/v1/uploads"
    return bool(upload or (method == "PATCH" and path.startswith("/v1/uploads/")))


def from_environment() -> FastAPI:
    """For `uvicorn --factory app.main:from_environment`: settings from `RANKPRESS_*`."""
    settings = Settings()
    logs.configure(settings.log_level)
    return create_app(settings, tracing_of_api())


def tracing_of_api() -> Tracing:
    return tracing_of(os.environ, service="rankpress-api", version=__version__)
