"""Asks the host: every request within its caller's deadline, tried again where that may help, and never half made.

A change is not abandoned: whoever is cancelled waits for the answer to what was sent, a little over the deadline at
most. Each request has a connection of its own, so that none, a kill least of all, waits behind another one's.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final

import attrs
import httpx2
import trio

from supervisor.conversation.errors import EngineUnavailable
from supervisor.conversation.json import JsonObject
from supervisor.conversation.secrets import redact, secrets_in
from supervisor.exchange import NO_ANSWER, Answer, Ask, exchange, verified_tls, words_of
from supervisor.sandbox.remote.address import HostAddress
from supervisor.sandbox.remote.answers import Refusal, parse_refusal
from supervisor.secret_file import UnsafeSecret, read_secret

READ_MOST: Final = 10.0
CHANGE_MOST: Final = 60.0
CHANGE_LEAST: Final = 2.0
_MARGIN: Final = 1.0

_RETRY_FIRST: Final = 0.1
_RETRY_MOST: Final = 5.0
_JITTER: Final = 0.25
_LONGEST_WAIT: Final = 300.0
_MOST_BYTES: Final = 32 * 1024**2
_MOST_WORDS: Final = 500

_LATER: Final = frozenset({408, 425, 429})
_KEY_REFUSED: Final = frozenset({401, 403})
_FINAL: Final = frozenset({"sandbox_failed", "image_unavailable"})


class NotNow(EngineUnavailable):
    """The host did not answer, or not with what was asked for; `after` is how many seconds it wants to be left alone.

    `again` says whether asking again soon may help.
    """

    def __init__(self, message: str, after: float = 0.0, *, again: bool = True) -> None:
        super().__init__(message)
        self.after = after
        self.again = again


class Refused(Exception):
    """The host answers, and will not do it: asking again does not change that. `code` is "" if it says none."""

    def __init__(self, status: int, refusal: Refusal, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.code = refusal.code
        self.words = words


def load_key(path: Path) -> str:
    """Read the key that the host wants.

    Raises:
        UnsafeSecret: the file does not exist, is open to others, cannot be used, or holds no key.
    """
    key = read_secret(path, "remote host's key").decode("ascii", errors="replace").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UnsafeSecret(f"the remote host's key file {path} holds no key")
    return key


def open_client() -> httpx2.AsyncClient:
    """Make the client of all requests: verified TLS, no proxies, no redirects, no connection kept or waited for."""
    return httpx2.AsyncClient(
        timeout=None,
        trust_env=False,
        follow_redirects=False,
        verify=verified_tls(),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"Accept-Encoding": "identity", "User-Agent": "conversationd"},
    )


@attrs.define(eq=False)
class Host:
    """A host of runtimes, and the key that it wants."""

    address: HostAddress
    _key: str = attrs.field(repr=False)
    _client: httpx2.AsyncClient = attrs.field(factory=open_client, repr=False)
    _random: Random = attrs.field(factory=Random, repr=False)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def look(self, target: str, most: float = READ_MOST) -> bytes:
        """Get something, in `most` seconds and as often as it takes within them.

        Raises:
            EngineUnavailable: there was no answer by then.
            Refused: there was another one.
        """
        until = min(trio.current_effective_deadline(), trio.current_time() + most)
        return await self._insist(lambda: self.look_once(target, until - trio.current_time()), until)

    async def look_once(self, target: str, most: float) -> bytes:
        """The same, asked once."""
        with trio.move_on_after(max(most, 0.0)):
            return await self._ask("GET", target, None)
        raise NotNow(self._words("GET", target, f"it did not answer within {max(most, 0.0):.3g} s"))

    async def change(self, target: str, body: JsonObject, extra: float = 0.0) -> bytes:
        """Have the host do something; `extra` seconds on top are for what is meant to take long.

        Raises:
            EngineUnavailable: there was no answer in time; it may have been done, or not.
            Refused: it was not done.
        """
        until = min(trio.current_effective_deadline(), trio.current_time() + CHANGE_MOST + extra)
        return await self._insist(lambda: self._change_once(target, body, until, extra), until)

    async def _change_once(self, target: str, body: JsonObject, until: float, extra: float) -> bytes:
        limit = min(max(until - trio.current_time() + _MARGIN, CHANGE_LEAST), CHANGE_MOST) + extra
        with trio.move_on_after(limit, shield=True):
            return await self._ask("POST", target, body)
        raise NotNow(self._words("POST", target, f"it did not answer within {limit:.3g} s"))

    async def _insist(self, ask: Callable[[], Awaitable[bytes]], until: float) -> bytes:
        """Ask again with backoff, for as long as the next try can still be made in time."""
        pause = _RETRY_FIRST
        while True:
            try:
                return await ask()
            except NotNow as trouble:
                wait = max(self._spread(pause), trouble.after)
                if not trouble.again or trio.current_time() + wait >= until:
                    raise
            await trio.sleep(wait)
            pause = min(2 * pause, _RETRY_MOST)

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + _JITTER * (2 * self._random.random() - 1))

    async def _ask(self, method: str, target: str, body: JsonObject | None) -> bytes:
        headers = {"X-API-Key": self._key, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        try:
            answer = await exchange(self._client, Ask(method, f"{self.address}{target}", content, headers), _MOST_BYTES)
        except NO_ANSWER as error:
            raise NotNow(self._words(method, target, f"it does not answer: {words_of(error)}")) from None
        if httpx2.codes.is_success(answer.status):
            return answer.body
        raise self._failure(method, target, answer, body)

    def _failure(self, method: str, target: str, answer: Answer, body: JsonObject | None) -> NotNow | Refused:
        refusal = parse_refusal(answer.body)
        # Servers like to quote the request that they refuse.
        said = redact(refusal.message if refusal else "", (self._key, *secrets_in(body)))[:_MOST_WORDS]
        words = self._words(method, target, f"it answers {answer.status}{f': {said}' if said else ''}")
        known = refusal or Refusal("", "", "")
        if answer.status in _KEY_REFUSED and not known.path:
            return NotNow(f"{words}: the key is refused: see [remote] api_key_file", again=False)
        if httpx2.codes.is_server_error(answer.status) and known.code in _FINAL:
            return Refused(answer.status, known, words)
        if answer.status in _LATER or httpx2.codes.is_server_error(answer.status):
            return NotNow(words, _retry_after(answer))
        if httpx2.codes.is_client_error(answer.status) and refusal is not None:
            return Refused(answer.status, refusal, words)
        return NotNow(f"{words}, which is none of the runtime API's: see [remote] url", again=False)

    def _words(self, method: str, target: str, what: str) -> str:
        return f"the remote host at {self.address}, asked {method} {target.partition('?')[0]}: {what}"


def _retry_after(answer: Answer) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), _LONGEST_WAIT) if told.isascii() and told.isdigit() else 0.0
