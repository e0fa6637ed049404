"""JSON-RPC frames."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.control.wire import (
    MAX_BATCH,
    MAX_DEPTH,
    Batch,
    Failure,
    Malformed,
    Request,
    RpcCode,
    decode,
    encode_batch,
    encode_failure,
    encode_json,
    encode_notification,
    encode_result,
    parse_json,
)

CALL = {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"a": 1}}


def call(**changes: object) -> str:
    """A request with some members changed; None takes one away."""
    return json.dumps({name: value for name, value in {**CALL, **changes}.items() if value is not None})


def refused(frame: str | bytes) -> tuple[RpcCode, object]:
    """The code that a frame is refused with, and the id that is answered."""
    item = decode(frame)
    assert isinstance(item, Malformed)
    return item.failure.code, item.id


def test_decode_reads_a_request() -> None:
    """A whole request comes out as it went in."""
    assert decode(call()) == Request(1, "m", {"a": 1}, wants_answer=True)


@pytest.mark.parametrize("number", ["x", 1, 1.5, -7])
def test_decode_keeps_ids_of_every_allowed_kind(number: object) -> None:
    """Ids are strings or numbers."""
    assert decode(call(id=number)) == Request(number, "m", {"a": 1}, wants_answer=True)  # type: ignore[arg-type]  # by parameter


def test_decode_answers_a_request_whose_id_is_null() -> None:
    """Null is an id, if a strange one."""
    item = decode('{"jsonrpc":"2.0","id":null,"method":"m"}')
    assert item == Request(None, "m", {}, wants_answer=True)


def test_decode_takes_a_request_without_id_for_a_notification() -> None:
    """Without an id nothing is answered."""
    assert decode('{"jsonrpc":"2.0","method":"m"}') == Request(None, "m", {}, wants_answer=False)


@pytest.mark.parametrize(
    "frame",
    [
        "", "{", "nul", '{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":1e999}', '"\\ud800"',
        '{"\\udc00":1}', "[" * 100_000, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "1" * 5000, b"{}",
        '{"a":' * 200_000,
    ],
)  # fmt: skip
def test_decode_answers_what_is_no_json_with_a_parse_error(frame: str | bytes) -> None:
    """Malformed JSON, numbers that are none, broken characters and bottomless nesting are one and the same."""
    assert refused(frame) == (RpcCode.PARSE_ERROR, None)


def test_decode_accepts_json_nested_up_to_the_limit() -> None:
    """The limit itself is allowed, and so are whole surrogate pairs."""
    deep = "[" * MAX_DEPTH + '"\\ud83d\\ude00"' + "]" * MAX_DEPTH
    assert parse_json(deep) is not None


def test_decode_accepts_wide_json_that_is_not_deep() -> None:
    """Many brackets are not many levels."""
    assert parse_json(json.dumps([{}] * 500)) == [{}] * 500


@pytest.mark.parametrize("frame", ["1", "null", '"x"', "true"])
def test_decode_refuses_json_that_is_no_object(frame: str) -> None:
    """A request is an object."""
    assert refused(frame) == (RpcCode.INVALID_REQUEST, None)


@pytest.mark.parametrize("number", [True, [1], {"a": 1}])
def test_decode_refuses_ids_of_other_kinds(number: object) -> None:
    """A bool is no number; the answer then has no id."""
    assert refused(call(id=number)) == (RpcCode.INVALID_REQUEST, None)


@pytest.mark.parametrize(
    "changes", [{"jsonrpc": None}, {"jsonrpc": "1.0"}, {"method": None}, {"method": 1}, {"params": 1}, {"params": "x"}]
)
def test_decode_refuses_what_is_no_request(changes: dict[str, object]) -> None:
    """Whatever is missing or of the wrong kind, the id is answered."""
    assert refused(call(**changes)) == (RpcCode.INVALID_REQUEST, 1)


def test_decode_refuses_params_by_position() -> None:
    """Params have names here; a notification with such params is not answered."""
    assert refused(call(params=[1])) == (RpcCode.INVALID_PARAMS, 1)
    assert decode('{"jsonrpc":"2.0","method":"m","params":[]}') == Malformed(
        None, Failure(RpcCode.INVALID_PARAMS, "params are given by name, in an object", {"path": ""}), False
    )


def test_decode_lets_the_last_of_duplicate_keys_win() -> None:
    """As every JSON parser does."""
    item = decode('{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}')
    assert isinstance(item, Request)
    assert item.method == "b"


def test_decode_reads_a_batch_item_by_item() -> None:
    """A bad item spoils only itself."""
    batch = decode(f"[{call()}, 1]")
    assert isinstance(batch, Batch)
    assert isinstance(batch.items[0], Request)
    assert isinstance(batch.items[1], Malformed)


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_decode_refuses_batches_of_the_wrong_size(count: int) -> None:
    """Empty ones and those that are too large, with one answer."""
    assert refused(json.dumps([CALL] * count)) == (RpcCode.INVALID_REQUEST, None)


@given(st.text() | st.binary())
def test_decode_never_raises_on_anything(frame: str | bytes) -> None:
    """Whatever comes, what comes out is one of three things."""
    assert isinstance(decode(frame), Request | Malformed | Batch)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params"]), inner),
    )
)
def test_decode_never_raises_on_any_json(value: object) -> None:
    """Nor on JSON of any shape, and every refusal can be written."""
    item = decode(json.dumps(value))
    for one in item.items if isinstance(item, Batch) else (item,):
        if isinstance(one, Malformed):
            assert json.loads(encode_failure(one.id, one.failure))["error"]["code"] < 0


def test_encode_writes_the_frames_of_the_protocol() -> None:
    """Results, errors with and without data, notifications and batches."""
    assert json.loads(encode_result("a", '{"x":1}')) == {"jsonrpc": "2.0", "id": "a", "result": {"x": 1}}
    assert json.loads(encode_failure(2, Failure(RpcCode.PARSE_ERROR, "m"))) == {
        "jsonrpc": "2.0", "id": 2, "error": {"code": -32700, "message": "m"},
    }  # fmt: skip
    with_data = json.loads(encode_failure(None, Failure(RpcCode.APPLICATION, "m", {"code": "busy"})))
    assert with_data["error"]["data"] == {"code": "busy"}
    assert json.loads(encode_notification("event", "{}")) == {"jsonrpc": "2.0", "method": "event", "params": {}}
    assert json.loads(encode_batch(["1", "2"])) == [1, 2]


@given(st.text(alphabet=st.characters(codec=None, categories=None)))
def test_encode_makes_any_text_sendable(text: str) -> None:
    """What a sandbox prints may be half characters: on the wire they are whole, and the rest is as it was."""
    assert json.loads(encode_json(text)) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_encode_replaces_half_a_surrogate_pair_and_nothing_else() -> None:
    """Backslashes before a `u` are none of its business."""
    assert parse_json(encode_json("\ud800|\udc00|\U0001f600|\\ud800")) == "\ufffd|\ufffd|\U0001f600|\\ud800"
