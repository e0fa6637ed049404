"""The webhook against a real receiver on loopback, which fails, hangs, lies and recovers."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from supervisor.alerts import WebhookSettings
from supervisor.alerts.sinks import NotDelivered, NoticeRefused
from supervisor.alerts.webhook import Webhook, load_webhook_secret, open_client, sign
from supervisor.conversation.alerts import AlertState
from supervisor.journal.ledger import Delivery
from supervisor.secret_file import UnsafeSecret
from tests.agent.stub import Reply, StubAgent, serving
from tests.world import SimulatedWallClock

DELIVERY = Delivery(1, "f00", AlertState.RAISED, datetime.now(UTC), '{"type": "alert.raised", "data": {}}')
LINE = "POST /hook/secret-path?a=b"
SECRET = b"0123456789abcdef"


@pytest.fixture
async def receiver() -> AsyncIterator[StubAgent]:
    """A receiver that answers as it is told to."""
    async with serving(StubAgent()) as receiver:
        yield receiver


@pytest.fixture
async def webhook(receiver: StubAgent, tmp_path: Path) -> AsyncIterator[Webhook]:
    """A webhook to it, impatient."""
    secret_file = tmp_path / "webhook-secret"
    secret_file.touch(0o600)
    secret_file.write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    url = f"http://127.0.0.1:{receiver.port}/hook/secret-path?a=b"
    async with open_client() as client:
        yield Webhook(client, WebhookSettings(url, secret_file), SimulatedWallClock(), 0.2)


async def test_webhook_posts_the_notice_signed(receiver: StubAgent, webhook: Webhook) -> None:
    """As a receiver checks it who knows the secret: over id, timestamp and the body's own bytes."""
    receiver.on(LINE, Reply(204, b""))
    await webhook.tell(DELIVERY)
    (request,) = receiver.requests
    assert request.body.decode() == DELIVERY.body
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "f00-raised"
    stamp = request.headers["webhook-timestamp"]
    assert abs(int(stamp) - SimulatedWallClock().now().timestamp()) < 60
    signed = hmac.new(SECRET, f"f00-raised.{stamp}.{DELIVERY.body}".encode(), hashlib.sha256)
    assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(signed.digest()).decode()}"


async def test_webhook_gives_each_try_the_same_id(receiver: StubAgent, webhook: Webhook) -> None:
    """So that a receiver that has it already can drop it."""
    receiver.on(LINE, Reply(500), Reply(200))
    with pytest.raises(NotDelivered, match=r"^the webhook answered 500$"):
        await webhook.tell(DELIVERY)
    await webhook.tell(DELIVERY)
    assert [request.headers["webhook-id"] for request in receiver.requests] == ["f00-raised"] * 2


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410])
async def test_webhook_that_refuses_is_told_apart(receiver: StubAgent, webhook: Webhook, status: int) -> None:
    """A redirect, too, which is not followed: it could lead anywhere."""
    elsewhere = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:{receiver.port}/other\r\nContent-Length: 0\r\n\r\n"
    receiver.on(LINE, Reply(raw=elsewhere.encode()))
    receiver.on("POST /other", Reply())
    receiver.on("GET /other", Reply())
    with pytest.raises(NoticeRefused, match=f"^the webhook refused with {status}$"):
        await webhook.tell(DELIVERY)
    assert receiver.lines == [LINE]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(408),
        Reply(429),
        Reply(500),
        Reply(503),
        Reply(raw=b""),
        Reply(raw=b"garbage\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 200 OK\r\n", hang=True),
    ],
    ids=["408", "429", "500", "503", "closed", "garbage", "endless head", "hangs"],
)
async def test_webhook_that_does_not_answer_well_is_tried_again(
    receiver: StubAgent, webhook: Webhook, reply: Reply
) -> None:
    """Within its time limit, and with no word of its URL in the error."""
    receiver.on(LINE, reply)
    with trio.fail_after(10), pytest.raises(NotDelivered) as caught:
        await webhook.tell(DELIVERY)
    assert not isinstance(caught.value, NoticeRefused)
    assert "secret-path" not in str(caught.value)


async def test_webhook_needs_no_end_of_the_answer(receiver: StubAgent, webhook: Webhook) -> None:
    """Its status is all that counts: a body that never ends is not read."""
    receiver.on(LINE, Reply(200, b"x" * 100_000, hang=True))
    await webhook.tell(DELIVERY)
    assert len(receiver.requests) == 1


async def test_webhook_that_is_not_there_is_tried_again(webhook: Webhook) -> None:
    """Nobody listens; or the URL is none that the client can use."""
    for url in ("http://127.0.0.1:1/secret-path", "http://[::1/secret-path", "http://\x7f/secret-path"):
        gone = Webhook(webhook.client, WebhookSettings(url, webhook.settings.secret_file), webhook.clock)
        with pytest.raises(NotDelivered) as caught:
            await gone.tell(DELIVERY)
        assert "secret-path" not in str(caught.value)


async def test_webhook_whose_secret_is_open_to_others_is_not_told(receiver: StubAgent, webhook: Webhook) -> None:
    """It is tried again, in case somebody closes the file."""
    webhook.settings.secret_file.chmod(0o644)
    with pytest.raises(NotDelivered, match="chmod 0600"):
        await webhook.tell(DELIVERY)
    assert receiver.requests == []


def test_signature_is_that_of_the_specification() -> None:
    """An example that the reference implementation (standardwebhooks 1.1.0) has signed."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secret_is_made_once(tmp_path: Path) -> None:
    """In the specification's notation, for its owner only."""
    path = tmp_path / "webhook-secret"
    secret = load_webhook_secret(path)
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == f"whsec_{base64.b64encode(secret).decode()}\n"
    assert load_webhook_secret(path) == secret


@pytest.mark.parametrize("content", ["hunter2", "whsec_", "whsec_no base64", "c2VjcmV0"])
def test_secret_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    """In words that do not show it."""
    path = tmp_path / "webhook-secret"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(UnsafeSecret, match="holds no secret like") as caught:
        load_webhook_secret(path)
    assert content == "whsec_" or content not in str(caught.value)


def test_webhook_settings_do_not_show_the_url() -> None:
    """Whoever knows it may post to it."""
    assert "secret-path" not in repr(WebhookSettings("https://x/secret-path", Path("/s")))
