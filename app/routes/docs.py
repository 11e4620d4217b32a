"""The interactive API page. Its scripts are a package's (`fastapi_swagger` carries Swagger UI's
release), served from here: an operator's network may have no way out."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

FILES = "/docs/files"


def install(app: FastAPI) -> None:
    """Adds `/docs` and its files. The page keeps no key that is typed into it."""
    app.mount(FILES, StaticFiles(packages=[("fastapi_swagger", "resources")]), name="docs-files")

    @app.get("/docs", include_in_schema=False)
    async def interactive_documentation() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} API",
            swagger_js_url=f"{FILES.lstrip('/')}/swagger-ui-bundle.js",
            swagger_css_url=f"{FILES.lstrip('/')}/swagger-ui.css",
            swagger_favicon_url=f"{FILES.lstrip('/')}/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "persistAuthorization": False},
        )
