"""HTTP clients that know nothing of ours: httpx over TCP or a Unix socket."""

from collections.abc import Mapping
from typing import Any

import attrs
import httpx2 as httpx

from supervisor.control.address import ControlAddress, UnixAddress
from supervisor.http.server import HttpServer
from tests.control.scripted_service import ScriptedService

KEY = "the-api-key-of-the-tests"
PATIENCE = 20.0
"""Seconds of real time after which a test that waits has failed."""


@attrs.frozen
class Running:
    """A server that listens."""

    server: HttpServer
    service: ScriptedService
    address: ControlAddress


def http_client(address: ControlAddress, key: str | None = KEY, **headers: str) -> httpx.AsyncClient:
    """A client of the address that shows the key."""
    shown = {} if key is None else {"X-API-Key": key}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(address, UnixAddress):
        transport = httpx.AsyncHTTPTransport(uds=str(address.path))
        return httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={**shown, **given}, timeout=PATIENCE
        )
    return httpx.AsyncClient(base_url=f"http://{address.authority}", headers={**shown, **given}, timeout=PATIENCE)


def error_of(answer: httpx.Response) -> Mapping[str, Any]:
    """The `error` of an answer, which is all that its body has."""
    body = answer.json()
    assert set(body) == {"error"}
    assert isinstance(body["error"], dict)
    return body["error"]
