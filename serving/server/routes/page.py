"""page: a page on which a person asks a ranker, and teaches it; three files without data, which need no key."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from training.pages.rendering import stylesheet

router = APIRouter(include_in_schema=False)

_FILES = Path(__file__).parents[1] / "page"
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@router.get("/")
async def page() -> Response:
    """The page."""
    return Response(_content("page.html"), media_type="text/html", headers=_HEADERS)


@router.get("/page.css")
async def style() -> Response:
    """The stylesheet of all pages of the project, and what this one adds."""
    return Response(stylesheet() + _content("page.css"), media_type="text/css", headers=_HEADERS)


@router.get("/page.js")
async def script() -> Response:
    """What the page does."""
    return Response(_content("page.js"), media_type="text/javascript", headers=_HEADERS)


@cache
def _content(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
