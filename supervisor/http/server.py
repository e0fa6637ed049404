"""The HTTP server: listens, serves connections, and ends in two phases with the daemon.

Nothing that a client does leaves its connection: whatever goes wrong there is logged here and ends there.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, cast

import attrs
import structlog
import trio
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from starlette.types import ASGIApp

from supervisor.control.address import ControlAddress
from supervisor.control.handshake import Refusal
from supervisor.control.methods import SpecParser
from supervisor.control.service import ConversationService
from supervisor.control.sockets import Bound, open_listeners
from supervisor.control.stream import let_go
from supervisor.conversation.json import JsonObject
from supervisor.http.app import make_app
from supervisor.http.connection import HttpConnection, HttpLimits, protocol_config
from supervisor.http.gate import Gate, Policy
from supervisor.http.keys import ApiKeys

_REFUSED_AT_ONCE: Final = 32
_FULL: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "All HTTP connections are taken: try again later.")

_log: Final = structlog.stdlib.get_logger("supervisor.http")


@attrs.frozen
class HttpOptions:
    """How to serve. `allowed_hosts` are `Host` headers besides the listener's own names.

    `agent_request` says what lies under the request of every start over the V1 routes. `shutdown` is seconds until all
    connections are gone.
    """

    keys: ApiKeys
    allowed_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    agent_request: Callable[[], JsonObject] = dict
    max_connections: int = 512
    shutdown: float = 5.0
    limits: HttpLimits = attrs.field(factory=HttpLimits)


class HttpServer:
    """Serves the HTTP routes. `run` it once; `begin_shutdown` makes it return."""

    def __init__(self, service: ConversationService, parse_spec: SpecParser, options: HttpOptions) -> None:
        self._options = options
        self._config = protocol_config(options.limits)
        self._context = WorkerContext(None)
        self._shelters: set[trio.CancelScope] = set()
        self._open = 0
        self._ending = trio.Event()
        self._app = make_app(service, parse_spec, self._ending, options.limits.keep_alive, options.agent_request)

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._open

    def begin_shutdown(self) -> None:
        """Stop accepting, end every stream of events, and let what is being answered end. Returns at once."""
        if self._ending.is_set():
            return
        self._ending.set()
        for shelter in self._shelters:
            shelter.deadline = trio.current_time() + self._options.shutdown

    async def run(
        self, address: ControlAddress, *, task_status: trio.TaskStatus[ControlAddress] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until `begin_shutdown`, or cancellation, which ends it in the same two phases.

        Reports the address that it listens on, with the port that the kernel chose.

        Raises:
            CannotListen: the address cannot be had.
        """
        async with open_listeners((address,)) as bound, trio.open_nursery() as connections:
            task_status.started(bound[0].address)
            try:
                await self._accept_until_the_end(bound, connections)
            finally:
                self.begin_shutdown()
                with trio.CancelScope(shield=True):  # it only sets an event
                    await self._context.terminated.set()

    async def _accept_until_the_end(self, bound: Sequence[Bound], connections: trio.Nursery) -> None:
        async with trio.open_nursery() as accepting:
            for one in bound:
                accepting.start_soon(self._accept, one, connections)
            await self._ending.wait()
            accepting.cancel_scope.cancel()

    async def _accept(self, bound: Bound, connections: trio.Nursery) -> None:
        app = Gate(self._app, self._policy(bound), self._options.limits)

        async def handle(stream: trio.SocketStream) -> None:
            await self._shelter(app, stream)

        await trio.serve_listeners(handle, list(bound.listeners), handler_nursery=connections)

    def _policy(self, bound: Bound) -> Policy:
        names = None
        if bound.names is not None:
            own = {name.decode() for name in bound.names}
            names = frozenset(own | {name.lower() for name in self._options.allowed_hosts})
        return Policy(names, frozenset(self._options.cors_origins), self._options.keys)

    async def _shelter(self, app: ASGIApp, stream: trio.abc.HalfCloseableStream) -> None:
        # Connections outlive a cancellation of `run` by the moment that their last answers take. The shield is bounded
        # as soon as the end begins, which `run` never leaves out.
        with trio.CancelScope(shield=True) as shelter:
            self._shelters.add(shelter)
            if self._ending.is_set():
                shelter.cancel()
            try:
                await self._handle(app, stream)
            finally:
                self._shelters.discard(shelter)

    async def _handle(self, app: ASGIApp, stream: trio.abc.HalfCloseableStream) -> None:
        self._open += 1
        try:
            if self._open > self._options.max_connections:
                await self._refuse(stream)
            else:
                await HttpConnection(
                    cast("ASGIFramework", app), self._config, self._context, self._options.limits, stream
                ).run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("http.connection_lost")
        except* Exception:  # noqa: BLE001 - the boundary: one client's failure is nobody else's
            _log.warning("http.connection_failed", exc_info=True)
        finally:
            with trio.move_on_after(self._options.limits.linger, shield=True):
                await let_go(stream)
            self._open -= 1

    async def _refuse(self, stream: trio.abc.HalfCloseableStream) -> None:
        if self._open > self._options.max_connections + _REFUSED_AT_ONCE:
            await trio.aclose_forcefully(stream)
            return
        _log.warning("http.connections_exhausted", max_connections=self._options.max_connections)
        await stream.send_all(_FULL.encode())
