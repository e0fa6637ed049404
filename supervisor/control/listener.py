"""The control server: listens, judges handshakes, serves connections, and ends in two phases.

Nothing that a client does leaves its connection: whatever goes wrong there is logged here and ends there.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import attrs
import structlog
import trio
from trio_websocket import ConnectionClosed
from wsproto.utilities import ProtocolError

from supervisor.control.address import ControlAddress, TcpAddress
from supervisor.control.connection import Connection, ConnectionLimits
from supervisor.control.handshake import Gate, HandshakeAborted, Refusal, Verdict, receive_handshake
from supervisor.control.methods import Methods, SpecParser
from supervisor.control.service import ConversationService
from supervisor.control.sockets import Bound, CannotListen, open_listeners
from supervisor.control.stream import let_go
from supervisor.control.subscriptions import GOING_AWAY
from supervisor.control.token import Token

_REFUSED_AT_ONCE: Final = 32
_ENDS: Final = (
    HandshakeAborted,
    ConnectionClosed,
    ProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
_FULL: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "All [control] max_connections are taken: try again later.")

_log: Final = structlog.stdlib.get_logger("supervisor.control")


@attrs.frozen
class ControlOptions:
    """How to serve. `token` is what TCP clients have to show; `shutdown` is seconds until all connections are gone.

    `max_connections` is for each listener: strangers who crowd a TCP port keep nobody from the Unix socket.
    """

    token: Token | None = None
    allowed_origins: Sequence[str] = ()
    max_connections: int = 256
    shutdown: float = 5.0
    limits: ConnectionLimits = attrs.field(factory=ConnectionLimits)


@attrs.define(eq=False)
class _Door:
    """One listener: who may come in, and how many are."""

    gate: Gate
    open: int = 0


class ControlServer:
    """Serves the control protocol. `run` it once; `begin_shutdown` makes it return."""

    def __init__(self, service: ConversationService, parse_spec: SpecParser, options: ControlOptions) -> None:
        self._service = service
        self._methods = Methods(service, parse_spec)
        self._options = options
        self._origins = frozenset(origin.encode() for origin in options.allowed_origins)
        self._connections: set[Connection] = set()
        self._arriving: set[trio.CancelScope] = set()
        self._shelters: set[trio.CancelScope] = set()
        self._doors: list[_Door] = []
        self._ending = trio.Event()

    @property
    def connections(self) -> int:
        """How many clients are connected now, those that are still shaking hands included."""
        return sum(door.open for door in self._doors)

    def begin_shutdown(self) -> None:
        """Stop accepting and close every connection with 1001. Returns at once; `run` ends when they are gone."""
        if self._ending.is_set():
            return
        self._ending.set()
        for arriving in self._arriving:
            arriving.cancel()
        for shelter in self._shelters:
            shelter.deadline = trio.current_time() + self._options.shutdown
        for connection in self._connections:
            connection.close(GOING_AWAY)

    async def run(
        self,
        addresses: Sequence[ControlAddress],
        *,
        task_status: trio.TaskStatus[tuple[ControlAddress, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and serve until `begin_shutdown`, or cancellation, which ends it in the same two phases.

        Reports the addresses that it listens on, with the ports that the kernel chose.

        Raises:
            CannotListen: an address cannot be had.
        """
        if self._options.token is None and any(isinstance(address, TcpAddress) for address in addresses):
            raise CannotListen("a TCP listener needs a token: everybody on this host can connect to it")
        async with open_listeners(addresses) as bound, trio.open_nursery() as connections:
            task_status.started(tuple(one.address for one in bound))
            try:
                await self._accept_until_the_end(bound, connections)
            finally:
                self.begin_shutdown()

    async def _accept_until_the_end(self, bound: Sequence[Bound], connections: trio.Nursery) -> None:
        async with trio.open_nursery() as accepting:
            for one in bound:
                accepting.start_soon(self._accept, one, connections)
            await self._ending.wait()
            accepting.cancel_scope.cancel()

    async def _accept(self, bound: Bound, connections: trio.Nursery) -> None:
        token = self._options.token if bound.names is not None else None
        door = _Door(Gate(bound.names, self._origins, token))
        self._doors.append(door)

        async def handle(stream: trio.SocketStream) -> None:
            await self._shelter(door, stream)

        await trio.serve_listeners(handle, list(bound.listeners), handler_nursery=connections)

    async def _shelter(self, door: _Door, stream: trio.abc.HalfCloseableStream) -> None:
        # Connections outlive a cancellation of `run` by the moment that their close frames take. The shield is
        # bounded as soon as the end begins, which `run` never leaves out.
        with trio.CancelScope(shield=True) as shelter:
            self._shelters.add(shelter)
            if self._ending.is_set():
                shelter.cancel()
            try:
                await self._handle(door, stream)
            finally:
                self._shelters.discard(shelter)

    async def _handle(self, door: _Door, stream: trio.abc.HalfCloseableStream) -> None:
        door.open += 1
        try:
            if door.open > self._options.max_connections:
                await self._refuse(door, stream)
            else:
                await self._converse(door.gate, stream)
        except* _ENDS as group:
            _log.debug("control.connection_ended", causes=[repr(cause) for cause in group.exceptions])
        except* Exception:  # noqa: BLE001 - the boundary: one client's failure is nobody else's
            _log.exception("control.connection_failed")
        finally:
            with trio.move_on_after(self._options.limits.linger, shield=True):
                await let_go(stream)
            door.open -= 1

    async def _refuse(self, door: _Door, stream: trio.abc.HalfCloseableStream) -> None:
        if door.open > self._options.max_connections + _REFUSED_AT_ONCE:
            await trio.aclose_forcefully(stream)
            return
        _log.warning("control.connections_exhausted", max_connections=self._options.max_connections)
        await stream.send_all(_FULL.encode())

    async def _converse(self, gate: Gate, stream: trio.abc.HalfCloseableStream) -> None:
        verdict = await self._receive_handshake(gate, stream)
        if isinstance(verdict, Refusal):
            _log.info("control.handshake_refused", status=verdict.status.value, reason=verdict.sentence)
            await stream.send_all(verdict.encode())
            return
        connection = Connection(self._service, self._methods, gate.token, self._options.limits, stream)
        self._connections.add(connection)
        try:
            await connection.run(verdict)
        finally:
            self._connections.discard(connection)

    async def _receive_handshake(self, gate: Gate, stream: trio.abc.HalfCloseableStream) -> Verdict:
        with trio.move_on_after(self._options.limits.handshake) as patience:
            self._arriving.add(patience)
            try:
                return await receive_handshake(stream, gate)
            finally:
                self._arriving.discard(patience)
        raise HandshakeAborted
