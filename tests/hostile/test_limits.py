"""The limits on connections, subscriptions and commands in flight hold, and whoever keeps to them is served."""

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from supervisor.actors.mailbox import MAILBOX_LIMIT
from supervisor.control.connection import ConnectionLimits
from tests.daemon_log import incidents
from tests.hostile.peer import Peer, client, frame, request, within
from tests.hostile.target import ENGINE_SOCKET, Target, assert_answers, assert_settled, running_target

CONNECTIONS = 8
LIMITS = ConnectionLimits()


@pytest.fixture
def narrow() -> Iterator[Target]:
    """A daemon with few places, whose commands may take their time."""
    with running_target(f"max_connections = {CONNECTIONS}") as target:
        yield target
        assert_settled(target)
        assert incidents(target.process.log) == []


def code_of(answer: dict[str, dict[str, dict[str, str]]]) -> str | None:
    """The error of an answer, None if it is a result."""
    return answer["error"]["data"]["code"] if "error" in answer else None


def test_connections_beyond_the_limit_are_refused_and_harm_none(narrow: Target) -> None:
    """503 for who comes too many to one listener, those without a token counted; a place that is left can be had."""
    peers = [Peer(narrow.unix).upgrade() for _ in range(CONNECTIONS)]
    silent = [Peer(narrow.tcp).upgrade() for _ in range(CONNECTIONS)]
    try:
        for place in (narrow.unix, narrow.tcp):
            with Peer(place) as late:
                assert late.read_all().startswith(b"HTTP/1.1 503 ")
        flood = [Peer(narrow.unix) for _ in range(200)]
        assert all(peer.ask("daemon.info")["id"] == 1 for peer in peers)
        for peer in flood:
            peer.socket.close()
    finally:
        for peer in (*peers, *silent):
            peer.socket.close()
    for _ in within():
        with Peer(narrow.unix) as peer:
            peer.send(b"x\r\n\r\n")
            if not peer.read_all().startswith(b"HTTP/1.1 503 "):
                break
    assert_answers(narrow.unix)


def test_crowd_at_the_tcp_port_keeps_nobody_from_the_unix_socket(narrow: Target) -> None:
    """Strangers without a token may take every place of their listener, and no other."""
    strangers = [Peer(narrow.tcp) for _ in range(CONNECTIONS + 50)]
    try:
        assert_answers(narrow.unix)
    finally:
        for peer in strangers:
            peer.socket.close()


def test_subscriptions_of_a_connection_are_limited(narrow: Target) -> None:
    """Those of events and of logs together; one that is ended leaves its place, and others have their own."""
    with client(narrow.unix) as peer, client(narrow.unix) as other:
        opened = [peer.ask("events.subscribe")["result"]["subscription"] for _ in range(LIMITS.subscriptions)]
        assert len(set(opened)) == LIMITS.subscriptions
        assert code_of(peer.ask("events.subscribe")) == "busy"
        assert code_of(peer.ask("conversation.logs", {"id": "running", "follow": True})) == "busy"
        assert code_of(other.ask("events.subscribe")) is None
        assert code_of(peer.ask("events.unsubscribe", {"subscription": opened[0]})) is None
        assert code_of(peer.ask("events.subscribe")) is None


def test_subscription_that_is_ended_while_it_opens_is_answered(narrow: Target) -> None:
    """Its name can be guessed; who asked for it must not wait for ever, nor lose a place in flight."""
    with client(narrow.unix) as peer:
        for turn in range(1, 2 * LIMITS.in_flight):
            peer.say(request("conversation.logs", {"id": "starting", "follow": True}, "logs"))
            peer.say(request("events.unsubscribe", {"subscription": f"s{turn}"}, "end"))
            assert {peer.read_message()["id"] for _ in range(2)} == {"logs", "end"}


def test_commands_in_flight_are_limited(narrow: Target) -> None:
    """By connection and by conversation: what is too much is busy at once, all else is answered in the end."""
    with stalled_engine(narrow), client(narrow.unix) as first, client(narrow.unix) as second:
        stop = frame(request("conversation.stop", {"id": "paused"}))
        first.send(stop * (LIMITS.in_flight + 10))
        assert Counter(code_of(first.read_message()) for _ in range(10)) == {"busy": 10}
        # One is being carried out and left the mailbox its place.
        second.send(stop * 10)
        full = [code_of(second.read_message()) for _ in range(10 - (MAILBOX_LIMIT + 1 - LIMITS.in_flight))]
        assert set(full) == {"busy"}
        assert second.ask("daemon.info", None, "alive")["id"] == "alive"


def stalled_engine(target: Target) -> socket.socket:
    """An engine that takes calls and never answers any."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(target.process.directory / ENGINE_SOCKET))
    listening.listen(64)
    return listening
