"""HTTP to one agent server: bounded answers, our errors, and no secret in either.

What runs in a sandbox is not trusted: every answer may be anything.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import attrs
import httpx2

from supervisor.agent.port import AgentSession
from supervisor.agent.wire import Garbled
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.json import JsonValue
from supervisor.conversation.secrets import redact, secrets_in
from supervisor.exchange import NO_ANSWER, Answer, Ask, exchange, verified_tls, words_of
from supervisor.sandbox.port import Endpoint

_T = TypeVar("_T")

_MOST_BYTES: Final = 4 * 1024**2
_MOST_REFUSAL: Final = 2000
_REFUSED_CODES: Final = range(400, 500)
_TOO_MANY: Final = 429


@attrs.frozen
class _Request:
    method: str
    path: str
    body: JsonValue = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    source: JsonValue = attrs.field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def open_client() -> httpx2.AsyncClient:
    """Make the client that all conversations share.

    Limits of time are the callers' cancel scopes. Connections are not kept: one that the server drops just when it is
    used again would look like a dead agent. Nor are they counted: a hung server must not hold up another's calls.
    """
    return httpx2.AsyncClient(
        timeout=None,
        trust_env=False,
        verify=verified_tls(),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"Accept-Encoding": "identity"},
    )


def endpoint_of(session: AgentSession) -> Endpoint:
    """Where the agent server is: by its own address, if there is a way.

    Any user of this host can take a published port whose sandbox has died, and would be told what is meant for it.

    Raises:
        AgentRefused: the sandbox has no port.
    """
    endpoint = session.direct or session.published
    if endpoint is None:
        raise AgentRefused("the sandbox has no port for its agent server: set spec.port", status=0, body="")
    return endpoint


async def look(client: httpx2.AsyncClient, session: AgentSession, path: str) -> None:
    """Get once what needs no key, and show none: whoever has taken a dead sandbox's port learns nothing by it.

    Raises:
        AgentUnavailable: as for `call`.
        AgentRefused: as for `call`.
    """
    await _ask(client, session, _Request("GET", path))


async def call(
    client: httpx2.AsyncClient,
    session: AgentSession,
    method: str,
    path: str,
    body: JsonValue = None,
    *,
    accept: frozenset[int] = frozenset(),
    source: JsonValue = None,
) -> Answer:
    """Ask once, with the key. A status in `accept` is an answer like those of success.

    `source` is what the body was taken from, if that knows more of its secrets than the body alone does.

    Raises:
        AgentUnavailable: no answer, a broken or endless one, 429, or 5xx.
        AgentRefused: any other status that is not success; its body carries no secret of the session or the request.
    """
    headers = {"X-Session-API-Key": session.session_key, "Content-Type": "application/json"}
    return await _ask(client, session, _Request(method, path, body, headers, source), accept)


def understood(parse: Callable[[bytes], _T], answer: Answer) -> _T:
    """Read an answer.

    Raises:
        AgentUnavailable: it makes no sense, which may be otherwise at the next attempt.
    """
    try:
        return parse(answer.body)
    except Garbled as error:
        raise AgentUnavailable(f"the agent server's answer makes no sense: {error}") from error


async def _ask(
    client: httpx2.AsyncClient, session: AgentSession, request: _Request, accept: frozenset[int] = frozenset()
) -> Answer:
    content = None if request.body is None else json.dumps(request.body).encode()
    url = f"{endpoint_of(session).url}{request.path}"
    try:
        answer = await exchange(client, Ask(request.method, url, content, request.headers), _MOST_BYTES)
    except NO_ANSWER as error:
        raise AgentUnavailable(f"{request}: the agent server does not answer: {words_of(error)}") from error
    if httpx2.codes.is_success(answer.status) or answer.status in accept:
        return answer
    if answer.status in _REFUSED_CODES and answer.status != _TOO_MANY:
        # Servers like to quote the request that they refuse.
        secrets = (session.session_key, session.secret, *secrets_in(request.body), *secrets_in(request.source))
        text = redact(answer.body.decode(errors="replace"), secrets)[:_MOST_REFUSAL]
        raise AgentRefused(f"{request}: the agent server refused with {answer.status}", answer.status, text)
    raise AgentUnavailable(f"{request}: the agent server answered {answer.status}")
