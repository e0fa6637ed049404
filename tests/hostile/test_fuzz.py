"""The wire fuzzed: whatever comes in, the daemon lives, others are answered, and what is valid is answered itself."""

import json
from collections import Counter
from typing import Any, Final, Never
from unittest.mock import Mock

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from supervisor.control.messages import InvalidParams
from supervisor.control.methods import Methods, Session
from supervisor.control.wire import MAX_BATCH, Request, RpcCode
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.lifecycle import Act, Action, Command, Refuse, Status, decide
from supervisor.conversation.parse import parse_overrides
from supervisor.conversation.spec import SpecOverrides
from tests.control.scripted_service import ScriptedService
from tests.hostile.fuzzing import (
    FRAMES,
    FUZZ,
    FUZZ_LIVES,
    METHODS,
    SPEC,
    Item,
    Life,
    handshakes,
    lives,
    nearly_valid_items,
    valid_items,
)
from tests.hostile.peer import Peer, client, close_frame, frame
from tests.hostile.target import Target, end_what_piled_up

MALFORMED = frozenset(RpcCode) - {RpcCode.APPLICATION}
LIFE: Final = "life"
COMMANDS: Final = frozenset(map(str, Command))
BECOMES: Final = {
    Action.PAUSE: Status.PAUSED,
    Action.RESUME: Status.RUNNING,
    Action.STOP: Status.STOPPED,
    Action.BOOT: Status.RUNNING,
    Action.STOP_AND_BOOT: Status.RUNNING,
    Action.ARCHIVE: Status.ARCHIVED,
}


@FUZZ
@given(data=handshakes(), pieces=st.integers(1, 3))
def test_fuzzed_handshakes_get_an_http_answer_or_none(target: Target, data: bytes, pieces: int) -> None:
    """An upgrade, a refusal, or silence for what never became a request; on both sockets, in pieces or whole."""
    for place in (target.unix, target.tcp):
        with Peer(place) as peer:
            size = len(data) // pieces + 1
            for start in range(0, len(data), size):
                peer.send(data[start : start + size])
            peer.finish_sending()
            answer = peer.read_all()
        assert answer == b"" or answer[:13] in {b"HTTP/1.1 %d " % code for code in (101, 400, 403, 404, 426)}


@FUZZ
@given(frames=FRAMES, end=st.sampled_from(("close", "eof", "reset", "nothing")))
def test_fuzzed_frames_end_at_most_their_own_connection(target: Target, frames: list[bytes], end: str) -> None:
    """Right frames, wrong ones, halves of them and noise, and then every way of hanging up."""
    with client(target.unix) as bystander:
        for headers, place in (((), target.unix), ((target.bearer,), target.tcp)):
            with client(place, *headers) as peer:
                peer.send(b"".join(frames))
                if end == "reset":
                    peer.reset()
                elif end != "nothing":
                    peer.send(close_frame() if end == "close" else b"")
                    peer.finish_sending()
                    assert peer.read_all() is not None
        assert bystander.ask("daemon.info")["id"] == 1


@FUZZ
@given(data=st.binary(max_size=300), tail=FRAMES)
def test_fuzzed_input_without_a_token_gets_nothing(target: Target, data: bytes, tail: list[bytes]) -> None:
    """Over TCP nothing that comes before the token is answered with a message."""
    with client(target.tcp) as peer:
        peer.send(frame(data) + b"".join(tail))
        peer.finish_sending()
        code, messages = peer.end_code()
    assert messages == 0
    assert code in (None, 1000, 1002, 1005, 1007, 1009, 4401)


@FUZZ
@given(items=st.lists(valid_items(), min_size=1, max_size=6, unique_by=lambda item: repr(item.id)))
def test_fuzzed_valid_requests_are_all_answered(willing_target: Target, items: list[Item]) -> None:
    """Each exactly once, by its id, and never as malformed or with an incident."""
    end_what_piled_up(willing_target)
    with client(willing_target.unix) as peer:
        for item in items:
            assert peer.say(item.text)
        answers = read_answers(peer, items)
    for answer in answers:
        assert answer.get("error", {}).get("code") not in MALFORMED, (answer, items)


@FUZZ
@given(items=st.lists(nearly_valid_items(), min_size=1, max_size=6))
def test_fuzzed_nearly_valid_requests_are_all_answered(willing_target: Target, items: list[Item]) -> None:
    """Each exactly once, on a connection that goes on."""
    end_what_piled_up(willing_target)
    with client(willing_target.unix) as peer:
        for item in items:
            assert peer.say(item.text)
        read_answers(peer, items)


