"""RequestError: why a request has no answer, in the form that the clients of its route read."""

from collections.abc import Mapping
from typing import Any

# Text Embeddings Inference names its errors by these words.
_TEI = {
    400: "Empty",
    413: "Validation",
    422: "Validation",
    424: "Backend",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
    504: "Backend",
}
_OPENAI = {401: "authentication_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """A request that is refused or cannot be answered.

    Args:
        status: The HTTP status.
        message: What is wrong and what to do, for the client.
        headers: Further headers of the answer, such as Retry-After.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def overloaded(seconds: float) -> RequestError:
    """The refusal of a request for which there is no room, with the time after which there should be."""
    wait = max(1, round(seconds))
    return RequestError(429, f"too many requests are waiting: try again in {wait} s", {"Retry-After": str(wait)})


def status_of(path: str, status: int) -> int:
    """The status that a route has for an error: to clients of TEI, a ranker that fails is a failed dependency.

    Example:
        >>> status_of("/tei/rerank", 500), status_of("/v1/rerank", 500)
        (424, 500)
    """
    return 424 if path.startswith("/tei/") and status == 500 else status


def error_body(path: str, status: int, message: str) -> dict[str, Any]:
    """The body of an error: TEI's, Cohere's (which also has that of vLLM), or OpenAI's."""
    if path.startswith("/tei/"):
        return {"error": message, "error_type": _TEI.get(status, "Validation")}
    kind = _OPENAI.get(status, "invalid_request_error" if status < 500 else "server_error")
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return {"message": message, **body} if path.endswith("/rerank") else body
