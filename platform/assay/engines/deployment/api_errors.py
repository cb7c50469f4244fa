"""Answers of the OpenAI-compatible API that every engine of our own gives alike."""

from typing import Any


def error_answer(status: int, message: str) -> Any:
    """An error in the API's form."""
    from starlette.responses import JSONResponse

    kind = "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)


def models_answer(name: str) -> Any:
    """The list of the one model that is served."""
    from starlette.responses import JSONResponse

    model = {"id": name, "object": "model", "owned_by": "assay"}
    return JSONResponse({"object": "list", "data": [model]})