@FUZZ
@given(items=st.lists(valid_items() | nearly_valid_items(), min_size=1, max_size=MAX_BATCH // 8))
def test_fuzzed_batches_are_answered_in_one_frame(target: Target, items: list[Item]) -> None:
    """With as many answers as there are requests in it; one that is no JSON is answered once."""
    text = f"[{','.join(item.text for item in items)}]"
    with client(target.unix) as peer:
        assert peer.say(text)
        due = [item for item in items if item.answered]
        answers = read_batch(peer, text) if due or not is_json(text) else []
        assert len(answers) == (len(due) if is_json(text) else 1)
        for answer in answers:
            check_answer(answer)


@FUZZ_LIVES
@given(life=lives(LIFE))
def test_fuzzed_lives_go_as_the_table_says(willing_target: Target, life: Life) -> None:
    """Whatever spec, labels and request are valid, the start succeeds, and each command does what its verdict is."""
    with client(willing_target.unix) as peer:
        peer.ask("conversation.stop", {"id": LIFE, "force": True})
        peer.ask("conversation.delete", {"id": LIFE})
        started = peer.ask("conversation.start", life.start)["result"]
        assert (started["status"], started["labels"]) == (Status.RUNNING, life.start.get("labels", {}))
        status = Status.RUNNING
        for method, params in life.steps:
            answer = peer.ask(method, params)
            check_answer(answer)
            status = status_after(method, params, status, answer)
            assert peer.ask("conversation.get", {"id": LIFE})["result"]["status"] == status, (method, params)
        peer.ask("conversation.stop", {"id": LIFE, "force": True})
        assert peer.ask("conversation.delete", {"id": LIFE})["result"] == {}


def status_after(method: str, params: JsonObject, status: Status, answer: Any) -> Status:  # noqa: ANN401 - JSON
    """Check a step's answer against the life cycle's table; answers with where the conversation stands then."""
    name = method.removeprefix("conversation.")
    if name not in COMMANDS:
        assert "result" in answer, answer
        return status
    force = params.get("force") is True
    if name == "stop" and force:
        assert "result" in answer, answer
        return status if status is Status.ARCHIVED else Status.STOPPED
    match decide(Command(name), status, force=force):
        case Refuse():
            assert answer["error"]["data"]["code"] == ErrorCode.INVALID_TRANSITION, answer
            return status
        case Act(action):
            assert answer["result"]["status"] == BECOMES[action], answer
            return BECOMES[action]
        case _ if name == "connect":
            # Without a port there is nothing to connect to.
            return status
        case _:
            assert answer["result"]["status"] == status, answer
            return status


async def test_the_fuzzed_schema_is_the_codes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method with all its parameters and which of them it needs: no side knows one that the other does not."""
    asked: list[type] = []

    def note(_: JsonObject, kind: type) -> Never:
        asked.append(kind)
        raise InvalidParams("", "was only asked for its kind")

    monkeypatch.setattr("supervisor.control.methods.structure_params", note)
    methods = Methods(ScriptedService(), lambda _: SpecOverrides())
    assert METHODS.keys() == methods._table.keys()
    await trio.lowlevel.checkpoint()
    for method in METHODS:
        await methods.answer(Mock(spec=Session), Request(1, method, {}, wants_answer=True))
    known = {
        method: {field.name: field.default is attrs.NOTHING for field in attrs.fields(kind)}
        for method, kind in zip(METHODS, asked, strict=True)
    }
    assert known == {
        method: {name: param.required for name, param in params.items()} for method, params in METHODS.items()
    }


def test_the_fuzzed_spec_is_the_codes_own() -> None:
    """It has every key that a start's `spec` may have."""
    assert SPEC.keys() == attrs.fields_dict(SpecOverrides).keys()


@pytest.mark.parametrize("key", SPEC)
def test_fuzzed_spec_is_one(key: str) -> None:
    """All that is drawn for a key is read as a value of that key."""

    @FUZZ
    @given(value=SPEC[key])
    def each_is_read(value: JsonValue) -> None:
        assert getattr(parse_overrides({key: value}), key) is not None

    each_is_read()


def read_answers(peer: Peer, items: list[Item]) -> list[Any]:
    """The answers to the items in whatever order they come, each checked, between the events of subscriptions."""
    due = [item for item in items if item.answered]
    answers: list[Any] = []
    while len(answers) < len(due):
        message = peer.read_message()
        if "method" not in message:
            check_answer(message)
            answers.append(message)
    known = Counter(key_of(item.id) for item in due if item.id_is_known)
    assert not known - Counter(key_of(answer["id"]) for answer in answers), (answers, items)
    return answers


def read_batch(peer: Peer, text: str) -> list[Any]:
    """The one frame that answers a batch, between the events of subscriptions."""
    message = peer.read_message()
    while isinstance(message, dict) and "method" in message:
        message = peer.read_message()
    if not is_json(text):
        return [message]
    assert isinstance(message, list), message
    return message


def check_answer(answer: Any) -> None:  # noqa: ANN401 - JSON
    """An answer is a JSON-RPC result or an error of the protocol, and no bug of the daemon's."""
    assert answer["jsonrpc"] == "2.0"
    assert ("result" in answer) != ("error" in answer)
    if "error" in answer:
        error = answer["error"]
        assert isinstance(error["message"], str)
        assert error["code"] in frozenset(RpcCode)
        if error["code"] == RpcCode.APPLICATION:
            assert error["data"]["code"] in frozenset(ErrorCode) - {ErrorCode.INTERNAL}, answer


def is_json(text: str) -> bool:
    """Whether the daemon can read it at all."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def key_of(identity: JsonValue) -> str:
    """An id as it is compared: 1 and 1.0 are different ones."""
    return json.dumps(identity)
