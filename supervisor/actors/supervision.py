"""Supervision: the journal, the engines and the actors brought up in the right order, and taken down in the reverse.

The journal's writer outlives everything that commits. The engines come into sight before the actors are made, every
actor has adopted its conversation before the first sweep, and only then is there anything to serve.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Final

import attrs
import structlog
import trio

from supervisor.actors.bus import Bus
from supervisor.actors.clock import Clock
from supervisor.actors.context import ActorContext
from supervisor.actors.creations import KEYS_LIVE, Creations
from supervisor.actors.engines import EngineSight
from supervisor.actors.registry import Registry
from supervisor.actors.settings import ActorSettings
from supervisor.actors.supervisor import Supervisor
from supervisor.agent.port import AgentDriver
from supervisor.journal.changes import JournalError
from supervisor.journal.journal import Journal, Offload
from supervisor.journal.store import Store
from supervisor.sandbox.port import SandboxProvider
from supervisor.threads import in_thread

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FIRST_WORD_WITHIN: Final = 15.0
_PRUNE_EVERY: Final = 3600.0


@attrs.frozen(eq=False)
class Parts:
    """What supervision is made of. `retention` is seconds that events are kept, 0 for ever."""

    store: Store
    providers: Mapping[str, SandboxProvider]
    drivers: Mapping[str, AgentDriver]
    settings: Callable[[], ActorSettings]
    clock: Clock
    random: Random
    retention: float = 0.0
    offload: Offload = in_thread


@attrs.frozen(eq=False)
class Supervision:
    """What runs: `supervisor` serves clients, `journal` and `registry` are for who looks after the daemon."""

    supervisor: Supervisor
    registry: Registry
    journal: Journal
    engines: Mapping[str, EngineSight]


@asynccontextmanager
async def supervise(parts: Parts) -> AsyncIterator[Supervision]:
    """Bring everything up, reconciled, and take it down again when the context ends; sandboxes are left as they are."""
    bus = Bus()
    journal = Journal(parts.store, bus.publish, parts.offload)
    # A cancellation from outside must not reach the writer before those who wait for it.
    writing = trio.CancelScope(shield=True)

    async def write() -> None:
        with writing:
            await journal.run()

    async with trio.open_nursery() as outer:
        outer.start_soon(write, name="journal writer")
        try:
            async with trio.open_nursery() as nursery:
                yield await _bring_up(parts, journal, bus, nursery)
                nursery.cancel_scope.cancel()
        finally:
            writing.cancel()


async def _bring_up(parts: Parts, journal: Journal, bus: Bus, nursery: trio.Nursery) -> Supervision:
    engines = {name: EngineSight(provider, journal, parts.clock) for name, provider in parts.providers.items()}
    context = ActorContext(
        providers=parts.providers,
        drivers=parts.drivers,
        settings=parts.settings,
        engine_answers=lambda name: engines[name].answers,
        random=parts.random,
    )
    registry = Registry(nursery, journal, parts.clock, context)
    nursery.start_soon(bus.run, name="bus")
    for name, engine in engines.items():
        nursery.start_soon(engine.run, name=f"engine {name}")
    await _await_first_words(engines)
    await _adopt_all(registry, journal)
    creations = Creations(registry, journal, parts.clock)
    await creations.load_keys()
    supervisor = Supervisor(
        registry=registry,
        journal=journal,
        bus=bus,
        clock=parts.clock,
        context=context,
        engines=engines,
        creations=creations,
    )
    for engine in engines.values():
        await engine.first_sweep(registry, creations)
    nursery.start_soon(_prune, journal, creations, parts, name="pruner")
    return Supervision(supervisor, registry, journal, engines)


async def _await_first_words(engines: Mapping[str, EngineSight]) -> None:
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(_FIRST_WORD_WITHIN):
        await trio.lowlevel.checkpoint()
        for engine in engines.values():
            await engine.first_word.wait()


async def _adopt_all(registry: Registry, journal: Journal) -> None:
    handles = [registry.take_up(record) for record in await journal.live_records()]
    for handle in handles:
        await handle.adopted.wait()
    _log.info("conversations.adopted", count=len(handles))


async def _prune(journal: Journal, creations: Creations, parts: Parts) -> None:
    while True:
        now = parts.clock.now()
        creations.forget_keys(now - KEYS_LIVE)
        before = now - timedelta(seconds=parts.retention) if parts.retention else None
        try:
            await journal.prune(before, now - KEYS_LIVE)
        except JournalError as error:
            _log.warning("journal.not_pruned", error=str(error))
        except Exception:  # noqa: BLE001 - what is tried again in an hour must end nothing
            _log.exception("journal.not_pruned")
        await trio.sleep(_PRUNE_EVERY)
