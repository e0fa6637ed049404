"""The published OpenAPI document: FastAPI's, made true where our answers differ from its defaults."""

import re
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

from supervisor.http.models import ErrorAnswer

Responses: TypeAlias = dict[int | str, dict[str, Any]]  # Any: FastAPI's own type

_PARAMETER: Final = re.compile(r"\{\w+\}")
_ALWAYS: Final = (400, 401, 403, 408, 413, 500)
_SCHEMES: Final = {
    "XApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "XSessionApiKey": {"type": "apiKey", "in": "header", "name": "X-Session-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def refusals(*statuses: int, body: type[BaseModel] = ErrorAnswer) -> Responses:
    """The answers of a route that are no success: those that every route may give, and these."""
    return {
        status: {"model": body, "description": HTTPStatus(status).phrase} for status in sorted({*_ALWAYS, *statuses})
    }


def operation_id(route: APIRoute) -> str:
    """A name for a route of a method and path, unique though the same function serves several."""
    words = [word.strip("{}").replace("-", "_") for word in route.path_format.split("/") if word]
    return "_".join([min(route.methods or ()).lower(), *words])


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _made(app)
    return app.openapi_schema


def allowed_methods(app: FastAPI, path: str) -> str:
    """The methods that a path takes, as the header `Allow` lists them; one without parameters goes before templates."""
    paths = describe(app)["paths"]
    matching = (
        [paths[path]]
        if path in paths
        else [
            operations
            for template, operations in paths.items()
            if re.fullmatch(_PARAMETER.sub("[^/]+", template), path)
        ]
    )
    return ", ".join(sorted(method.upper() for operations in matching for method in operations))


def _made(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = document["components"]
    components["securitySchemes"] = _SCHEMES
    document["security"] = [{name: []} for name in _SCHEMES]
    for operations in document["paths"].values():
        for operation in operations.values():
            # What does not validate is answered with 400 here, in the words of `ErrorAnswer`.
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    return document
