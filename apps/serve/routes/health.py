"""For whoever watches over the server: `/health`, `/ready`, `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ....version import __version__
from ..house import House

router = APIRouter()


@router.get("/health")
async def health() -> Any:
    """Whether the process answers."""
    return {"status": "ok", "version": __version__}


@router.get("/ready")
async def ready(request: Request) -> Any:
    """Whether it can take requests now."""
    house: House = request.app.state.house
    if not request.app.state.ready:
        return JSONResponse({"status": "loading"}, 503)
    problem = house.problem
    return {"status": "ready", "speech": "ready" if problem is None else str(problem)}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters, as Prometheus reads them."""
    house: House = request.app.state.house
    house.measure()
    content, media_type = house.metrics.render()
    return Response(content, media_type=media_type)
