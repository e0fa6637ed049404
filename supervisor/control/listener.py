"""The control server: judges handshakes, and serves connections that `reception` takes in and lets end."""

from collections.abc import Sequence
from functools import partial
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
from supervisor.control.reception import ByteStream, Converse, HouseRules, Reception
from supervisor.control.service import ConversationService
from supervisor.control.sockets import Bound, CannotListen, open_listeners
from supervisor.control.subscriptions import GOING_AWAY
from supervisor.control.token import Token

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


class ControlServer:
    """Serves the control protocol. `run` it once; `begin_shutdown` makes it return."""

    def __init__(self, service: ConversationService, parse_spec: SpecParser, options: ControlOptions) -> None:
        self._service = service
        self._methods = Methods(service, parse_spec)
        self._options = options
        self._origins = frozenset(origin.encode() for origin in options.allowed_origins)
        self._connections: set[Connection] = set()
        self._arriving: set[trio.CancelScope] = set()
        linger = options.limits.linger
        self._reception = Reception(
            HouseRules("control", options.max_connections, _FULL, _ENDS, linger, options.shutdown)
        )

    @property
    def connections(self) -> int:
        """How many clients are connected now, those that are still shaking hands included."""
        return self._reception.connections

    def begin_shutdown(self) -> None:
        """Stop accepting and close every connection with 1001. Returns at once; `run` ends when they are gone."""
        self._reception.begin_shutdown()
        for arriving in self._arriving:
            arriving.cancel()
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
        async with open_listeners(addresses) as bound:
            task_status.started(tuple(one.address for one in bound))
            await self._reception.run(bound, self._open_door, self.begin_shutdown)

    def _open_door(self, bound: Bound) -> Converse:
        token = self._options.token if bound.names is not None else None
        return partial(self._converse, Gate(bound.names, self._origins, token))

    async def _converse(self, gate: Gate, stream: ByteStream) -> None:
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

    async def _receive_handshake(self, gate: Gate, stream: ByteStream) -> Verdict:
        with trio.move_on_after(self._options.limits.handshake) as patience:
            self._arriving.add(patience)
            try:
                return await receive_handshake(stream, gate)
            finally:
                self._arriving.discard(patience)
        raise HandshakeAborted
