"""What a form brings: read, bounded, and tied to the session that it was shown in."""

import secrets
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request

from assay.console.sessions import Visitor
from assay.errors import AssayError, UsageError

MOST_FIELDS = 20
FORM_TYPE = "application/x-www-form-urlencoded"


class OtherPage(AssayError):
    """A form that this session was not shown."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each once."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != FORM_TYPE:
        raise UsageError(f"a form is wanted, of type {FORM_TYPE}")
    body = await request.body()  # the guard has bounded it
    try:
        found = parse_qs(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS,
            strict_parsing=bool(body), errors="strict",
        )  # fmt: skip
    except ValueError as error:
        raise UsageError("the form cannot be read") from error
    if any(len(values) > 1 for values in found.values()):
        raise UsageError("the form says something twice")
    return {name: values[0] for name, values in found.items()}


async def read_own_form(request: Request) -> dict[str, str]:
    """The same, of a page that was shown in this session."""
    fields = await read_form(request)
    visitor: Visitor = request.state.visitor
    if not visitor.csrf or not secrets.compare_digest(
        fields.get("csrf", "").encode(), visitor.csrf.encode()
    ):
        raise OtherPage("this form is not of your session; load the page again")
    return fields


Form = Annotated[dict[str, str], Depends(read_form)]
OwnForm = Annotated[dict[str, str], Depends(read_own_form)]
