"""What must be true of a simulated host: at each commit while it runs, and at the end when everything has settled."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

import attrs

from supervisor.actors.supervisor import Supervisor
from supervisor.conversation.alerts import StandingAlert
from supervisor.conversation.errors import InternalError, ShuttingDown
from supervisor.conversation.events import RecordedEvent, StatusChanged
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status, is_legal
from supervisor.conversation.record import ConversationRecord, ExecutionStatus, FailureCode, Intent, Observed
from supervisor.conversation.restart import Cause
from supervisor.journal.changes import Change, Create, JournalError, Update
from supervisor.sandbox.docker.names import CONVERSATION_LABEL
from tests.simulation.clients import Asked, Clients
from tests.simulation.docker import Container, Engine
from tests.simulation.host import SETTINGS, Host
from tests.simulation.script import CONVERSATIONS, Kind

_DEATHS: Final = (Cause.EXITED, Cause.OOM_KILLED, Cause.REMOVED, Cause.UNHEALTHY)
_ENDED: Final = (Status.STOPPED, Status.ARCHIVED)
_TOLERANCE: Final = 0.001
_HOPELESS: Final = (126, 127)


def watch(host: Host, clients: Clients) -> None:
    """Check each change as it becomes durable, while the truth can still be seen."""
    host.on_change = lambda change: clients.wrong.extend(_wrong_with(change, host))
    forget = host.engine.on_volume_removed

    def removed(conversation: ConversationId) -> None:
        record = host.records.get(conversation)
        if record is not None and record.intent is not Intent.DELETE:
            clients.wrong.append(f"the workspace of {conversation} was removed, and it is {record.status}")
        forget(conversation)

    host.engine.on_volume_removed = removed


def _wrong_with(change: Change, host: Host) -> Iterator[str]:
    if not isinstance(change, Create | Update):
        return
    record, engine = change.record, host.engine
    for event in change.events:
        if not isinstance(event, StatusChanged):
            continue
        container = _container_of(record, engine)
        if event.to is Status.RUNNING:
            server = host.agents.servers.get(container.id) if container is not None else None
            if container is not None and (server is None or not server.seen_ready):
                yield f"{record.id} became RUNNING and its agent server was never seen ready"
            elif server is not None and not server.has_begun:
                yield f"{record.id} became RUNNING and its agent server has not begun its conversation"
        if event.before is Status.RUNNING and event.reason in _DEATHS and container is not None and container.is_alive:
            yield f"{record.id} was declared dead ({event.reason}) and lives"
        if event.to is Status.PAUSED and container is not None and container.status == "running":
            yield f"{record.id} became PAUSED and its container runs"


def _container_of(record: ConversationRecord, engine: Engine) -> Container | None:
    """The container of the record's sandbox, by its id or, where that was never heard, by its name."""
    if record.sandbox is None:
        return None
    wanted = (record.sandbox.id, record.sandbox.name)
    return next((one for one in engine.containers.values() if one.id == wanted[0] or one.name == wanted[1]), None)


@attrs.frozen(eq=False)
class Ending:
    """A host at its end: `records` and `events` are what the journal holds."""

    host: Host
    clients: Clients
    records: Sequence[ConversationRecord]
    events: Sequence[RecordedEvent]
    standing: Sequence[StandingAlert]
    clock_was_stepped: bool
    disk_was_full: bool
    engine_refused: bool
    supervisor: Supervisor


def wrong_at_the_end(ending: Ending) -> list[str]:
    """Every promise that was not kept."""
    checks: tuple[Callable[[Ending], Iterator[str]], ...] = (
        _check_one_container_each,
        _check_containers_fit_records,
        _check_records_fit_containers,
        _check_workspaces,
        _check_refusals,
        _check_sequence,
        _check_transitions,
        _check_subscriber,
        _check_answers,
        _check_incidents,
        _check_alerts,
        _check_deliveries,
        _check_forced_stops,
        _check_late_starts,
        _check_restarts,
        _check_agents,
    )
    return [*ending.clients.wrong, *(problem for check in checks for problem in check(ending))]


