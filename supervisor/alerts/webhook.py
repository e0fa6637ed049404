"""The webhook: notices posted over HTTP, signed as the Standard Webhooks specification says.

`webhook-id` is the same each time the same notice is tried, `webhook-timestamp` is the time of the try in seconds, and
`webhook-signature` is over both and the body, with the secret that the receiver has, too. See standardwebhooks.com.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import httpx2
import trio

from supervisor.actors.clock import Clock
from supervisor.alerts.settings import WebhookSettings
from supervisor.alerts.sinks import NotDelivered, NoticeRefused
from supervisor.journal.ledger import Delivery
from supervisor.secret_file import UnsafeSecret, load_secret

WITHIN: Final = 15.0
"""Seconds for one try, from the connection to the head of the answer."""

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
_REFUSALS: Final = range(300, 500)
_LATER: Final = frozenset({408, 425, 429})


def load_webhook_secret(path: Path) -> bytes:
    """Read the secret that notices are signed with, or make one if the file does not exist.

    Raises:
        UnsafeSecret: the file is open to others, cannot be used, or holds no such secret.
    """
    text = load_secret(path, "webhook secret", _new_secret)
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(_PREFIX) or not secret:
        raise UnsafeSecret(f'the webhook secret file {path} holds no secret like "{_PREFIX}" followed by base64')
    return secret


def sign(secret: bytes, notice: str, timestamp: int, body: str) -> str:
    """The signature of a message, as its header has it."""
    digest = hmac.digest(secret, f"{notice}.{timestamp}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def open_client() -> httpx2.AsyncClient:
    """Make the client of all tries: no proxies, no redirects, no connection kept, and the host's own authorities."""
    return httpx2.AsyncClient(
        timeout=None,
        trust_env=False,
        follow_redirects=False,
        verify=ssl.create_default_context(),
        limits=httpx2.Limits(max_keepalive_connections=0),
        headers={"Accept-Encoding": "identity", "User-Agent": "conversationd"},
    )


@attrs.frozen(eq=False)
class Webhook:
    """Satisfies `Sink`. The secret is read at each try, so that it can be changed at any time."""

    client: httpx2.AsyncClient
    settings: WebhookSettings
    clock: Clock
    within: float = WITHIN

    async def tell(self, delivery: Delivery) -> None:
        """Post once; anything but an answer of success, in time, is none."""
        headers = await self._headers(delivery)
        status = 0
        with trio.move_on_after(self.within):
            status = await self._post(headers, delivery.body.encode())
        if not status:
            raise NotDelivered(f"the webhook did not answer within {self.within:g} s")
        if status in _REFUSALS and status not in _LATER:
            raise NoticeRefused(f"the webhook refused with {status}")
        if not httpx2.codes.is_success(status):
            raise NotDelivered(f"the webhook answered {status}")

    async def _headers(self, delivery: Delivery) -> dict[str, str]:
        load: Callable[[], bytes] = partial(load_webhook_secret, self.settings.secret_file)
        try:
            secret = await trio.to_thread.run_sync(load)
        except UnsafeSecret as error:
            raise NotDelivered(str(error)) from error
        # No full stop in it: the signature is over the parts with stops in between.
        notice, timestamp = f"{delivery.alert}-{delivery.state}", int(self.clock.now().timestamp())
        return {
            "Content-Type": "application/json",
            "webhook-id": notice,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, notice, timestamp, delivery.body),
        }

    async def _post(self, headers: dict[str, str], body: bytes) -> int:
        try:
            # Only the head of the answer is read, which the client bounds.
            async with self.client.stream("POST", self.settings.url, content=body, headers=headers) as response:
                return response.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, trio.BrokenResourceError) as error:
            # Not the error's own words: they may hold the URL, and that may be a secret.
            raise NotDelivered(f"the webhook does not answer: {type(error).__name__}") from error


def _new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
