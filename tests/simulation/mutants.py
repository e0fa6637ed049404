"""Bugs that one could have made, planted one at a time: the simulator has to find each of them.

`python -m tests.simulation.mutants` plants them all and prints by what each was found, and how.
"""

import itertools
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any, Final
from unittest import mock

import attrs
import click
import trio

from supervisor.actors import actor, boot, booting, effects, ends, sight
from supervisor.actors.boot import Boot
from supervisor.actors.context import ActorContext
from supervisor.actors.creations import Creations
from supervisor.actors.engines import EngineSight
from supervisor.actors.findings import Died
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.mailbox import Answer, CommandMessage, Mailbox, Message, Reply
from supervisor.actors.sight import SandboxSight
from supervisor.actors.supervisor import Supervisor
from supervisor.alerts.delivery import Deliverer
from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.events import Event, RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Command
from supervisor.conversation.record import ConversationRecord, Intent, Phase, SandboxRef
from supervisor.conversation.restart import Cause, PastRestart, RestartDecision, RestartPolicy, decide_restart
from supervisor.journal.changes import Told
from supervisor.journal.codec import encode_event_data
from supervisor.journal.journal import Journal
from supervisor.journal.ledger import Delivery, Judgement
from supervisor.sandbox.docker import DockerProvider, containers
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.docker.endings import Endings
from supervisor.sandbox.docker.views import EngineJson
from supervisor.sandbox.port import SandboxView
from tests.simulation.kept import HOSTS, KEPT
from tests.simulation.play import play
from tests.simulation.script import Step, make_script

MOST_SEEDS: Final = 600


async def _do_nothing(*_: object, **__: object) -> None:
    await trio.lowlevel.checkpoint()


@contextmanager
def _announce_before_commit() -> Iterator[None]:
    real = Journal._write

    async def write(self: Journal, batch: list[Any]) -> None:
        seq = self.last_seq
        told = []
        for change in (waiting.change for waiting in batch):
            for event in change.events:
                seq += 1
                data = encode_event_data(event)
                told.append(RecordedEvent(seq, change.at, change.conversation, event.kind, data))
        self._announce(told)
        await trio.sleep(0.001)
        with mock.patch.object(self, "_announce"):
            await real(self, batch)

    with mock.patch.object(Journal, "_write", write):
        yield


@contextmanager
def _answer_before_commit() -> Iterator[None]:
    real = RecordKeeper._commit

    async def commit(self: RecordKeeper, record: ConversationRecord, events: tuple[Event, ...]) -> None:
        self.record = attrs.evolve(record, updated_at=self.now())
        await trio.sleep(0.001)
        await real(self, record, events)

    real_stopped = ends._stopped

    async def stopped(keeper: RecordKeeper, *told: Event) -> None:
        with mock.patch.object(RecordKeeper, "_commit", _do_nothing):
            await real_stopped(keeper, *told)

    with mock.patch.object(RecordKeeper, "_commit", commit), mock.patch.object(ends, "_stopped", stopped):
        yield


@contextmanager
def _decide_without_a_claim() -> Iterator[None]:
    async def deliver(self: Supervisor, message: CommandMessage, conversation: ConversationId) -> Reply[Answer]:
        async with self._creations.claiming(conversation):
            handle = self._registry.find(conversation)
        if handle is not None:
            return self._send(handle, message)
        return await self._deliver_without_actor(message, conversation)

    with mock.patch.object(Supervisor, "_deliver_in_turn", deliver):
        yield


@contextmanager
def _forget_the_intent() -> Iterator[None]:
    real = RecordKeeper.save

    async def save(self: RecordKeeper, record: ConversationRecord, *events: Event) -> None:
        forgotten = record.intent in (Intent.DELETE, Intent.STOP, Intent.ARCHIVE)
        await real(self, attrs.evolve(record, intent=None) if forgotten else record, *events)

    with mock.patch.object(RecordKeeper, "save", save):
        yield


