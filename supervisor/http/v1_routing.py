"""What all V1 routes share: how they refuse, and the query parameters that several of them take."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema

from supervisor.http.models import WordedErrorAnswer
from supervisor.http.models_v1 import MOST_IDS
from supervisor.http.openapi import Responses, refusals

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.IGNORECASE)


def v1_refusals(*statuses: int) -> Responses:
    """The answers of a V1 route that are no success."""
    return refusals(*statuses, body=WordedErrorAnswer)


def _moment(value: object) -> datetime:
    """Read what browsers' `toISOString` writes; without an offset it is UTC.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise ValueError("must be a time like 2025-11-22T12:30:15.000Z")
    moment = datetime.fromisoformat(value.upper())
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment: TypeAlias = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
PageSize: TypeAlias = Annotated[int, Query(ge=1, le=MOST_IDS, description="A page with a filter may have fewer.")]
