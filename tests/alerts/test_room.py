"""The alerts over a whole supervision: each cause raised once, told, and said to be over."""

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.alerts import AlertSettings, room
from supervisor.alerts.ledger import Standing
from supervisor.alerts.rules import Outcome
from supervisor.control.service import SlowSubscriber
from supervisor.conversation.alerts import AlertKind
from supervisor.conversation.errors import HistoryGone
from supervisor.conversation.events import HealthChanged, StatusChanged
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Observed
from supervisor.conversation.restart import RestartPolicy
from supervisor.incidents import Incident
from supervisor.journal.changes import JournalError, Note
from supervisor.journal.ledger import Judgement
from supervisor.journal.store import Store
from tests.actors.test_restart import name_of
from tests.alerts.alerting import Alerting, FakeSink, open_alerting
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine
from tests.fakes.store import FaultyStore
from tests.world import C1, SETTINGS, SimulatedWallClock, open_world, until

C2, C3 = ConversationId("c2"), ConversationId("c3")
QUICK = attrs.evolve(SETTINGS, restart=RestartPolicy(jitter=0.0, backoff_initial=0.1, backoff_max=0.5))
NEVER = attrs.evolve(SETTINGS, restart=RestartPolicy(max_restarts=0))


async def die(alerting: Alerting, *, oom: bool = False) -> None:
    """Let C1's sandbox end by itself."""
    alerting.world.engine.die(name_of(alerting.world), 137 if oom else 1, oom=oom)
    await until(lambda: alerting.world.record().status is not Status.RUNNING)


async def die_and_come_again(alerting: Alerting, *, oom: bool = False) -> None:
    """The same, and wait until it runs again."""
    await die(alerting, oom=oom)
    await alerting.world.until_status(Status.RUNNING)


async def settle() -> None:
    """Let everything be judged and told."""
    await trio.sleep(1)


