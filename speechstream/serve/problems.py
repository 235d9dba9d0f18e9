"""Errors as OpenAI's clients expect them: a status, and {"error": {message, type, param, code}}.

Every message is one sentence for whoever sent the request. Nothing of it is logged, since it may quote their words.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from speechstream.serve.engine import Refused

_TYPES = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "timeout"),
    413: ("invalid_request_error", "too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "unavailable"),
}


class Problem(Exception):
    """A request that is answered with an error.

    param: the field at fault. extra: further fields of the error object, such as what was heard before a recording
    broke off.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code, self.headers, self.extra = code, headers or {}, extra

    @classmethod
    def of(cls, refusal: Refused) -> Problem:
        """No place: 429 with the time to come back after, 503 where the server ends or has failed."""
        if refusal.retry_s is None:
            return cls(503, str(refusal))
        status = 503 if "about to end" in str(refusal) else 429
        return cls(status, str(refusal), headers={"retry-after": str(refusal.retry_s)})

    def body(self) -> dict[str, Any]:
        """The envelope."""
        kind, code = _TYPES.get(self.status, ("invalid_request_error", None))
        error = {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code or code,
        }
        return {"error": error | self.extra}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def wrong(message: str, param: str | None = None, code: str | None = None) -> Problem:
    """A field that cannot be used: 400."""
    return Problem(400, message, param, code)
