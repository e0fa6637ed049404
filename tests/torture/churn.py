"""Clients that walk conversations through their life at random, all at once, and come back when the daemon does."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from random import Random
from typing import Final

import attrs
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import CannotConnect, ConnectionLost, ControlClient, RemoteError, connect
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.lifecycle import Status
from tests.torture.ledger import Account, Ledger, Presence
from tests.torture.workspaces import start_with_token

_COME_BACK_AFTER: Final = 0.05
_DUEL: Final = 0.05
"""How often a client sends two commands at once and does not care which one comes first."""


class Move(StrEnum):
    """What a client may do next."""

    START = "start"
    START_UNWAITED = "start, not waited for"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    FORCE_STOP = "force stop"
    RESTART = "restart"
    FORCE_RESTART = "force restart"
    ARCHIVE = "archive"
    DELETE = "delete"


_MOVES: Final[dict[Status | None, tuple[Move, ...]]] = {
    None: (Move.START, Move.START, Move.START_UNWAITED),
    Status.STARTING: (Move.STOP, Move.FORCE_STOP, Move.START),
    Status.RUNNING: (Move.PAUSE, Move.PAUSE, Move.PAUSE, Move.STOP, Move.FORCE_STOP, Move.FORCE_RESTART),
    Status.PAUSED: (Move.RESUME, Move.RESUME, Move.RESUME, Move.STOP, Move.FORCE_STOP),
    Status.STOPPED: (Move.RESTART, Move.DELETE, Move.ARCHIVE),
    Status.ARCHIVED: (Move.DELETE,),
    Status.ERROR: (Move.RESTART, Move.STOP),
}


@attrs.frozen
class Pace:
    """How clients behave. Seconds: `rest` between commands on average, `within` is what each command is given.

    `patience` is when a command that was not answered, by a daemon that is there, counts as lost.
    """

    rest: float = 0.05
    within: float = 60.0
    patience: float = 150.0


@attrs.define(eq=False)
class Churn:
    """One client for each conversation, until `stop`."""

    address: UnixAddress
    ledger: Ledger
    names: Sequence[str]
    random: Random
    pace: Pace = attrs.field(factory=Pace)
    _ending: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Walk for as long as the block lasts; then every client ends the step that it is in."""
        async with trio.open_nursery() as nursery:
            for name in self.names:
                nursery.start_soon(self._walk, self.ledger.account(name))
            yield
            self._ending.set()

    async def _walk(self, account: Account) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ending.is_set():
            try:
                async with connect(self.address) as client:
                    await check(client, account)
                    await self._step_on(client, account)
            except (CannotConnect, ConnectionLost):
                await trio.sleep(_COME_BACK_AFTER)

    async def _step_on(self, client: ControlClient, account: Account) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ending.is_set():
            if account.status is None and account.presence is not Presence.ABSENT:
                await check(client, account)
            await self._step(client, account)
            with trio.move_on_after(self.random.expovariate(1 / self.pace.rest)):
                await self._ending.wait()

    async def _step(self, client: ControlClient, account: Account) -> None:
        await trio.lowlevel.checkpoint()
        move = self.random.choice(_MOVES[account.status])
        if account.presence is Presence.ABSENT or self.random.random() > _DUEL:
            await self._try(client, account, move)
            return
        other = self.random.choice([one for moves in _MOVES.values() for one in moves])
        contested = Account(account.conversation, account.ledger, contested=True)
        account.doubt(Presence.PERHAPS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._try, client, contested, move))
            nursery.start_soon(partial(self._try, client, contested, other))

    async def _try(self, client: ControlClient, account: Account, move: Move) -> None:
        """Send one command; that the connection is lost shows at the next one, which ends it."""
        await trio.lowlevel.checkpoint()
        doubtful = _DOUBTFUL.get(move, account.presence)
        with trio.move_on_after(self.pace.patience) as patience:
            await trio.lowlevel.checkpoint()
            account.ledger.vain_kills[account.conversation] += move is Move.FORCE_STOP
            try:
                await perform(client, account, move, self.pace.within)
                account.ledger.vain_kills[account.conversation] -= move is Move.FORCE_STOP
            except RemoteError as error:
                account.refused(error, doubtful)
            except ConnectionLost:
                account.doubt(doubtful)
        if patience.cancelled_caught:
            account.doubt(doubtful)
            account.ledger.lose(f"{account.conversation}: {move} was not answered in {self.pace.patience:g} s")


_DOUBTFUL: Final = {
    Move.START: Presence.PERHAPS,
    Move.START_UNWAITED: Presence.PERHAPS,
    Move.DELETE: Presence.PERHAPS,
}
"""What is known of a conversation's presence after a command that was cut or failed."""


async def perform(client: ControlClient, account: Account, move: Move, within: float) -> None:
    """Do one thing to a conversation and take down what the daemon answers.

    Raises:
        RemoteError: it was refused, or failed.
        ConnectionLost: nobody knows.
    """
    await trio.lowlevel.checkpoint()
    name = account.conversation
    match move:
        case Move.START:
            account.learn(await start_with_token(client, name, within=within), *_UP)
        case Move.START_UNWAITED:
            account.learn(await start_with_token(client, name, wait=False, within=within), Status.STARTING)
        case Move.PAUSE:
            account.learn(await client.pause(name, within=within), Status.PAUSED)
        case Move.RESUME:
            account.learn(await client.resume(name, within=within), Status.RUNNING)
        case Move.STOP | Move.FORCE_STOP:
            stopped = await client.stop(name, force=move is Move.FORCE_STOP, within=within)
            account.learn(stopped.conversation, Status.STOPPED, Status.ARCHIVED)
        case Move.RESTART | Move.FORCE_RESTART:
            force = move is Move.FORCE_RESTART
            account.learn(await client.restart(name, force=force, within=within), *_UP)
        case Move.ARCHIVE:
            account.learn(await client.archive(name, within=within), Status.ARCHIVED)
        case Move.DELETE:
            await client.delete(name)
            account.ledger.answers["deleted"] += 1
            account.forget()


_UP: Final = (Status.STARTING, Status.RUNNING)


async def check(client: ControlClient, account: Account) -> None:
    """Hold the daemon to what it told of a conversation.

    Raises:
        RemoteError: it cannot say.
        ConnectionLost: it went away meanwhile.
    """
    await trio.lowlevel.checkpoint()
    try:
        seen = await client.get(account.conversation)
    except RemoteError as error:
        if not error.has(ErrorCode.NOT_FOUND):
            raise
        account.check(None)
    else:
        account.check(seen)
