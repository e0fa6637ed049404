"""The HTTP server: serves connections that `reception` takes in, and lets end in two phases with the daemon."""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final, cast

import attrs
import trio
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from starlette.types import ASGIApp

from supervisor.control.address import ControlAddress
from supervisor.control.handshake import Refusal
from supervisor.control.methods import SpecParser
from supervisor.control.reception import ByteStream, Converse, HouseRules, Reception
from supervisor.control.service import ConversationService
from supervisor.control.sockets import Bound, open_listeners
from supervisor.conversation.json import JsonObject
from supervisor.http.app import make_app
from supervisor.http.connection import HttpConnection, HttpLimits, protocol_config
from supervisor.http.gate import Gate, Policy
from supervisor.http.keys import ApiKeys

_FULL: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "All HTTP connections are taken: try again later.")
_ENDS: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


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
        limits = options.limits
        self._options = options
        self._config = protocol_config(limits)
        self._context = WorkerContext(None)
        self._reception = Reception(
            HouseRules("http", options.max_connections, _FULL, _ENDS, limits.linger, options.shutdown)
        )
        ending = self._reception.ending
        self._app = make_app(service, parse_spec, ending, limits.keep_alive, options.agent_request)

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._reception.connections

    def begin_shutdown(self) -> None:
        """Stop accepting, end every stream of events, and let what is being answered end. Returns at once."""
        self._reception.begin_shutdown()

    async def run(
        self, address: ControlAddress, *, task_status: trio.TaskStatus[ControlAddress] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until `begin_shutdown`, or cancellation, which ends it in the same two phases.

        Reports the address that it listens on, with the port that the kernel chose.

        Raises:
            CannotListen: the address cannot be had.
        """
        async with open_listeners((address,)) as bound:
            task_status.started(bound[0].address)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._terminate)
                await self._reception.run(bound, self._open_door, self.begin_shutdown)

    async def _terminate(self) -> None:
        """Tell Hypercorn of the end when it begins, however that comes about."""
        with trio.CancelScope(shield=True):  # the reception never ends without having begun to
            await self._reception.ending.wait()
            await self._context.terminated.set()

    def _open_door(self, bound: Bound) -> Converse:
        return partial(self._converse, Gate(self._app, self._policy(bound), self._options.limits))

    async def _converse(self, app: ASGIApp, stream: ByteStream) -> None:
        limits = self._options.limits
        await HttpConnection(cast("ASGIFramework", app), self._config, self._context, limits, stream).run()

    def _policy(self, bound: Bound) -> Policy:
        names = None
        if bound.names is not None:
            own = {name.decode() for name in bound.names}
            names = frozenset(own | {name.lower() for name in self._options.allowed_hosts})
        return Policy(names, frozenset(self._options.cors_origins), self._options.keys)
