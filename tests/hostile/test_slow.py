"""Peers that are slow on purpose, all at once: each is ended in its time, and nobody waits for one."""

import threading
import time
from collections.abc import Callable

from tests.hostile.peer import Opcode, Peer, frame, handshake, request
from tests.hostile.target import Target, assert_answers, assert_settled

PATIENCE = 30.0
HANDSHAKE, AUTHENTICATION, SEND = 5.0, 5.0, 10.0
"""Seconds that a connection has for each; after them it is ended."""
SLACK = 5.0
DRIP = 0.2


def test_slow_peers_are_ended_in_time_and_hold_up_nobody(target: Target) -> None:
    """Handshakes that do not end, tokens that come late or in drops, and readers that do not read."""
    slow: dict[str, tuple[Callable[[Target], None], float]] = {
        "silent before the handshake": (say_nothing, HANDSHAKE),
        "a handshake in drops": (drip_a_handshake, HANDSHAKE),
        "no token": (show_no_token, AUTHENTICATION),
        "the token in drops": (drip_the_token, AUTHENTICATION),
        "pings instead of a token": (ping_instead_of_a_token, AUTHENTICATION),
        "never reads": (never_read, SEND),
        "never reads its events": (never_read_events, SEND),
    }
    took: dict[str, float] = {}

    def run(name: str, act: Callable[[Target], None]) -> None:
        began = time.monotonic()
        act(target)
        took[name] = time.monotonic() - began

    threads = [threading.Thread(target=run, args=(name, act)) for name, (act, _) in slow.items()]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert_answers(target.unix)
        threads[0].join(DRIP)
        time.sleep(DRIP)
    for name, (_, limit) in slow.items():
        assert name in took, f"{name}: it was not ended"
        assert limit - 1 < took[name] < limit + SLACK, f"{name}: ended after {took[name]:.1f} s"
    assert_settled(target)


def say_nothing(target: Target) -> None:
    """Connect and wait."""
    with Peer(target.tcp, PATIENCE) as peer:
        assert peer.read_all() == b""


def drip_a_handshake(target: Target) -> None:
    """A byte now and then, for longer than a handshake may take."""
    with Peer(target.unix, PATIENCE) as peer:
        for byte in handshake():
            if not peer.send(bytes([byte])):
                return
            time.sleep(DRIP)


def show_no_token(target: Target) -> None:
    """Shake hands, and then show it when it is too late: nothing is answered."""
    with Peer(target.tcp, PATIENCE).upgrade() as peer:
        assert peer.end_code() == (4401, 0)
        peer.say(request("authenticate", {"token": target.token}))
        peer.say(request("daemon.info"))
        assert peer.read_all() == b""


def drip_the_token(target: Target) -> None:
    """The right token in a message that takes longer than it may."""
    message = frame(request("authenticate", {"token": target.token}))
    with Peer(target.tcp, PATIENCE).upgrade() as peer:
        for byte in message[:-1]:
            if not peer.send(bytes([byte])):
                break
            time.sleep(DRIP)
        assert peer.end_code() in {(4401, 0), (None, 0)}


def ping_instead_of_a_token(target: Target) -> None:
    """Being alive is not enough."""
    with Peer(target.tcp, PATIENCE).upgrade() as peer:
        while peer.send(frame(b"", Opcode.PING)):
            received = peer.read_frame()
            if received is None or received.opcode == Opcode.CLOSE:
                return
            assert received.opcode == Opcode.PONG
            time.sleep(DRIP)


def never_read(target: Target) -> None:
    """Ask for more than the daemon keeps for one client."""
    ask_without_reading(target, request("conversation.list"))


def never_read_events(target: Target) -> None:
    """Subscribe to all that ever happened, as often as one may, and ask on."""
    ask_without_reading(target, request("events.subscribe", {"since": 0, "snapshot": True}))


def ask_without_reading(target: Target, text: str) -> None:
    """Go on asking until the daemon has had enough."""
    with Peer(target.unix, PATIENCE).upgrade() as peer:
        peer.send(frame(text) * 3000)
        while peer.say(request("daemon.info")):
            time.sleep(DRIP)