def _check_one_container_each(ending: Ending) -> Iterator[str]:
    for conversation, most in ending.host.engine.most_at_once.items():
        if most > 1:
            yield f"{conversation} had {most} containers at once"


def _check_containers_fit_records(ending: Ending) -> Iterator[str]:
    wanted = [_container_of(record, ending.host.engine) for record in ending.records]
    for container in ending.host.engine.containers.values():
        if container not in wanted:
            yield f"container {container.name} ({container.status}) is wanted by no record"
    known = {record.id for record in ending.records}
    for volume, labels in ending.host.engine.volumes.items():
        if labels[CONVERSATION_LABEL] not in known:
            yield f"the volume {volume} is left, and no record is"


def _check_records_fit_containers(ending: Ending) -> Iterator[str]:
    for record in ending.records:
        container = _container_of(record, ending.host.engine)
        does = container.status if container is not None else "gone"
        if record.status is Status.RUNNING and does != "running":
            yield f"{record.id} is RUNNING and its container is {does}"
        if record.status is Status.PAUSED and does == "running":
            yield f"{record.id} is PAUSED and its container runs"
        if record.status in _ENDED and does in ("running", "paused"):
            yield f"{record.id} is {record.status} and its container is {does}"
        if record.status is Status.ERROR and does == "running" and not _is_kept(record, container):
            yield f"{record.id} is ERROR ({record.error}) and its container is {does}"
        if record.status in (Status.RUNNING, Status.PAUSED) and record.observed is not _sight_of(container):
            yield f"{record.id} is {record.status}, its container {does}, and it is observed {record.observed}"
        if record.status is Status.STARTING:
            yield f"{record.id} is still STARTING"
        cold_resume = record.status is Status.PAUSED and record.intent is Intent.CREATE
        if record.intent is not None and not cold_resume:
            yield f"{record.id} is {record.status} and still intends to {record.intent}"


def _is_kept(record: ConversationRecord, container: Container | None) -> bool:
    """By us, or by a stranger who has started it: whoever wants to see what went wrong may do so."""
    could_not_resume = record.error is not None and record.error.code is FailureCode.RESUME_TIMEOUT
    return could_not_resume or (container is not None and container.is_run_by_somebody)


def _sight_of(container: Container | None) -> Observed:
    return Observed.LIVE if container is not None and container.is_alive else Observed.COLD


def _check_workspaces(ending: Ending) -> Iterator[str]:
    """Who has run once has its workspace until it is deleted."""
    have_run: set[str] = set()
    for event in ending.events:
        if event.kind == "status" and _data(event)["to"] == Status.RUNNING:
            have_run.add(event.conversation or "")
        elif event.kind == "deleted":
            have_run.discard(event.conversation or "")
    have_one = {volume[CONVERSATION_LABEL] for volume in ending.host.engine.volumes.values()}
    if have_run - have_one:
        yield f"these have lost their workspaces: {have_run - have_one}"


def _check_refusals(ending: Ending) -> Iterator[str]:
    """Only what the engine has refused fails for that."""
    if not ending.engine_refused:
        for event in ending.events:
            if event.kind == "status" and _data(event)["reason"] == FailureCode.ENGINE_REFUSED:
                yield f"{event.conversation} failed as if it had been refused: {_data(event)['message']}"


def _check_sequence(ending: Ending) -> Iterator[str]:
    seqs = [event.seq for event in ending.events]
    if seqs != list(range(1, len(seqs) + 1)):
        yield f"the sequence numbers have gaps or repeats: {seqs}"


def _check_transitions(ending: Ending) -> Iterator[str]:
    at: dict[str, Status | None] = {}
    for event in ending.events:
        conversation, data = event.conversation or "", _data(event)
        if event.kind == "status":
            before = Status(str(data["from"])) if data["from"] else None
            after = Status(str(data["to"]))
            if at.get(conversation) is not before or not is_legal(before, after):
                yield f"{conversation} went from {at.get(conversation)} by {event.data}"
            at[conversation] = after
        elif event.kind == "deleted":
            at[conversation] = None
    for record in ending.records:
        if at.get(record.id) is not record.status:
            yield f"{record.id} is {record.status}, and by its events {at.get(record.id)}"
    left = {name for name, status in at.items() if status is not None} - {record.id for record in ending.records}
    if left:
        yield f"by their events these conversations are there, and they are not: {left}"