async def test_error_is_raised_once_and_over_when_it_is_left(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The event, and what the sink is told, say what it is, since when, and by which id."""
    async with open_alerting(tmp_path, settings=NEVER) as alerting:
        await alerting.world.start()
        await die(alerting)
        await settle()
        raised = {
            "id": "a1",
            "kind": "error",
            "severity": "critical",
            "cause": "error:c1",
            "message": "conversation c1 is in ERROR (exited): the sandbox exited with code 1; it was restarted 0 times "
            "in 600 s, which is all that max_restarts allows",
            "state": "raised",
        }
        assert await alerting.events() == [raised]
        await alerting.world.supervisor.restart(C1, None, force=False)
        await settle()
        over = raised | {"state": "over", "message": "conversation c1 is STARTING (restart)"}
        assert await alerting.events() == [raised, over]
        assert alerting.sink.told == ["error:c1 raised", "error:c1 over"]
        assert [body["type"] for body in alerting.sink.bodies] == ["alert.raised", "alert.over"]
        data = alerting.sink.bodies[1]["data"]
        assert data["raised_at"] < alerting.sink.bodies[1]["timestamp"]
        assert (data["conversation"], data["instance"], data["incident"]) == (
            "c1",
            alerting.world.supervision.journal.instance,
            None,
        )


async def test_flapping_container_raises_one_alert_for_each_cause(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It dies until it is given up: once for its allowance, once for its ERROR, and nothing for what follows."""
    async with open_alerting(tmp_path, settings=QUICK) as alerting:
        await alerting.world.start()
        for _ in range(5):
            await die_and_come_again(alerting)
        await settle()
        assert alerting.sink.told == ["allowance:c1 raised"]
        assert "has used 4 of 5 restarts in 600 s" in alerting.sink.bodies[0]["data"]["message"]
        await die(alerting)
        await settle()
        assert alerting.sink.told == ["allowance:c1 raised", "error:c1 raised"]
        await alerting.world.stop()
        await settle()
        assert alerting.sink.told[2:] == ["allowance:c1 over", "error:c1 over"]


async def test_allowance_is_over_when_it_was_not_spent_for_a_window(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A container that goes on dying, just not often enough to be given up, keeps its one alert until it has calmed."""
    async with open_alerting(tmp_path, settings=QUICK) as alerting:
        await alerting.world.start()
        for _ in range(12):
            await trio.sleep(145)
            await die_and_come_again(alerting)
        await trio.sleep(590)
        assert alerting.sink.told == ["allowance:c1 raised"]
        await trio.sleep(20)
        assert alerting.sink.told == ["allowance:c1 raised", "allowance:c1 over"]


async def test_out_of_memory_is_over_when_the_next_incarnation_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each incarnation that ran out is a cause of its own; the last one's is over with the conversation's restart."""
    async with open_alerting(tmp_path, settings=QUICK) as alerting:
        await alerting.world.start()
        await die_and_come_again(alerting, oom=True)
        await settle()
        assert alerting.sink.told == ["oom:c1:1 raised", "oom:c1:1 over"]
        await die(alerting, oom=True)
        await settle()
        assert alerting.sink.told[2:] == ["error:c1 raised", "oom:c1:2 raised"]
        await alerting.world.supervisor.restart(C1, None, force=False)
        await settle()
        assert sorted(alerting.sink.told[4:]) == ["error:c1 over", "oom:c1:2 over"]


async def test_engine_is_over_when_it_answers(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its alert is of the daemon, and of no conversation."""
    async with open_alerting(tmp_path) as alerting:
        await alerting.world.start()
        alerting.world.engine.go_down()
        await trio.sleep(120)
        assert alerting.sink.told == ["engine:docker raised"]
        alerting.world.engine.come_up()
        await trio.sleep(10)
        assert alerting.sink.told == ["engine:docker raised", "engine:docker over"]
        assert [event["state"] for event in await alerting.events(None)] == ["raised", "over"]
        assert await alerting.events() == []


async def test_bug_rings_once_until_it_has_been_quiet(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Many requests meet it: one alert, with the first one's incident, which lasts as long as it goes on."""
    async with open_alerting(tmp_path) as alerting:
        for number in range(10):
            alerting.box.put(Incident(f"i{number}", "conversation.get"))
            await trio.sleep(300)
        assert alerting.sink.told == ["internal:conversation.get raised"]
        data = alerting.sink.bodies[0]["data"]
        assert data["incident"] == "i0"
        assert data["message"] == "conversation.get failed as internal: the log has it as incident i0"
        await trio.sleep(310)
        assert alerting.sink.told[1:] == ["internal:conversation.get over"]
        alerting.box.put(Incident("again", "conversation.get"))
        await settle()
        assert [event["id"] for event in await alerting.events(None)] == ["a1", "a1", "a2"]


async def test_bug_that_is_met_all_the_time_writes_little(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its alert is prolonged once a second, not with each of a thousand."""
    async with open_alerting(tmp_path, make_store=FaultyStore) as alerting:
        store = alerting.world.supervision.journal._store
        assert isinstance(store, FaultyStore)
        commits = 0

        def count() -> None:
            nonlocal commits
            commits += 1

        store.written = count
        for number in range(1000):
            alerting.box.put(Incident(f"i{number}", "conversation.get"))
            await trio.sleep(0.01)
        assert commits < 20


async def test_crashed_actor_is_an_alert_of_its_conversation(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Found in the conversation's own history."""
    async with open_alerting(tmp_path) as alerting:
        await alerting.world.start()
        alerting.world.engine.fail_next("inspect", RuntimeError("a bug of ours"))
        alerting.world.engine.tell(C1)
        await trio.sleep(5)
        (event,) = await alerting.events()
        assert (event["kind"], event["cause"], event["state"]) == ("internal", "internal:actor:c1", "raised")
        assert "a bug of ours" not in str(alerting.sink.bodies)


async def test_disk_is_over_when_there_is_room_to_spare(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Around the limit it does not flutter."""
    async with open_alerting(tmp_path) as alerting:
        for free in (2**30, 2**30 - 1, 2**30 + 1, 2**29, 2**30 + 2**27):
            alerting.free = free
            await trio.sleep(60)
        assert alerting.sink.told == ["disk:/state raised"]
        assert alerting.sink.bodies[0]["data"]["message"] == "1,024 MiB are free for /state, less than 1,024 MiB"
        alerting.free = 2**30 + 2**28
        await trio.sleep(60)
        assert alerting.sink.told == ["disk:/state raised", "disk:/state over"]


async def test_kinds_say_what_raises_alerts(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A kind that is taken out by a reload raises nothing more, and what stands is still said to be over."""
    async with open_alerting(tmp_path, settings=NEVER) as alerting:
        for conversation in (C1, C2):
            await alerting.world.start(conversation)
        await die(alerting)
        await settle()
        alerting.settings = AlertSettings(kinds=(AlertKind.ENGINE,))
        alerting.world.engine.die(name_of(alerting.world, C2))
        await alerting.world.until_status(Status.ERROR, C2)
        await alerting.world.stop()
        await settle()
        assert alerting.sink.told == ["error:c1 raised", "error:c1 over"]
        assert await alerting.events(C2) == []


async def test_what_happened_while_nobody_judged_is_caught_up_with(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After an end at any moment: what stood is not raised again, what was missed is raised, and what ended is over."""
    sink, engine, agent = FakeSink(), FakeEngine(), FakeAgent()
    async with open_alerting(tmp_path, settings=NEVER, engine=engine, agent=agent, sink=sink) as alerting:
        for conversation in (C1, C2, C3):
            await alerting.world.start(conversation)
        await die(alerting)
        alerting.world.engine.die(name_of(alerting.world, C3))
        await settle()
    assert sink.told == ["error:c1 raised", "error:c3 raised"]
    async with open_world(tmp_path, settings=NEVER, engine=engine, agent=agent) as world:
        await world.stop()
        engine.die(name_of(world, C2))
        await world.until_status(Status.ERROR, C2)
    async with open_alerting(tmp_path, settings=NEVER, engine=engine, agent=agent, sink=sink, ids="b") as alerting:
        await settle()
        assert sink.told[2:] == ["error:c1 over", "error:c2 raised"]
        await alerting.world.stop(C3)
        await settle()
        assert [body["data"]["id"] for body in sink.bodies] == ["a1", "a2", "a1", "b1", "a2"]


async def test_raised_on_a_full_disk_is_told_when_there_is_room(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What cannot be written is judged again until it can, and then once."""
    async with open_alerting(tmp_path, make_store=FaultyStore) as alerting:
        store = alerting.world.supervision.journal._store
        assert isinstance(store, FaultyStore)
        store.full = True
        alerting.box.put(Incident("i1", "conversation.get"))
        alerting.free = 0
        await trio.sleep(200)
        assert alerting.sink.told == []
        store.full = False
        await trio.sleep(70)
        assert sorted(alerting.sink.told) == ["disk:/state raised", "internal:conversation.get raised"]


async def test_stalled_commit_that_succeeds_after_all_raises_nothing_twice(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A disk that hangs for longer than a commit is waited for: the journal is asked what became of it."""
    async with open_alerting(tmp_path) as alerting:
        journal, stuck = alerting.world.supervision.journal, object()
        journal._writing.acquire_on_behalf_of_nowait(stuck)
        alerting.box.put(Incident("i1", "conversation.get"))
        await trio.sleep(59)
        journal._writing.release_on_behalf_of(stuck)
        await settle()
        journal._writing.acquire_on_behalf_of_nowait(stuck)
        alerting.box.put(Incident("i2", "conversation.list"))
        await trio.sleep(60.5)
        journal._writing.release_on_behalf_of(stuck)
        await trio.sleep(5)
        assert alerting.sink.told == ["internal:conversation.get raised", "internal:conversation.list raised"]


async def test_events_that_are_gone_hold_up_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Pruned before they were judged: the alerts go on with what is still kept."""
    async with open_alerting(tmp_path, settings=NEVER) as alerting:
        await alerting.world.start()
        engine, agent = alerting.world.engine, alerting.world.agent
    store = Store(tmp_path / "journal.db")
    store.prune(store.newest_before(SimulatedWallClock().now()))
    store.close()
    async with open_alerting(tmp_path, settings=NEVER, engine=engine, agent=agent) as alerting:
        await die(alerting)
        await settle()
        assert alerting.sink.told == ["error:c1 raised"]


@pytest.mark.parametrize("failure", [SlowSubscriber(), HistoryGone("gone", 7), JournalError("no")], ids=repr)
async def test_subscription_that_fails_is_opened_again(
    tmp_path: Path, autojump_clock: MockClock, failure: Exception
) -> None:
    """Where it was left: nothing is missed."""
    async with open_alerting(tmp_path, settings=NEVER, failures=[failure, failure]) as alerting:
        await alerting.world.start()
        await die(alerting)
        await trio.sleep(15)
        assert alerting.sink.told == ["error:c1 raised"]


async def test_events_that_come_to_nothing_are_not_judged_for_ever_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """How far it has come is written down now and then, though nothing is raised."""
    async with open_alerting(tmp_path) as alerting:
        journal = alerting.world.supervision.journal
        told = (HealthChanged(Observed.LIVE, "well"),) * 600
        for _ in range(2):
            await journal.commit(Note(C1, SimulatedWallClock().now(), told))
            await settle()
        assert (await journal.judgement()).through >= 1000


async def test_event_that_nobody_understands_holds_up_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is passed by, and the next ones are judged."""
    async with open_alerting(tmp_path, settings=NEVER) as alerting:
        await alerting.world.start()
        changed = StatusChanged(Status.RUNNING, cast("Status", "DANCING"), "of another version")
        await alerting.world.supervision.journal.commit(Note(C1, SimulatedWallClock().now(), (changed,)))
        await die(alerting)
        await settle()
        assert alerting.sink.told == ["error:c1 raised"]


async def test_failure_in_the_alerts_ends_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A look that raises what nobody expects is made again."""
    async with open_alerting(tmp_path) as alerting:
        alerting.look_failures = [RuntimeError("a bug"), OSError("no")]
        alerting.free = 0
        await trio.sleep(130)
        assert alerting.sink.told == ["disk:/state raised"]


async def test_alerts_that_cannot_be_read_are_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What stands is not forgotten because the journal could not be read at the start."""
    async with open_alerting(tmp_path, settings=NEVER) as alerting:
        await alerting.world.start()
        await die(alerting)
        await settle()
        engine, agent = alerting.world.engine, alerting.world.agent
    async with open_alerting(
        tmp_path, settings=NEVER, engine=engine, agent=agent, make_store=ForgetfulStore
    ) as alerting:
        await alerting.world.stop()
        await trio.sleep(10)
        assert alerting.sink.told == ["error:c1 over"]


class ForgetfulStore(Store):
    """Cannot tell at first which alerts stand."""

    failures = 3

    def judgement(self) -> Judgement:
        """As the store does, later."""
        if self.failures:
            self.failures -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return super().judgement()


async def test_what_has_no_end_of_its_own_is_not_asked_for_it(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands that stand would each be judged at each change of any."""
    asked: list[str] = []

    def judge(_now: datetime, cause: str, _standing: Standing) -> Iterable[Outcome]:
        asked.append(cause)
        return ()

    monkeypatch.setattr(room, "judge_time", judge)
    async with open_alerting(tmp_path, settings=NEVER) as alerting:
        await alerting.world.start()
        await die(alerting)
        alerting.box.put(Incident("i1", "conversation.get"))
        await trio.sleep(590)
        assert asked == []
        await trio.sleep(20)
        assert set(asked) == {"internal:conversation.get"}