@contextmanager
def _forget_that_a_sandbox_is_made() -> Iterator[None]:
    real = RecordKeeper.save

    async def save(self: RecordKeeper, record: ConversationRecord, *events: Event) -> None:
        forgotten = record.intent is Intent.CREATE
        await real(self, attrs.evolve(record, intent=None, sandbox=None) if forgotten else record, *events)

    with mock.patch.object(RecordKeeper, "save", save):
        yield


@contextmanager
def _take_an_outage_for_a_death() -> Iterator[None]:
    async def lose(self: SandboxSight, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._keeper.record.status == "RUNNING":
            await self._recover(Died(Cause.EXITED, reason, 1, oom_killed=False))

    with mock.patch.object(SandboxSight, "_lose", lose):
        yield


@contextmanager
def _take_an_outage_for_ill_health() -> Iterator[None]:
    async def lose(self: SandboxSight, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._keeper.record.status == "RUNNING":
            await self._recover(Died(Cause.UNHEALTHY, reason))

    with mock.patch.object(SandboxSight, "_lose", lose):
        yield


@contextmanager
def _answer_nobody() -> Iterator[None]:
    def answer(self: Reply[Answer], value: Answer) -> None:
        self._value = value

    with mock.patch.object(Reply, "answer", answer):
        yield


@contextmanager
def _lose_the_workspace() -> Iterator[None]:
    real = Boot._make_room

    async def make_room(self: Boot) -> None:
        if self._keeper.record.sandbox is not None:
            await self._provider.remove(self._keeper.record.sandbox.name)
            await self._provider.remove_workspace(self._keeper.record.id)
        await real(self)

    with mock.patch.object(Boot, "_make_room", make_room):
        yield


@contextmanager
def _ignore_every_deadline() -> Iterator[None]:
    def limit(_: float | None, most: float) -> float:
        return most

    with mock.patch.object(booting, "limit", limit), mock.patch.object(actor, "limit", limit):
        yield


@contextmanager
def _hand_nothing_over() -> Iterator[None]:
    real = Boot._phase

    async def phase(self: Boot, which: Phase, view: SandboxView, work: Callable[[], Awaitable[None]]) -> None:
        if which is not Phase.AGENT:
            await real(self, which, view, work)
        await trio.lowlevel.checkpoint()

    with mock.patch.object(Boot, "_phase", phase):
        yield


@contextmanager
def _lose_a_command() -> Iterator[None]:
    real = Mailbox.take

    async def take(self: Mailbox) -> Message:
        message = await real(self)
        while isinstance(message, CommandMessage) and message.command is Command.RESUME and message.within is None:
            message = await real(self)
        return message

    with mock.patch.object(Mailbox, "take", take):
        yield


@contextmanager
def _share_a_restart_window() -> Iterator[None]:
    shared: list[PastRestart] = []

    def decide(
        policy: RestartPolicy, _: Sequence[PastRestart], cause: Cause, now: datetime, dice: float
    ) -> RestartDecision:
        decision = decide_restart(policy, tuple(shared), cause, now, dice)
        shared.append(PastRestart(now, cause))
        return decision

    with mock.patch.object(boot, "decide_restart", decide), mock.patch.object(sight, "decide_restart", decide):
        yield


@contextmanager
def _restart_for_memory_for_ever() -> Iterator[None]:
    def decide(
        policy: RestartPolicy, history: Sequence[PastRestart], cause: Cause, now: datetime, dice: float
    ) -> RestartDecision:
        return decide_restart(attrs.evolve(policy, max_oom_restarts=99), history, cause, now, dice)

    with mock.patch.object(boot, "decide_restart", decide), mock.patch.object(sight, "decide_restart", decide):
        yield


@contextmanager
def _call_it_running_before_it_is_ready() -> Iterator[None]:
    real = Boot._phase

    async def phase(self: Boot, which: Phase, view: SandboxView, work: Callable[[], Awaitable[None]]) -> None:
        if which is not Phase.BOOT:
            await real(self, which, view, work)
        await trio.lowlevel.checkpoint()

    async def begin(self: Boot, ask: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(0.01):
            await ask()

    with mock.patch.object(Boot, "_phase", phase), mock.patch.object(Boot, "insist", begin):
        yield


@contextmanager
def _remember_no_run() -> Iterator[None]:
    real = effects._paused

    def paused(record: ConversationRecord) -> ConversationRecord:
        return attrs.evolve(real(record), run_on_resume=False)

    with mock.patch.object(effects, "_paused", paused):
        yield


@contextmanager
def _restart_at_once() -> Iterator[None]:
    with mock.patch.object(Boot, "_await_backoff", _do_nothing):
        yield


@contextmanager
def _sweep_nothing() -> Iterator[None]:
    with mock.patch.object(EngineSight, "sweep", _do_nothing):
        yield


@contextmanager
def _leave_late_workspaces() -> Iterator[None]:
    with mock.patch.object(EngineSight, "_remove_late_workspaces", _do_nothing):
        yield


@contextmanager
def _pause_without_freezing() -> Iterator[None]:
    with mock.patch.object(DockerProvider, "pause", _do_nothing):
        yield


@contextmanager
def _keep_the_volume() -> Iterator[None]:
    with mock.patch.object(DockerProvider, "remove_workspace", _do_nothing):
        yield


@contextmanager
def _kill_without_looking() -> Iterator[None]:
    async def kill_or_remove(keeper: RecordKeeper, context: ActorContext, sandbox: SandboxRef) -> None:
        with trio.move_on_after(1.0), suppress(ConversationdError):
            await trio.lowlevel.checkpoint()
            await context.provider(keeper.record).kill(sandbox.name)
        await trio.lowlevel.checkpoint()

    with mock.patch.object(ends, "_kill_or_remove", kill_or_remove):
        yield


@contextmanager
def _create_again_without_looking() -> Iterator[None]:
    real = containers._create

    def create(client: EngineClient, name: str, body: JsonObject) -> str | None:
        return real(client, name, body) or real(client, f"{name}-again", body)

    with mock.patch.object(containers, "_create", create):
        yield


@contextmanager
def _keep_the_last_container() -> Iterator[None]:
    real = Boot._make_room

    async def make_room(self: Boot) -> None:
        with mock.patch.object(DockerProvider, "remove", _do_nothing):
            await real(self)

    with mock.patch.object(Boot, "_make_room", make_room):
        yield


@contextmanager
def _judge_again_what_was_judged() -> Iterator[None]:
    real = Journal.judgement

    async def judgement(self: Journal) -> Judgement:
        return attrs.evolve(await real(self), through=0)

    with mock.patch.object(Journal, "judgement", judgement):
        yield


@contextmanager
def _take_a_notice_off_before_it_is_told() -> Iterator[None]:
    real = Deliverer._deliver

    async def deliver(self: Deliverer, delivery: Delivery) -> bool:
        await self._journal.commit(Told(delivery.number, self._clock.now()))
        return await real(self, delivery)

    with mock.patch.object(Deliverer, "_deliver", deliver):
        yield


@contextmanager
def _let_waiters_in_in_any_order() -> Iterator[None]:
    real = Creations.claiming
    claimed: dict[ConversationId, trio.Event] = {}

    @asynccontextmanager
    async def claiming(self: Creations, conversation: ConversationId) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        while conversation in claimed:
            await claimed[conversation].wait()
        settled = claimed[conversation] = trio.Event()
        try:
            async with real(self, conversation):
                yield
        finally:
            del claimed[conversation]
            settled.set()

    with mock.patch.object(Creations, "claiming", claiming):
        yield


@contextmanager
def _take_what_is_repeated_for_news() -> Iterator[None]:
    def date(self: Endings, event: EngineJson, now: float, wall: float) -> float:
        return now - max(0.0, wall - float(event["timeNano"]) / 1e9)

    with mock.patch.object(Endings, "_date", date):
        yield


@contextmanager
def _start_twice() -> Iterator[None]:
    with mock.patch.object(Containers, "_may_start_late", return_value=False):
        yield


@contextmanager
def _keep_what_was_never_seen_to_run() -> Iterator[None]:
    real = ends._kill_or_remove

    async def kill_or_remove(keeper: RecordKeeper, context: ActorContext, sandbox: SandboxRef) -> None:
        await real(keeper, context, attrs.evolve(sandbox, id="seen"))

    with mock.patch.object(ends, "_kill_or_remove", kill_or_remove):
        yield


MUTANTS: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {
    "announce before commit": _announce_before_commit,
    "answer before commit": _answer_before_commit,
    "decide without a claim": _decide_without_a_claim,
    "forget the intent": _forget_the_intent,
    "forget that a sandbox is made": _forget_that_a_sandbox_is_made,
    "create again without looking": _create_again_without_looking,
    "keep the last container": _keep_the_last_container,
    "take an outage for a death": _take_an_outage_for_a_death,
    "take an outage for ill health": _take_an_outage_for_ill_health,
    "answer nobody": _answer_nobody,
    "lose a command in the mailbox": _lose_a_command,
    "lose the workspace": _lose_the_workspace,
    "ignore every deadline": _ignore_every_deadline,
    "hand nothing over": _hand_nothing_over,
    "share a restart window": _share_a_restart_window,
    "restart for memory for ever": _restart_for_memory_for_ever,
    "call it running before it is ready": _call_it_running_before_it_is_ready,
    "restart at once": _restart_at_once,
    "remember no run": _remember_no_run,
    "sweep nothing": _sweep_nothing,
    "leave late workspaces": _leave_late_workspaces,
    "pause without freezing": _pause_without_freezing,
    "keep the volume": _keep_the_volume,
    "take a kill for granted": _kill_without_looking,
    "judge again what was judged": _judge_again_what_was_judged,
    "take a notice off before it is told": _take_a_notice_off_before_it_is_told,
    "let waiters in in any order": _let_waiters_in_in_any_order,
    "take what is repeated for news": _take_what_is_repeated_for_news,
    "start twice": _start_twice,
    "keep what was never seen to run": _keep_what_was_never_seen_to_run,
}

RARE: Final = frozenset(
    {
        "leave late workspaces",
        "let waiters in in any order",
        "take what is repeated for news",
        "start twice",
        "keep what was never seen to run",
    }
)
"""Those that show once in 100,000 seeds or so: the scripts that are kept have to find them."""


@attrs.frozen
class Found:
    """By which seed, or kept script, a mutant was found, None if by none, and what was wrong then."""

    mutant: str
    where: str | None
    problem: str


def find(mutant: str) -> Found:
    """Plant a bug and play until something shows it."""
    for where, seed, steps in _stories(mutant):
        with MUTANTS[mutant]():
            verdict = play(seed, steps)
        if verdict.problems:
            return Found(mutant, where, verdict.problems[0])
    return Found(mutant, None, "")


def _stories(mutant: str) -> Iterator[tuple[str, int, Sequence[Step]]]:
    if mutant in RARE:
        for name, host in itertools.product(KEPT, HOSTS):
            yield f"{name!r} on host {host}", host, KEPT[name]
    else:
        for seed in range(MOST_SEEDS):
            yield f"seed {seed}", seed, make_script(seed)


def find_all(jobs: int) -> Iterator[Found]:
    """Look for every mutant."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(find, MUTANTS)


@click.command(epilog="Example: python -m tests.simulation.mutants")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="How many at once.")
def main(jobs: int) -> None:
    """Plant bugs, one at a time; exits with 1 if the simulator misses one."""
    missed = 0
    for found in find_all(jobs):
        missed += found.where is None
        how = "MISSED" if found.where is None else f"{found.where}: {found.problem.splitlines()[-1][:100]}"
        click.echo(f"{found.mutant}: {how}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
