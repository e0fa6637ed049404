"""HTTP as a client of servers that may answer anything: bounded answers, failures of known kinds, verified TLS."""

import ssl
from collections.abc import Mapping
from functools import cache
from typing import Final

import attrs
import httpx2
import trio

NO_ANSWER: Final = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    OSError,
    ValueError,
    trio.BrokenResourceError,
)
"""What `exchange` raises where there is no answer, or a broken or endless one."""


@attrs.frozen
class Answer:
    """A complete answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    """By their names in small letters."""


@attrs.frozen
class Ask:
    """What is asked: `url` is the whole one."""

    method: str
    url: str
    content: bytes | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)


@cache
def verified_tls() -> ssl.SSLContext:
    """TLS with the authorities that this host trusts, and names checked."""
    return ssl.create_default_context()


async def exchange(client: httpx2.AsyncClient, ask: Ask, most_bytes: int) -> Answer:
    """Ask once. How long that may take is the caller's cancel scope.

    Raises:
        NO_ANSWER: any of them.
    """
    received = bytearray()
    answer = Answer(0, b"")
    # Leaving the loop would leave the client's generators to the garbage collector; cancelling unwinds them.
    with trio.CancelScope() as endless:
        async with client.stream(ask.method, ask.url, content=ask.content, headers=ask.headers) as response:
            answer = Answer(response.status_code, b"", dict(response.headers))
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > most_bytes:
                    endless.cancel()
    if len(received) > most_bytes:
        raise ValueError(f"its answer is longer than {most_bytes} bytes")
    return attrs.evolve(answer, body=bytes(received))


def words_of(error: BaseException) -> str:
    """What such an error says, or the one behind it, or its kind if none says anything."""
    behind: BaseException | None = error
    while behind is not None:
        if str(behind):
            return str(behind)
        behind = behind.__cause__ or behind.__context__
    return type(error).__name__