def _check_subscriber(ending: Ending) -> Iterator[str]:
    if ending.clients.heard != list(ending.events):
        yield f"the subscriber heard {len(ending.clients.heard)} events, the journal has {len(ending.events)}"


def _check_answers(ending: Ending) -> Iterator[str]:
    for asked in ending.clients.asked:
        if asked.lost:
            continue
        if asked.answered is None:
            yield f"nobody answered: {asked.step} of {asked.at:.3f}"
        elif asked.answered > asked.by:
            yield f"{asked.step} of {asked.at:.3f} was answered at {asked.answered:.3f}, and not by {asked.by:.3f}"
        elif isinstance(asked.error, InternalError | JournalError) and not ending.disk_was_full:
            yield f"a bug was answered: {asked.error}"


def _check_incidents(ending: Ending) -> Iterator[str]:
    if not ending.disk_was_full:
        yield from (f"a bug was met: {incident}" for incident in ending.host.incidents)


def _check_alerts(ending: Ending) -> Iterator[str]:
    """Raised once for each cause and over once, told by events; and what stands at the end is what is so."""
    stands: dict[str, str] = {}
    for event in ending.events:
        if event.kind == "alert":
            cause, alert = str(_data(event)["cause"]), str(_data(event)["id"])
            if _data(event)["state"] == "raised":
                if cause in stands:
                    yield f"the alert {cause} was raised while it stood"
                stands[cause] = alert
            elif stands.pop(cause, None) != alert:
                yield f"the alert {cause} was over and did not stand"
    if stands != {alert.cause: alert.id for alert in ending.standing}:
        yield f"by their events these alerts stand: {stands}, by the journal {ending.standing}"
    failures = [event for event in ending.events if event.kind == "status" and _data(event)["to"] == "ERROR"]
    raised = [one for one in ending.events if one.kind == "alert" and _data(one)["kind"] == "error"]
    if len(failures) != sum(_data(event)["state"] == "raised" for event in raised):
        yield f"{len(failures)} failures raised these alerts: {[event.data for event in raised]}"
    wrong = {f"error:{record.id}" for record in ending.records if record.status is Status.ERROR}
    if wrong != {cause for cause in stands if cause.startswith("error:")}:
        yield f"{wrong} is so at the end, and these alerts stand: {set(stands)}"
    running = {record.id for record in ending.records if record.status in (Status.RUNNING, Status.STOPPED)}
    healed = [cause for cause in stands if cause.startswith("oom:") and cause.split(":")[1] in running]
    if healed or "engine:docker" in stands:
        yield f"these alerts should be over: {healed or 'engine:docker'}"


def _check_deliveries(ending: Ending) -> Iterator[str]:
    """Each turn of an alert was told, in order, and only those."""
    turns = [f"{_data(event)['id']} {_data(event)['state']}" for event in ending.events if event.kind == "alert"]
    first_told = list(dict.fromkeys(ending.host.received))
    if first_told != turns:
        yield f"the receiver was told {first_told}, and the alerts were {turns}"


def _check_forced_stops(ending: Ending) -> Iterator[str]:
    """Where a forced stop was the last word, and was heard, nothing runs."""
    last: dict[str, Asked] = {}
    for asked in ending.clients.asked:
        last[asked.step.what] = asked
    for record in ending.records:
        word = last.get(record.id)
        if word is None or word.step.kind is not Kind.FORCE_STOP or word.lost:
            continue
        if not isinstance(word.error, ShuttingDown | JournalError | InternalError) and record.status not in _ENDED:
            yield f"{record.id} is {record.status} after a forced stop ({word.error})"


