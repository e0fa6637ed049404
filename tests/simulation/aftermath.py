"""What must still be possible on a simulated host when everything has settled: to hear it all, and to end it all."""

from typing import Final

import trio

from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from tests.simulation.checks import Ending

_REPLAYED_WITHIN: Final = 5.0
_ENDED_WITHIN: Final = 120.0


async def wrong_with_replays(ending: Ending) -> list[str]:
    """Who subscribes, from whatever point, hears what the journal has after it."""
    wrong = []
    for since in {0, len(ending.events) // 3, len(ending.events) - 1}:
        heard: list[RecordedEvent] = []
        expected = list(ending.events[since:])
        with trio.move_on_after(_REPLAYED_WITHIN):
            async with ending.supervisor.subscribe(since, None, snapshot=False) as events:
                async for event in events:
                    heard.append(event)
                    if len(heard) == len(expected):
                        break
        if heard != expected:
            wrong.append(f"{len(heard)} of {len(expected)} events were heard by who subscribed from {since}")
    return wrong


async def wrong_with_last_days(ending: Ending) -> list[str]:
    """Every conversation still does what it is told: it is brought to run, and deleted; then nothing is left."""
    wrong: list[str] = []

    async def end(record: ConversationRecord) -> None:
        await trio.lowlevel.checkpoint()
        try:
            if record.status is not Status.ARCHIVED:
                await ending.supervisor.stop(record.id, None, force=False)
                await ending.supervisor.restart(record.id, None, force=False)
                await ending.supervisor.stop(record.id, None, force=True)
            await ending.supervisor.delete(record.id)
        except ConversationdError as error:
            wrong.append(f"{record.id} was {record.status} and could not be brought to its end: {error}")

    with trio.move_on_after(_ENDED_WITHIN) as scope:
        async with trio.open_nursery() as nursery:
            for record in ending.records:
                nursery.start_soon(end, record)
    engine = ending.host.engine
    left = [*(one.name for one in engine.containers.values()), *engine.volumes]
    if scope.cancelled_caught or (left and not wrong):
        wrong.append(f"not every conversation came to its end: {left}")
    return wrong
