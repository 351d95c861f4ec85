"""health, ready, metrics: what those who run a server ask it."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from serving.server.hall import Hall

router = APIRouter(tags=["operation"])


@router.get("/health", summary="Whether the server runs.")
async def health() -> Response:
    """200 as long as the server answers."""
    return PlainTextResponse("ok")


@router.get("/ready", summary="Whether the server can rank.")
async def ready(request: Request) -> Response:
    """200 once all rankers are loaded; 503 before, and while the server shuts down."""
    hall: Hall = request.app.state.hall
    return JSONResponse({"ready": hall.is_ready}, 200 if hall.is_ready else 503)


@router.get("/metrics", summary="Counts and times for Prometheus.")
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus' text format."""
    hall: Hall = request.app.state.hall
    return Response(hall.metrics.text(), media_type=CONTENT_TYPE_LATEST)