def _check_late_starts(ending: Ending) -> Iterator[str]:
    """Once a forced stop was answered nothing starts, unless that is asked for: no call of before comes after it."""
    for conversation in CONVERSATIONS:
        starts = [at for at, whose in ending.host.engine.starts if whose == conversation]
        asked = [one for one in ending.clients.asked if one.step.what == conversation]
        for number, stop in enumerate(asked, 1):
            if stop.step.kind is not Kind.FORCE_STOP or stop.lost or stop.told is None or stop.answered is None:
                continue
            asked_again = asked[number].at if number < len(asked) else float("inf")
            late = [at for at in starts if stop.answered < at < asked_again]
            if late:
                yield f"{conversation} started at {late[0]:.3f}, and was stopped by force by {stop.answered:.3f}"


def _check_restarts(ending: Ending) -> Iterator[str]:
    if ending.clock_was_stepped:
        return
    by_conversation: dict[str, list[RecordedEvent]] = {}
    for event in ending.events:
        by_conversation.setdefault(event.conversation or "", []).append(event)
    for conversation, events in by_conversation.items():
        yield from _Allowance(conversation).spend(events)


@attrs.define
class _Allowance:
    """One conversation's restarts, counted apart from the product."""

    conversation: str
    spent: list[tuple[datetime, str]] = attrs.field(factory=list)
    due: datetime | None = None

    def spend(self, events: Sequence[RecordedEvent]) -> Iterator[str]:
        for event in events:
            data = _data(event)
            match event.kind:
                case "status" if data["to"] == "STARTING" and data["reason"] in ("start", "restart"):
                    self.spent, self.due = [], None
                case "status" if data["to"] == "ERROR" and data["reason"] in list(Cause):
                    yield from self._give_up(event, data)
                case "status" if data["to"] in ("STOPPED", "RUNNING"):
                    self.due = None
                case "restart_scheduled":
                    yield from self._restart(event, data)
                case "phase" if self.due is not None and event.at < self.due:
                    yield f"{self.conversation} was restarted at {event.at}, and not from {self.due}"
                case _:
                    pass

    def _recent(self, at: datetime) -> list[tuple[datetime, str]]:
        return [past for past in self.spent if (at - past[0]).total_seconds() < SETTINGS.restart.window]

    def _restart(self, event: RecordedEvent, data: JsonObject) -> Iterator[str]:
        policy = SETTINGS.restart
        cause, delay = str(data["cause"]), float(str(data["delay"]))
        self.spent = self._recent(event.at)
        if len(self.spent) >= policy.max_restarts:
            yield f"{self.conversation} was restarted more than {policy.max_restarts} times in {policy.window:g} s"
        if cause == Cause.OOM_KILLED and any(past == Cause.OOM_KILLED for _, past in self.spent):
            yield f"{self.conversation} was restarted twice for its memory"
        plain = min(policy.backoff_max, policy.backoff_initial * 2.0 ** len(self.spent))
        if abs(delay - plain) > plain * policy.jitter + _TOLERANCE:
            yield f"{self.conversation} was restarted after {delay:g} s, and not after about {plain:g} s"
        self.spent.append((event.at, cause))
        self.due = datetime.fromisoformat(str(data["at"]))

    def _give_up(self, event: RecordedEvent, data: JsonObject) -> Iterator[str]:
        recent = self._recent(event.at)
        ooms = any(past == Cause.OOM_KILLED for _, past in recent)
        spent = len(recent) >= SETTINGS.restart.max_restarts or (data["reason"] == Cause.OOM_KILLED and ooms)
        if not spent and data.get("exit_code") not in _HOPELESS:
            yield f"{self.conversation} was given up after {len(recent)} restarts"


def _check_agents(ending: Ending) -> Iterator[str]:
    for record in ending.records:
        mind = ending.host.agents.minds.get(record.id)
        container = _container_of(record, ending.host.engine)
        if record.status is not Status.RUNNING or mind is None or container is None:
            continue
        if mind.status is ExecutionStatus.PAUSED and mind.paused_in == container.id:
            yield f"{record.id} is RUNNING and its agent is paused"
        if record.execution_status is not mind.status:
            yield f"{record.id} says that its agent is {record.execution_status}, and it is {mind.status}"
        if record.run_on_resume:
            yield f"{record.id} runs and still has its agent's run to come"


def _data(event: RecordedEvent) -> JsonObject:
    data: JsonObject = json.loads(event.data)
    return data
