"""JSON-RPC 2.0 over text frames: frames become typed requests here, and answers become frames.

Decoding never raises: what cannot be understood is itself a value, `Malformed`, that carries its own answer.
"""

import json
import math
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NoReturn, TypeAlias

import attrs

from supervisor.conversation.json import JsonObject, JsonValue

MAX_BATCH: Final = 64
"""Requests in one batch; as many as a connection may have in flight, so that a batch fits."""

MAX_DEPTH: Final = 100
"""How deep JSON may be nested: what we carry on is encoded again, from deeper stacks than this one."""

RequestId: TypeAlias = str | int | float | None


class RpcCode(IntEnum):
    """The numeric codes of `protocol.md`, section Errors."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    APPLICATION = -32000


@attrs.frozen
class Failure:
    """The `error` member of an answer."""

    code: RpcCode
    message: str
    data: JsonObject | None = None


@attrs.frozen
class Request:
    """One well-formed call. `wants_answer` is False for a notification, which has no id."""

    id: RequestId
    method: str
    params: JsonObject
    wants_answer: bool


@attrs.frozen
class Malformed:
    """Something that is no request, and what to answer; `wants_answer` is False where nothing may be."""

    id: RequestId
    failure: Failure
    wants_answer: bool = True


Item: TypeAlias = Request | Malformed


@attrs.frozen
class Batch:
    """Several requests in one frame, answered in one frame."""

    items: tuple[Item, ...]


def decode(frame: str | bytes) -> Item | Batch:
    """Read one frame that a client sent. Never raises."""
    if isinstance(frame, bytes):
        return _malformed(RpcCode.PARSE_ERROR, "frames are text, this one is binary")
    try:
        value = parse_json(frame)
    except ValueError as error:
        return _malformed(RpcCode.PARSE_ERROR, f"the frame is not JSON: {error}")
    if isinstance(value, list):
        return _decode_batch(value)
    return _decode_item(value)


def parse_json(text: str) -> JsonValue:
    """Read JSON strictly: finite numbers, whole characters, nested no deeper than `MAX_DEPTH`.

    Raises:
        ValueError: it is not that.
    """
    try:
        value: JsonValue = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    if "\\u" in text:
        _check_characters(value)
    return value


def encode_json(value: JsonValue) -> str:
    """Write JSON compactly, in ASCII, and with whole characters even where a sandbox's output had none."""
    return repair_characters(_ENCODER.encode(value))


def repair_characters(text: str) -> str:
    """Replace halves of surrogate pairs in ASCII JSON text, which other parsers than Python's refuse."""
    return _ESCAPE.sub(_repaired, text) if "\\ud" in text else text


def encode_result(request: RequestId, result: str) -> str:
    """Write the frame that answers a request; `result` is JSON text."""
    return f'{{"jsonrpc":"2.0","id":{_encode_id(request)},"result":{result}}}'


def encode_failure(request: RequestId, failure: Failure) -> str:
    """Write the frame that refuses a request."""
    error: dict[str, JsonValue] = {"code": int(failure.code), "message": failure.message}
    if failure.data is not None:
        error["data"] = failure.data
    return f'{{"jsonrpc":"2.0","id":{_encode_id(request)},"error":{encode_json(error)}}}'


def encode_notification(method: str, params: str) -> str:
    """Write a frame that wants no answer; `params` is JSON text."""
    return f'{{"jsonrpc":"2.0","method":{encode_json(method)},"params":{params}}}'


def encode_batch(answers: Sequence[str]) -> str:
    """Join the answers to a batch into one frame."""
    return f"[{','.join(answers)}]"


def _encode_id(request: RequestId) -> str:
    return str(request) if type(request) is int else encode_json(request)


def _decode_batch(items: list[JsonValue]) -> Malformed | Batch:
    if not items:
        return _malformed(RpcCode.INVALID_REQUEST, "the batch is empty")
    if len(items) > MAX_BATCH:
        return _malformed(RpcCode.INVALID_REQUEST, f"a batch has at most {MAX_BATCH} requests, this one {len(items)}")
    return Batch(tuple(_decode_item(item) for item in items))


def _decode_item(value: JsonValue) -> Item:
    if not isinstance(value, dict):
        return _malformed(RpcCode.INVALID_REQUEST, "a request is a JSON object")
    request = value.get("id")
    if isinstance(request, bool) or not isinstance(request, str | int | float | None):
        return _malformed(RpcCode.INVALID_REQUEST, "an id is a string, a number or null")
    method, params = value.get("method"), value.get("params", {})
    if value.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return _malformed(RpcCode.INVALID_REQUEST, 'a request has "jsonrpc": "2.0" and a "method", a string', request)
    if isinstance(params, dict):
        return Request(request, method, params, wants_answer="id" in value)
    return _without_names(request, params, wants_answer="id" in value)


def _without_names(request: RequestId, params: JsonValue, *, wants_answer: bool) -> Malformed:
    if isinstance(params, list):
        failure = Failure(RpcCode.INVALID_PARAMS, "params are given by name, in an object", {"path": ""})
        return Malformed(request, failure, wants_answer)
    return _malformed(RpcCode.INVALID_REQUEST, "params are an object", request)


def _malformed(code: RpcCode, message: str, request: RequestId = None) -> Malformed:
    return Malformed(request, Failure(code, message))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_PLAIN_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)


_ESCAPE: Final = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(?P<half>ud[89a-f]..)|.)")


def _repaired(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape["half"] else escape[0]


def _check_characters(value: JsonValue) -> None:
    try:
        _PLAIN_ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None


_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_NO_BRACKET: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")


def _check_depth(text: str) -> None:
    """Take the innermost brackets of valid JSON away, again and again: a look at each value would take far longer."""
    brackets = _STRING.sub("", text).encode().translate(_SQUARE, _NO_BRACKET)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
