"""What the fuzzers draw from: the schema of the control protocol, frames and handshakes. No pytest in here.

Each run tries other examples. One that fails is printed with the `@reproduce_failure` line which tries it again, put
above its test. `CONVERSATIOND_FUZZ=5000 pytest tests/hostile -k fuzz` tries so many of each kind.
"""

import json
import os
from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from supervisor.conversation.json import JsonValue
from supervisor.conversation.lifecycle import Status
from tests.hostile.peer import Opcode, close_frame, frame, handshake

_EXAMPLES: Final = int(os.environ.get("CONVERSATIOND_FUZZ", "150"))

FUZZ: Final = settings(
    deadline=None,
    derandomize=False,
    max_examples=_EXAMPLES,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
FUZZ_LIVES: Final = settings(FUZZ, max_examples=max(1, _EXAMPLES // 3))
"""A life takes several boots, each of which waits a moment to see whether it lasts."""

Json: TypeAlias = st.SearchStrategy[JsonValue]


@attrs.frozen
class Item:
    """One JSON value to send. `answered` says whether an answer is due, with the id `id` unless that is unknowable."""

    text: str
    valid: bool
    answered: bool
    id: JsonValue = None
    id_is_known: bool = True


@attrs.frozen
class Life:
    """A start that everything allows, and what is asked of the conversation then: methods with their parameters."""

    start: dict[str, JsonValue]
    steps: tuple[tuple[str, dict[str, JsonValue]], ...]


@attrs.frozen
class Param:
    """A parameter of a method: what is valid for it, and whether it has to be there."""

    values: Json
    required: bool = False


# Text that JSON, files and processes all take.
_CHARACTERS: Final = st.characters(codec="utf-8", exclude_characters="\0")
_TEXT: Final = st.text(_CHARACTERS, max_size=40)
_NAME: Final = st.text(_CHARACTERS, min_size=1, max_size=40)
_VARIABLE: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1, max_size=40)
_SHORT_TEXT: Final = st.text(min_size=1, max_size=40)
_NUMBERS: Final = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_ANYTHING: Final[Json] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_HUGE: Final[Json] = st.sampled_from(
    (10**4000, -(10**4000), 2**63, 2**64, -1, 0, 1e308, 5e-324, "x" * 70_000, "\0", "..", "-rf", "$(id)", [], {}, None)
)
_FREQUENT: Final = (*(status.lower() for status in Status), "c1", "c2", "c3")
_ID: Final[Json] = st.sampled_from(_FREQUENT) | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_FLAG: Final[Json] = st.booleans()
_SECONDS: Final[Json] = st.floats(min_value=0.001, max_value=1e12) | st.integers(1, 10**12)
_LABELS: Final[Json] = st.dictionaries(_NAME, _TEXT, max_size=4)
_SEQ: Final[Json] = st.integers(0, 2**63 - 1)
_ABSOLUTE: Final = st.from_regex(r"\A(/[a-z0-9]{1,8}){1,3}\Z")
SPEC: Final[Mapping[str, Json]] = {
    "provider": st.sampled_from(("docker", "process", "remote", "auto", "none")),
    "image": st.from_regex(r"\A[a-z]{1,9}(/[a-z]{1,9})?(:[a-z0-9]{1,9})?\Z"),
    "pull": st.sampled_from(("missing", "always", "never")),
    "command": st.lists(_TEXT, max_size=5),
    "env": st.dictionaries(_VARIABLE, _TEXT, max_size=4),
    "port": st.integers(0, 65535),
    "user": _TEXT,
    "workspace": _ABSOLUTE,
    "memory": st.integers(6 * 2**20, 2**40) | st.sampled_from(("64MiB", "2GiB", "1GB")),
    "cpus": st.floats(min_value=0.01, max_value=1024.0),
    "pids_limit": st.integers(1, 4_194_304),
    "network": st.sampled_from(("bridge", "none", "host", "container:x")),
    "init": _FLAG,
    "mounts": st.lists(
        st.builds("{}:{}{}".format, _ABSOLUTE, _ABSOLUTE, st.sampled_from(("", ":ro", ":rw"))), max_size=3
    ),
    "entrypoint": st.lists(_TEXT, max_size=3),
    "working_dir": _ABSOLUTE | st.sampled_from(("", "/")),
    "runtime": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z") | st.just(""),
}
"""Every key of a caller's `spec`."""
_VALID_SPEC: Final = st.fixed_dictionaries({}, optional=dict(SPEC))
_SPEC: Final[Json] = _VALID_SPEC
_WILLING_SPEC: Final[Json] = st.fixed_dictionaries({}, optional={**SPEC, "provider": st.just("docker")})
_NAMED: Final = {"id": Param(_ID, required=True)}
_TIMED: Final = {**_NAMED, "timeout": Param(_SECONDS)}
_FORCIBLE: Final = {**_TIMED, "force": Param(_FLAG)}

METHODS: Final[Mapping[str, Mapping[str, Param]]] = {
    "authenticate": {"token": Param(_TEXT, required=True)},
    "daemon.info": {},
    "conversation.start": {
        "id": Param(_ID),
        "agent": Param(st.sampled_from(("none", "none", "none", "v1")) | _SHORT_TEXT),
        "spec": Param(_SPEC),
        "request": Param(st.dictionaries(st.text(max_size=8), _ANYTHING, max_size=4)),
        "labels": Param(_LABELS),
        "wait": Param(_FLAG),
        "timeout": Param(_SECONDS),
        "idempotency_key": Param(_SHORT_TEXT),
    },
    "conversation.pause": _TIMED,
    "conversation.resume": _TIMED,
    "conversation.stop": _FORCIBLE,
    "conversation.restart": _FORCIBLE,
    "conversation.archive": _TIMED,
    "conversation.delete": _NAMED,
    "conversation.get": _NAMED,
    "conversation.list": {
        "status": Param(st.lists(st.sampled_from(tuple(map(str, Status))), max_size=8)),
        "labels": Param(_LABELS),
        "limit": Param(st.integers(1, 1000)),
        "cursor": Param(_TEXT | st.integers(0, 10**25).map(str)),
    },
    "conversation.connect": _NAMED,
    "conversation.logs": {**_NAMED, "tail": Param(st.integers(0, 10_000)), "follow": Param(_FLAG)},
    "conversation.history": {**_NAMED, "since": Param(_SEQ), "limit": Param(st.integers(1, 1000))},
    "events.subscribe": {
        "since": Param(_SEQ),
        "ids": Param(st.lists(_ID, max_size=4)),
        "snapshot": Param(_FLAG),
    },
    "events.unsubscribe": {"subscription": Param(st.sampled_from(("s1", "s2")) | _SHORT_TEXT, required=True)},
}
"""Every method of the protocol with its parameters."""

_STEPS: Final = (
    *("conversation.pause", "conversation.resume", "conversation.stop", "conversation.restart"),
    *("conversation.archive", "conversation.get", "conversation.connect", "conversation.logs", "conversation.history"),
)

IDENTITIES: Final[Json] = st.integers() | st.text(max_size=20) | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def valid_items(draw: st.DrawFn) -> Item:
    """A request, or a notification, exactly as the protocol has it."""
    call = draw(_calls())
    if draw(st.integers(0, 9)) == 0:
        return Item(json.dumps(call), valid=True, answered=False)
    identity = draw(IDENTITIES)
    return Item(_written(draw, {**call, "id": identity}), valid=True, answered=True, id=identity)


@st.composite
def lives(draw: st.DrawFn, name: str) -> Life:
    """One conversation's life, without the parameters that make it another's or too short."""
    left_out = {"idempotency_key", "wait", "timeout", "follow"}
    start = draw(_params("conversation.start", left_out | {"id", "agent", "spec"}))
    start |= {"id": name, "agent": "none", "spec": draw(_WILLING_SPEC)}
    methods = draw(st.lists(st.sampled_from(_STEPS), max_size=8))
    return Life(start, tuple((method, {**draw(_params(method, left_out)), "id": name}) for method in methods))


@st.composite
def nearly_valid_items(draw: st.DrawFn) -> Item:
    """A request with one thing wrong, or with one thing that looks wrong."""
    call: dict[str, JsonValue] = {**draw(_calls()), "id": draw(IDENTITIES)}
    where = draw(st.sampled_from(("jsonrpc", "method", "params", "id", "value", "extra", "spec", "character")))
    if where == "character":
        text = json.dumps(dict(call, extra="?")).replace(
            "?", draw(st.sampled_from(("\\ud800", "\\udfff", "\\x", "\t")))
        )
        return Item(text, valid=False, answered=True, id_is_known=False)
    if where in ("value", "extra"):
        call["params"] = draw(_bent_params(call["method"], call.get("params", {}), extra=where == "extra"))
    elif where == "spec":
        bent = {draw(st.sampled_from(sorted(SPEC))): draw(_ANYTHING | _HUGE)}
        call |= {"method": "conversation.start", "params": {"id": draw(_ID), "spec": {**draw(_VALID_SPEC), **bent}}}
    elif draw(st.booleans()) and where != "id":
        call.pop(where, None)
    else:
        call[where] = draw(_ANYTHING | _HUGE)
    return Item(_written(draw, call), valid=False, answered=True, id=call["id"], id_is_known=where != "id")


@st.composite
def _params(draw: st.DrawFn, method: str, left_out: Collection[str] = ()) -> dict[str, JsonValue]:
    return {
        name: draw(param.values)
        for name, param in METHODS[method].items()
        if name not in left_out and (param.required or draw(st.booleans()))
    }


@st.composite
def _calls(draw: st.DrawFn) -> dict[str, JsonValue]:
    method = draw(st.sampled_from(sorted(METHODS)))
    given = draw(_params(method))
    call: dict[str, JsonValue] = {"jsonrpc": "2.0", "method": method}
    if given or not draw(st.booleans()):
        call["params"] = given
    return call


@st.composite
def _bent_params(draw: st.DrawFn, method: JsonValue, params: JsonValue, *, extra: bool) -> JsonValue:
    assert isinstance(method, str)
    assert isinstance(params, dict)
    names = sorted(METHODS[method]) if not extra and METHODS[method] else ["", "x", "__class__", "id\0"]
    return {**params, draw(st.sampled_from(names)): draw(_ANYTHING | _HUGE)}


def _written(draw: st.DrawFn, value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from((None, 1))))


_PAYLOADS: Final = st.binary(max_size=200) | st.text(max_size=60).map(str.encode)
_LENGTHS: Final = (
    st.none() | st.integers(0, 300) | st.sampled_from((65_535, 65_536, 2**32, 2**63 - 1, 2**63, 2**64 - 1))
)
_RIGHT_FRAMES: Final = st.builds(frame, _PAYLOADS, st.sampled_from(Opcode), fin=st.booleans())
_WRONG_FRAMES: Final = st.builds(
    frame,
    _PAYLOADS,
    st.integers(0, 15),
    fin=st.booleans(),
    reserved=st.integers(0, 7),
    mask=st.booleans(),
    length=_LENGTHS,
)
_CUT_FRAMES: Final = st.builds(lambda whole, count: whole[:count], _WRONG_FRAMES, st.integers(1, 20))
FRAMES: Final = st.lists(
    _RIGHT_FRAMES | _WRONG_FRAMES | _CUT_FRAMES | st.binary(max_size=60) | st.just(close_frame()),
    min_size=1,
    max_size=8,
)
"""What a client may send once it has shaken hands."""

_LINES: Final = st.sampled_from(
    (
        b"Host: localhost", b"Host: \xff\xfe", b"Host:", b"host : x", b"Origin: null", b"Content-Length: 5",
        b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, gzip", b"Upgrade: websocket", b"Upgrade: h2c", b"Connection: close",
        b"Connection: Upgrade, HTTP2-Settings", b"Expect: 100-continue", b"Sec-WebSocket-Key: x",
        b"Sec-WebSocket-Version: 99", b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Protocol: ,,,",
        b"Authorization: Bearer", b"Authorization: Bearer \xe9\xe8", b" folded", b"\tfolded", b"X: " + b"y" * 5000,
        b"X" * 70_000 + b": y", b": nameless", b"X: \0", b"X: a\rb",
    )
)  # fmt: skip
_STARTS: Final = st.sampled_from(
    (
        b"GET /control HTTP/1.1", b"GET /control HTTP/1.0", b"GET /control HTTP/2.0", b"GET /control",
        b"PRI * HTTP/2.0",
        b"GET http://evil.example/control HTTP/1.1", b"GET /control?token=x HTTP/1.1", b"GET //control HTTP/1.1",
        b"GET /../control HTTP/1.1", b"GET /control%00 HTTP/1.1", b"POST /control HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"CONNECT localhost:1 HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00", b"GET " + b"/" * 70_000 + b" HTTP/1.1",
    )
)  # fmt: skip


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """A handshake with lines added, replaced, left out or bent, or plain noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    lines = handshake().split(b"\r\n")[:-2]
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(lines)))
        lines[place : place + draw(st.integers(0, 1))] = [draw(_LINES)]
    if draw(st.integers(0, 3)) == 0:
        lines[0] = draw(_STARTS)
    end = draw(st.sampled_from((b"\r\n", b"\r\n", b"\n", b"\r", b"\0")))
    noise = draw(st.binary(max_size=30) | FRAMES.map(b"".join))
    return end.join([*lines, b"", b""]) + noise
