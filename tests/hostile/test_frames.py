"""Frames that come at the worst moment, or that break the rules: one connection's trouble and nobody else's."""

import struct
import time

import pytest

from tests.hostile.peer import Opcode, Peer, client, close_frame, frame, request
from tests.hostile.target import Target, vitals_of

INFO = request("daemon.info")
MESSAGE_SIZE = 1024 * 1024


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(INFO, mask=False), 1002, id="unmasked"),
        pytest.param(frame(INFO, reserved=1), 1002, id="reserved-bit"),
        pytest.param(frame(INFO, reserved=4), 1002, id="compressed-without-agreement"),
        pytest.param(frame(b"", 3), 1002, id="reserved-opcode"),
        pytest.param(frame(b"", 11), 1002, id="reserved-control-opcode"),
        pytest.param(frame(INFO, Opcode.CONTINUATION), 1002, id="continuation-of-nothing"),
        pytest.param(frame(b"[", fin=False) + frame(INFO), 1002, id="message-within-a-message"),
        pytest.param(frame(b"", Opcode.PING, fin=False), 1002, id="fragmented-ping"),
        pytest.param(frame(b"p" * 126, Opcode.PING), 1002, id="ping-too-long"),
        pytest.param(frame(b"\xff\xfe"), 1007, id="not-utf8"),
        pytest.param(frame(b"\xed\xa0\x80"), 1007, id="surrogate-in-utf8"),
        pytest.param(frame(b"\xe2\x82", fin=False) + frame(b"x", Opcode.CONTINUATION), 1007, id="character-cut-in-two"),
        pytest.param(frame(b"x" * (MESSAGE_SIZE + 1)), 1009, id="too-large"),
        pytest.param(frame(b"x" * (2 * MESSAGE_SIZE)), 1009, id="2-MB"),
        pytest.param(frame(b"x" * 900_000, fin=False) + frame(b"x" * 900_000, 0), 1009, id="too-large-in-pieces"),
        pytest.param(frame(b"x" * 2_000_000, length=2**63 - 1), 1009, id="too-large-without-end"),
        pytest.param(frame(b"", length=2**64 - 1), 1002, id="length-with-the-sign-bit"),
        pytest.param(frame(b"\x03", Opcode.CLOSE), 1002, id="close-of-one-byte"),
        pytest.param(frame(struct.pack("!H", 1005), Opcode.CLOSE), 1002, id="close-with-a-code-that-none-may-send"),
        pytest.param(frame(struct.pack("!H", 1000) + b"\xff", Opcode.CLOSE), 1007, id="close-reason-not-utf8"),
    ],
)
def test_frame_that_breaks_the_rules_ends_its_connection(target: Target, sent: bytes, code: int) -> None:
    """With its code or with none; what was asked before stays answered, and nobody else notices."""
    with client(target.unix) as bystander, client(target.unix) as peer:
        assert peer.ask("daemon.info")["id"] == 1
        peer.send(sent)
        ended_with, messages = peer.end_code()
        assert messages == 0
        # The WebSocket library hangs up on a broken frame without a word; what is too large is told by the protocol.
        assert ended_with == code or (ended_with is None and code != 1009)
        assert bystander.ask("daemon.info")["id"] == 1


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(INFO[:9], fin=False) + frame(b"p", 9) + frame(INFO[9:], 0), id="ping-amid-a-message"),
        pytest.param(
            b"".join(frame(one, 0 if n else 1, fin=n == len(INFO) - 1) for n, one in enumerate(INFO)), id="byte-by-byte"
        ),
        pytest.param(frame(b"", 10) * 50 + frame(INFO), id="pongs-that-nobody-asked-for"),
        pytest.param(frame(b"p" * 125, 9) * 200 + frame(INFO), id="many-pings"),
        pytest.param(frame(b"", fin=False) + frame(b"", 0, fin=False) * 99 + frame(INFO, 0), id="empty-fragments"),
    ],
)
def test_frames_that_are_odd_and_right_are_answered(target: Target, sent: bytes) -> None:
    """Fragments, pings between them, and pongs out of the blue."""
    with client(target.unix) as peer:
        peer.send(sent)
        assert peer.read_message()["id"] == 1


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(close_frame() + frame(b"late", Opcode.PING), id="ping-behind-the-close"),
        pytest.param(close_frame() * 3, id="close-after-close"),
        pytest.param(close_frame() + frame(INFO), id="request-behind-the-close"),
        pytest.param(frame(INFO) * 200 + close_frame(), id="close-behind-many-requests"),
        pytest.param(
            frame(request("events.subscribe", {"since": 0})) + close_frame(), id="close-behind-a-subscription"
        ),
        pytest.param(
            frame(request("conversation.restart", {"id": "stopped"})) + close_frame(), id="close-amid-a-command"
        ),
        pytest.param(
            frame(request("conversation.restart", {"id": "stopped"})) + frame(b"", 9), id="ping-amid-a-command"
        ),
        pytest.param(frame(INFO[:9], fin=False), id="message-that-never-ends"),
        pytest.param(frame(INFO)[:-5], id="frame-that-never-ends"),
        pytest.param(b"\x81", id="half-a-head"),
    ],
)
@pytest.mark.parametrize("end", ["close", "half-close", "reset"])
def test_hanging_up_at_the_worst_moment_harms_nobody(target: Target, sent: bytes, end: str) -> None:
    """Properly, half, or by a reset; on both sockets."""
    for place, headers in ((target.unix, ()), (target.tcp, (target.bearer,))):
        with client(place, *headers) as peer:
            peer.send(sent)
            if end == "reset":
                peer.reset()
            elif end == "half-close":
                peer.finish_sending()
                peer.read_all()


def test_fragments_without_content_do_not_pile_up(target: Target) -> None:
    """A message of a million empty fragments is none: the connection is ended before it costs memory."""
    before = vitals_of(target.pid).memory
    with client(target.unix) as peer:
        peer.send(frame(b"", fin=False))
        flood = frame(b"", Opcode.CONTINUATION, fin=False) * 10_000
        taken = sum(peer.send(flood) for _ in range(100))
        assert taken < 100, f"it took {taken} floods, and {vitals_of(target.pid).memory - before} KiB of memory"


def test_pings_that_nobody_reads_the_answers_to_hold_up_only_their_sender(target: Target) -> None:
    """The flood stands still as soon as the pongs do; everybody else goes on."""
    with client(target.unix) as bystander, Peer(target.unix, patience=0.5).upgrade() as peer:
        with pytest.raises(TimeoutError):
            send_for_ever(peer, frame(b"p" * 125, Opcode.PING) * 1000)
        began = time.monotonic()
        assert bystander.ask("daemon.info")["id"] == 1
        assert time.monotonic() - began < 1.0


def send_for_ever(peer: Peer, flood: bytes) -> None:
    """Until the daemon takes no more."""
    while peer.send(flood):
        pass


def test_many_connections_opened_and_dropped_leave_nothing(target: Target) -> None:
    """Without a word, in the middle of the handshake, or right after it."""
    for number in range(300):
        place = target.unix if number % 2 else target.tcp
        with Peer(place) as peer:
            peer.send(b"" if number % 3 == 0 else b"GET /control HTTP/1.1\r\nHost: " if number % 3 == 1 else b"")
            if number % 3 == 2:
                peer.upgrade()
            if number % 5 == 0:
                peer.reset()
