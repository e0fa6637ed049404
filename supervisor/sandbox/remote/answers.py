"""The host's JSON, translated once. Hosts differ: what is missing, or of another kind, is as if it were not there."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs

from supervisor.conversation.spec import LocalImage

_Table: TypeAlias = Mapping[str, Any]
_EMPTY: Final[_Table] = {}


class Garbled(Exception):
    """What came is not what the runtime API says."""


@attrs.frozen
class Runtime:
    """A runtime: the host's word for a sandbox, whose name there is `session_id`."""

    runtime_id: str
    session_id: str
    status: str
    pod_status: str
    url: str | None
    session_api_key: str | None = attrs.field(repr=False)
    restart_count: int
    restart_reasons: tuple[str, ...]
    pod_logs: str = attrs.field(repr=False)


@attrs.frozen
class Refusal:
    """What the host says of a request that it refuses; all empty if it says nothing that can be read."""

    code: str
    path: str
    message: str


def parse_runtime(body: bytes) -> Runtime:
    """Read the answer that is one runtime.

    Raises:
        Garbled: it is something else.
    """
    runtime = _runtime(_table(body))
    if runtime is None:
        raise Garbled("not a runtime")
    return runtime


def parse_runtimes(body: bytes) -> tuple[Runtime, ...]:
    """Read the answer that is a list; what of it is no runtime is left out.

    Raises:
        Garbled: it is something else.
    """
    listed = _table(body).get("runtimes")
    if not isinstance(listed, list):
        raise Garbled("not a list of runtimes")
    found = (_runtime(each) for each in listed if isinstance(each, dict))
    return tuple(runtime for runtime in found if runtime is not None)


def parse_image(body: bytes) -> LocalImage | None:
    """Read whether the host has an image.

    Raises:
        Garbled: it is something else.
    """
    told = _table(body)
    if not isinstance(told.get("exists"), bool):
        raise Garbled("not word of an image")
    details = told.get("image")
    details = details if isinstance(details, dict) else _EMPTY
    image = LocalImage(_text(details, "upload_time"), _number(details, "image_size_bytes"))
    return image if told["exists"] else None


def parse_refusal(body: bytes) -> Refusal | None:
    """Read why the host refuses; None if its body is no object at all, which no runtime API says."""
    try:
        told = _table(body)
    except Garbled:
        return None
    error = told.get("error")
    error = error if isinstance(error, dict) else _EMPTY
    words = _text(error, "message") or _text(told, "detail") or _text(told, "error")
    return Refusal(_text(error, "code"), _text(error, "path"), words)


def _table(body: bytes) -> _Table:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Garbled("no JSON") from error
    if not isinstance(value, dict):
        raise Garbled("not an object")
    return value


def _runtime(told: _Table) -> Runtime | None:
    runtime_id, session_id = _text(told, "runtime_id"), _text(told, "session_id")
    if not runtime_id or not session_id:
        return None
    reasons = told.get("restart_reasons")
    return Runtime(
        runtime_id=runtime_id,
        session_id=session_id,
        status=_text(told, "status").lower(),
        pod_status=_text(told, "pod_status").lower(),
        url=_text(told, "url") or None,
        session_api_key=_text(told, "session_api_key") or None,
        restart_count=_number(told, "restart_count"),
        restart_reasons=tuple(each for each in reasons if isinstance(each, str)) if isinstance(reasons, list) else (),
        pod_logs=_text(told, "pod_logs"),
    )


def _text(told: _Table, key: str) -> str:
    value = told.get(key)
    return value if isinstance(value, str) else ""


def _number(told: _Table, key: str) -> int:
    value = told.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
