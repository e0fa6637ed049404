"""Requests of extreme sizes and shapes: each is answered, and holds up nobody else for long."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from supervisor.control.wire import MAX_BATCH, RpcCode
from tests.hostile.peer import client, frame, request
from tests.hostile.target import Target, vitals_of

HELD_UP_MOST = 3.0
"""Seconds for which no request of one client may keep another waiting; much less, on a host that is idle."""
MORE_AT_THE_PEAK = 160 * 1024
"""KiB that a request of 1 MiB may take while it is read."""
LARGEST = 1_000_000
PARSE, INVALID, PARAMS = RpcCode.PARSE_ERROR, RpcCode.INVALID_REQUEST, RpcCode.INVALID_PARAMS


def start(spec: object) -> str:
    """A start with a spec."""
    return request("conversation.start", {"spec": spec})


def nested(depth: int) -> str:
    """A request whose params are nested so deep."""
    return f'{{"jsonrpc":"2.0","id":1,"method":"daemon.info","params":{{"x":{"[" * (depth - 2)}{"]" * (depth - 2)}}}}}'


def entries(count: int, value: object) -> dict[str, object]:
    """An object of so many."""
    return {f"{number:x}": value for number in range(count)}


def numbered(number: str) -> str:
    """A request with this number for its id and its timeout."""
    return (
        f'{{"jsonrpc":"2.0","id":{number},"method":"conversation.pause","params":{{"id":"nobody","timeout":{number}}}}}'
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(nested(100), PARAMS, id="as-deep-as-may-be"),
        pytest.param(nested(101), PARSE, id="too-deep"),
        pytest.param(nested(500_000), PARSE, id="half-a-million-deep"),
        pytest.param("[" * LARGEST, PARSE, id="brackets-only"),
        pytest.param('{"a":' * 190_000, PARSE, id="braces-only"),
        pytest.param(numbered("1e400"), PARSE, id="infinity"),
        pytest.param(numbered("NaN"), PARSE, id="NaN"),
        pytest.param(numbered("9" * 4000), RpcCode.APPLICATION, id="4000-digits"),
        pytest.param(numbered("9" * 5000), PARSE, id="5000-digits"),
        pytest.param(numbered("9" * (LARGEST // 2)), PARSE, id="half-a-million-digits"),
        pytest.param(numbered("0." + "9" * (LARGEST // 2)), RpcCode.APPLICATION, id="half-a-million-decimals"),
        pytest.param(numbered("1e-400"), PARAMS, id="nothing"),
        pytest.param(numbered("-1"), PARAMS, id="negative"),
        pytest.param(request("daemon.info", {"x": "?"}).replace("?", "\\ud800"), PARSE, id="lone-surrogate"),
        pytest.param(request("daemon.info", {"x": "?"}).replace("?", "\\udc00\\ud800"), PARSE, id="swapped-surrogates"),
        pytest.param(request("x" * LARGEST), RpcCode.METHOD_NOT_FOUND, id="long-method"),
        pytest.param(request("conversation.get", {"id": "a" * LARGEST}), PARAMS, id="long-id"),
        pytest.param(request("conversation.start", {"labels": {"a" * LARGEST: ""}}), PARAMS, id="long-label"),
        pytest.param(request("conversation.start", entries(60_000, 0)), PARAMS, id="many-params"),
        pytest.param(request("conversation.start", {"x" * LARGEST: 0}), PARAMS, id="long-param"),
        pytest.param(request("events.subscribe", {"ids": ["a"] * 200_000}), PARAMS, id="many-ids"),
        pytest.param(start(entries(60_000, 0)), PARAMS, id="many-keys"),
        pytest.param(start({"x" * LARGEST: 0}), PARAMS, id="long-key"),
        pytest.param(start({"command": [0] * 300_000}), PARAMS, id="command-of-numbers"),
        pytest.param(start({"command": [[]] * 240_000}), PARAMS, id="command-of-lists"),
        pytest.param(start({"env": entries(60_000, 0)}), PARAMS, id="env-of-numbers"),
        pytest.param(start({"mounts": ["/a"] * 150_000}), PARAMS, id="mounts-that-are-none"),
        pytest.param(start({"image": "x " * 400_000}), PARAMS, id="long-image"),
        pytest.param(start({"memory": "1" * LARGEST}), PARAMS, id="long-size"),
    ],
)
def test_extreme_request_is_answered_briefly_and_soon(target: Target, text: str, code: RpcCode) -> None:
    """With its code; the answer does not repeat what came in, and nobody else has to wait, or pay in memory."""
    with bystander(target), client(target.unix) as peer:
        peer.say(text)
        answer = peer.read_message()
        assert answer["error"]["code"] == code
        assert len(json.dumps(answer["error"])) < 5000
        assert peer.ask("daemon.info")["id"] == 1


def test_wide_request_holds_up_nobody(target: Target) -> None:
    """A request body of hundreds of thousands of little lists is what a client may send."""
    with bystander(target), client(target.unix) as peer:
        answer = peer.ask("conversation.start", {"request": {"a": [[[[[[[[]]]]]]]] * 50_000}})
        assert answer["error"]["data"]["code"] == "engine_unavailable"


@pytest.mark.parametrize("count", [MAX_BATCH + 1, 3000, 15_000])
def test_batch_that_is_too_long_is_refused_once(target: Target, count: int) -> None:
    """One answer, not thousands; the connection goes on."""
    with client(target.unix) as peer:
        peer.say(f"[{','.join([request('daemon.info')] * count)}]")
        assert peer.read_message()["error"]["code"] == INVALID
        assert peer.ask("daemon.info")["id"] == 1


def test_thousands_of_pipelined_requests_are_all_answered(target: Target) -> None:
    """In batches and alone, from a client that writes all of them before it reads."""
    with client(target.unix) as peer:
        writing = threading.Thread(target=write_thousands, args=[peer.send])
        writing.start()
        ids = [answer["id"] for _ in range(2000) for answer in as_list(peer.read_message())]
        writing.join()
    assert Counter(ids) == Counter([*range(1000), *[0] * (1000 * 10)])


def write_thousands(send: object) -> None:
    """A thousand requests alone and a thousand batches of ten, in turn."""
    assert callable(send)
    batch = f"[{','.join([request('daemon.info', None, 0)] * 10)}]"
    for number in range(1000):
        send(frame(request("daemon.info", None, number)) + frame(batch))


def as_list(message: object) -> list[dict[str, object]]:
    """A batch's answers, or the one answer."""
    return message if isinstance(message, list) else [message]  # type: ignore[list-item]  # it is JSON


@contextmanager
def bystander(target: Target) -> Iterator[None]:
    """Another client asks all the time, and is never kept waiting; and the daemon's memory has no peak."""
    ended = threading.Event()
    longest = [0.0]

    def ask() -> None:
        with client(target.unix) as peer:
            while not ended.is_set():
                began = time.monotonic()
                peer.ask("daemon.info")
                longest[0] = max(longest[0], time.monotonic() - began)
                ended.wait(0.005)

    before = peak_of(target)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
    assert longest[0] < HELD_UP_MOST
    assert peak_of(target) - before < MORE_AT_THE_PEAK


def peak_of(target: Target) -> int:
    """The most memory that the daemon ever had, KiB."""
    return vitals_of(target.pid).peak
