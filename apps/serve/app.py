"""The application: routes, middleware, and the house that they share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from ...errors import MynaError
from ...version import __version__
from .body import BodyLimit
from .draining import Drained, Draining
from .house import House
from .options import ServeOptions
from .problems import NotFoundError, ProblemError, envelope, problem_of
from .routes import health, models, realtime, speech, speech_socket, transcriptions, voices
from .routes.transcriptions import invalid
from .security import Guard


def build_app(options: ServeOptions | None = None, house: House | None = None) -> FastAPI:
    """An ASGI application. house: None for the models that ship."""
    options = options or (house.options if house is not None else ServeOptions())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.house = house or House(options)
        await app.state.house.start()
        draining.then.append(app.state.house.refuse)
        app.state.ready = True
        async with contextlib.AsyncExitStack() as stack:
            for begin in app.state.beside:
                await stack.enter_async_context(begin(app.state.house))
            try:
                yield
            finally:
                app.state.ready = False
                await app.state.house.close()

    draining = Draining()
    middleware = [Middleware(Drained, draining=draining), Middleware(Guard, options=options)]
    if options.cors:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=list(options.cors), allow_methods=["*"], allow_headers=["*"]
            )
        )
    middleware.append(Middleware(BodyLimit, limits=options.limits))
    app = FastAPI(
        title="Myna",
        version=__version__,
        lifespan=lifespan,
        middleware=middleware,  # pyright: ignore[reportArgumentType]
        docs_url=None,  # its scripts come from elsewhere
        redoc_url=None,
    )
    app.state.ready, app.state.beside, app.state.draining = False, [], draining
    for area in (speech, speech_socket, transcriptions, realtime, voices, models, health):
        app.include_router(area.router)
    app.add_api_route(
        "/v1/{rest:path}", _nowhere, methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False
    )
    app.add_exception_handler(MynaError, _answer)
    app.add_exception_handler(OSError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer)
    return app


async def _nowhere(request: Request) -> Any:
    """Before the page gets to see it, which answers otherwise."""
    raise NotFoundError(
        f"there is nothing at {request.method} {request.url.path}; /openapi.json says what there is"
    )


async def _answer(request: Request, error: Exception) -> Any:
    problem = problem_of(error)
    return JSONResponse(envelope(problem), problem.status, dict(problem.headers))


async def _answer_invalid(request: Request, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError)
    return await _answer(request, invalid(error.errors()[0]))


async def _answer_http(request: Request, error: Exception) -> Any:
    """Of Starlette: an address or a method that there is not."""
    assert isinstance(error, HTTPException)
    problem = ProblemError(
        str(error.detail).rstrip(".").lower() + f": {request.method} {request.url.path}", code="not_found"
    )
    problem.status, problem.kind = error.status_code, "invalid_request_error"
    return JSONResponse(envelope(problem), problem.status)
