"""Docker's engine in memory: what it does, when it does it, and what it says of that, at the level of its API.

It runs in tasks of its own, so that what it was asked for happens even if whoever asked was killed meanwhile. Its
answers and its words are those of a Docker Engine 20.10; what it can do wrong is listed in `Fault`.
"""

import itertools
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import partial
from random import Random
from typing import Final, cast

import attrs
import trio
from docker.errors import APIError, ImageNotFound, NotFound
from requests import Response
from requests.exceptions import ConnectionError as ConnectionBroke
from requests.exceptions import ReadTimeout

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.sandbox.docker.names import CONVERSATION_LABEL
from supervisor.sandbox.docker.views import EngineJson
from tests.simulation.calls import Call, Stream

HISTORY: Final = 256
_ALIVE: Final = ("running", "paused")
_LATENCY: Final[Mapping[str, tuple[float, float]]] = {
    "create": (0.01, 0.2),
    "start": (0.05, 0.6),
    "pause": (0.01, 0.1),
    "unpause": (0.01, 0.1),
    "remove": (0.02, 0.5),
}
_ANY_LATENCY: Final = (0.001, 0.03)
_SLOW: Final = 0.02
_SLOW_TO_COME_UP: Final = 0.5


_ASKED: Final[ContextVar[float]] = ContextVar("_ASKED")
"""When the call came in that has its effect now."""


class Fault(StrEnum):
    """What can go wrong with one call."""

    NOT_SENT = "not sent"
    REFUSED = "fails before it has an effect"
    FAILED_AFTER = "fails after its effect"
    REPLY_LOST = "its reply is lost"
    LATE = "has its effect when nobody waits for it any more"
    HANGS = "never answers and has no effect"
    TAKEN = "is refused with 409"


class Mood(StrEnum):
    """How the engine as a whole does."""

    UP = "up"
    DOWN = "down"
    HUNG = "hung"


def status(code: int) -> Response:
    """An HTTP response, as docker-py's errors look at it."""
    response = Response()
    response.status_code = code
    return response


@attrs.define(eq=False)
class Container:
    """One container, and the agent server in it, of which the engine knows nothing but that it runs.

    `is_forgotten` is whether it is frozen and its engine takes it for ended: nothing reaches its processes any more.
    `is_run_by_somebody` is whether a stranger has started it last, `was_run_by_somebody` whether one ever has.
    `has_met_oom` is whether any of its processes was killed for its memory since it was started: the engine says so of
    the container, but only once that has ended, and whatever it ended of.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    image: str
    port: int
    status: str = "created"
    exit_code: int = 0
    oom_killed: bool = False
    has_met_oom: bool = False
    is_forgotten: bool = False
    is_run_by_somebody: bool = False
    was_run_by_somebody: bool = False
    started: int = 0
    asked: float = 0.0

    @property
    def conversation(self) -> ConversationId:
        """Whose it is."""
        return ConversationId(self.labels[CONVERSATION_LABEL])

    @property
    def is_alive(self) -> bool:
        """Whether it has processes, frozen or not, that its engine knows of."""
        return self.status in _ALIVE


class Engine:
    """See the module. `nursery` is the host's: it outlives every daemon. `wall` tells the time on the host's wall.

    `most_at_once` counts the containers of a conversation. What was asked for before that was `deleted` is another's of
    the same id: such a container may come late, never runs, and is swept away.
    """

    def __init__(self, random: Random, nursery: trio.Nursery, wall: Callable[[], float]) -> None:
        self.random = random
        self.mood = Mood.UP
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, Mapping[str, str]] = {}
        self.images = {"image"}
        self.live_restore = False
        self.share_of_slow_calls = _SLOW
        self.faults: dict[str, deque[Fault]] = {}
        self.term_time = 0.1
        self.event_delay = 0.0
        self.events_lost = 0
        self.events_twice = 0
        self.pull_steps: list[tuple[float, int]] = [(0.5, 100)]
        self.most_at_once: Counter[ConversationId] = Counter()
        self.deleted: dict[ConversationId, float] = {}
        self.changed_at = 0.0
        # Without those that may have come late because a stranger's start hid that ours had not come yet.
        self.starts: list[tuple[float, ConversationId]] = []
        self.on_start: Callable[[Container], None] = lambda container: None
        self.on_volume_removed: Callable[[ConversationId], object] = lambda conversation: None
        self._nursery = nursery
        self._wall = wall
        self._numbers = itertools.count(1)
        self._reserved: set[str] = set()
        self._era = 0
        self._history: deque[EngineJson] = deque(maxlen=HISTORY)
        self._awake = trio.Event()
        self._awake.set()
        self._unsaid: list[Callable[[], None]] = []
        self._listeners: list[Stream] = []
        self._pulls: list[Stream] = []

    # How calls come in and what becomes of them.

    async def mutate(
        self, call: Call, op: str, effect: Callable[[], Awaitable[object]], limit: float, name: str | None = None
    ) -> object:
        """A call that changes something: it is carried out whether or not anybody waits for it to the end.

        One that comes to an engine that hangs waits in its socket, and is carried out as soon as the engine goes on.

        A call that makes a container reserves its `name` as it comes in, as the engine does.

        Raises:
            ConnectionBroke: it did not reach the engine, or the reply was lost.
            ReadTimeout: nothing came within `limit` seconds.
            APIError: the engine says no.
        """
        fault = self._take_fault(op)
        await trio.sleep(0.001)
        if self.mood is Mood.DOWN or fault is Fault.NOT_SENT:
            raise ConnectionBroke("connection refused")
        if fault is not Fault.HANGS:
            delay = limit + self.random.uniform(0.1, 20) if fault is Fault.LATE else self._latency(op)
            self._nursery.start_soon(self._carry_out, call, effect, fault, delay, name)
        return await call.wait(limit)

    async def look(self, op: str, effect: Callable[[], object], limit: float) -> object:
        """A call that changes nothing. Raises the same."""
        fault = self._take_fault(op)
        await trio.sleep(0.001)
        if self.mood is Mood.DOWN or fault in (Fault.NOT_SENT, Fault.REPLY_LOST):
            raise ConnectionBroke("connection refused")
        era, latency = self._era, self._latency(op)
        with trio.move_on_after(limit):
            if fault in (Fault.HANGS, Fault.LATE):
                await trio.sleep_forever()
            await trio.sleep(latency)
            await self._awake.wait()
            self._require(era)
            if fault in (Fault.REFUSED, Fault.FAILED_AFTER):
                raise server_error("the simulated engine has a bad moment")
            return effect()
        raise ReadTimeout(f"no answer in {limit:g} s")

    def _require(self, era: int) -> None:
        """Be there, and the engine that was asked."""
        if self.mood is Mood.DOWN or era != self._era:
            raise ConnectionBroke("the engine went away")

    def _latency(self, op: str) -> float:
        low, high = _LATENCY.get(op, _ANY_LATENCY)
        slow = 50.0 if self.random.random() < self.share_of_slow_calls else 1.0
        return self.random.uniform(low, high) * slow

    def _take_fault(self, op: str) -> Fault | None:
        waiting = self.faults.get(op)
        return waiting.popleft() if waiting else None

    async def _carry_out(
        self,
        call: Call,
        effect: Callable[[], Awaitable[object]],
        fault: Fault | None,
        delay: float,
        name: str | None,
    ) -> None:
        era = self._era
        _ASKED.set(trio.current_time())
        await trio.lowlevel.checkpoint()
        try:
            await self._awake.wait()
            self._require(era)
            with self._reserved_name(name):
                await trio.sleep(delay)
                await self._awake.wait()
            self._require(era)
            answer = await self._affect(effect, fault)
            await self._awake.wait()
            self._require(era)
        except (APIError, ConnectionBroke) as error:
            call.settle(None, error)
        else:
            call.settle(answer, None)

    async def _affect(self, effect: Callable[[], Awaitable[object]], fault: Fault | None) -> object:
        await trio.lowlevel.checkpoint()
        if fault is Fault.REFUSED:
            raise server_error("the simulated engine has a bad moment")
        if fault is Fault.TAKEN:
            raise conflict("the container name is already in use, or so it seems")
        answer = await effect()
        self.changed_at = trio.current_time()
        if fault is Fault.FAILED_AFTER:
            raise server_error("context canceled")
        if fault is Fault.REPLY_LOST:
            raise ConnectionBroke("the connection was reset")
        return answer

    # What it can be asked.

    def find(self, name: str) -> Container:
        """A container by name or id.

        Raises:
            NotFound: there is none.
        """
        for container in self.containers.values():
            if name in (container.id, container.name):
                return container
        raise NotFound("", response=status(404), explanation=f"No such container: {name}")

    async def create(self, name: str, body: JsonObject) -> str:
        """Make a container that does not run yet; its name was reserved when the call came in."""
        await trio.lowlevel.checkpoint()
        if any(known.name == name for known in self.containers.values()):
            raise self._taken(name)
        image, labels = str(body["Image"]), body["Labels"]
        if image not in self.images:
            raise ImageNotFound("", response=status(404), explanation=f"No such image: {image}")
        number = next(self._numbers)
        made = Container(f"{number:064x}", name, dict(labels), image, 40000 + number)  # type: ignore[arg-type]  # ours are strings
        self.containers[made.id] = made
        workspace = cast("EngineJson", body["HostConfig"])["Mounts"][0]
        self.volumes.setdefault(workspace["Source"], dict(workspace["VolumeOptions"]["Labels"]))
        made.asked = _ASKED.get()
        since = self.deleted.get(made.conversation, -1.0)
        owned = sum(one.conversation == made.conversation and one.asked > since for one in self.containers.values())
        self.most_at_once[made.conversation] = max(self.most_at_once[made.conversation], owned)
        self.tell("create", made)
        return made.id

    @contextmanager
    def _reserved_name(self, name: str | None) -> Iterator[None]:
        """Keep a name for a container that is going to be made.

        Raises:
            APIError: it is taken, if only by a container that is being made.
        """
        reserved = self._reserved
        if name in reserved:
            raise self._taken(str(name))
        if name is not None:
            reserved.add(name)
        try:
            yield
        finally:
            reserved.discard(str(name))

    def _taken(self, name: str) -> APIError:
        return conflict(f'Conflict. The container name "/{name}" is already in use')

    async def start(self, name: str) -> None:
        """Run it; one that runs is left alone."""
        await trio.lowlevel.checkpoint()
        container = self.find(name)
        if container.status == "paused":
            raise conflict("cannot start a paused container, try unpause instead")
        if container.is_forgotten:
            raise server_error("id already in use")
        if container.status != "running":
            if not container.was_run_by_somebody:
                self.starts.append((trio.current_time(), container.conversation))
            self.run(container)

    async def pause(self, name: str) -> None:
        """Freeze it."""
        await trio.lowlevel.checkpoint()
        container = self.find(name)
        if container.status == "paused":
            raise conflict(f"Container {container.id} is already paused")
        if container.status != "running":
            raise conflict(f"Container {container.id} is not running")
        container.status = "paused"
        self.tell("pause", container)

    async def unpause(self, name: str) -> None:
        """Thaw it."""
        await trio.lowlevel.checkpoint()
        container = self.find(name)
        if container.status != "paused":
            raise server_error(f"Container {container.id} is not paused")
        container.status = "running"
        self.tell("unpause", container)

    async def stop(self, name: str, grace: float) -> None:
        """SIGTERM, and SIGKILL when the grace period is over."""
        container = self.find(name)
        self.tell("kill", container, signal="15")
        if container.is_alive:
            gentle, era = self.term_time <= grace, self._era
            await trio.sleep(min(self.term_time, grace))
            if not gentle:
                await self._awake.wait()
            if gentle or era == self._era:
                self.end(container, 143 if gentle else 137)
        await trio.lowlevel.checkpoint()

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        await trio.lowlevel.checkpoint()
        container = self.find(name)
        if not container.is_alive:
            raise conflict(f"Cannot kill container: {name}: Container {container.id} is not running")
        self.tell("kill", container, signal="9")
        self.end(container, 137)

    async def remove(self, name: str) -> None:
        """Remove it, running or not."""
        await trio.lowlevel.checkpoint()
        container = self.find(name)
        self.end(container, 137)
        del self.containers[container.id]
        self.tell("destroy", container)

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> EngineJson:
        """Make a volume, or answer with the one that is there."""
        await trio.lowlevel.checkpoint()
        return {"Labels": self.volumes.setdefault(name, dict(labels))}

    def look_at_volume(self, name: str) -> EngineJson:
        """A volume that is here; `NotFound` is raised for one that is not."""
        if name not in self.volumes:
            raise _no_such_volume(name)
        return {"Labels": self.volumes[name]}

    def list_volumes(self, name: str) -> list[EngineJson]:
        """Every volume whose name has a place that fits this regular expression."""
        return [{"Name": one} for one in self.volumes if re.search(name, one)]

    async def remove_volume(self, name: str) -> None:
        """Remove a volume that no container uses."""
        await trio.lowlevel.checkpoint()
        if any(container.name.startswith(name + "-") for container in self.containers.values()):
            raise conflict("volume is in use")
        labels = self.volumes.pop(name, None)
        if labels is None:
            raise _no_such_volume(name)
        self.on_volume_removed(ConversationId(labels[CONVERSATION_LABEL]))

    def inspect(self, name: str) -> EngineJson:
        """What an inspection of a container answers."""
        found = self.find(name)
        bound = [{"HostIp": "127.0.0.1", "HostPort": str(found.port)}] if found.is_alive else None
        return {
            "Id": found.id,
            "Name": f"/{found.name}",
            "Config": {"Labels": found.labels, "Image": found.image},
            "State": {
                "Status": found.status,
                "ExitCode": found.exit_code,
                "OOMKilled": found.oom_killed,
                "Error": "",
            },
            "NetworkSettings": {"Ports": {"8000/tcp": bound}, "Networks": {}},
        }

    def listing(self, label: str) -> list[EngineJson]:
        """Every container that carries a label `name=value`."""
        name, _, value = label.partition("=")
        return [
            {"Id": one.id, "Names": [f"/{one.name}"], "Labels": one.labels, "State": one.status}
            for one in self.containers.values()
            if one.labels.get(name) == value
        ]

    def look_at_image(self, image: str) -> EngineJson:
        """An image that is here; `ImageNotFound` is raised for one that is not."""
        if image not in self.images:
            raise ImageNotFound("", response=status(404), explanation=f"No such image: {image}")
        return {"Created": "2026-01-01T00:00:00Z", "Size": 1}

    def open_events(self, since: float) -> Stream:
        """The events from a time on: as many of the old ones as are kept, then the new ones."""
        stream = Stream()
        for event in self._history:
            if event["timeNano"] / 1e9 >= since:
                stream.push(event)
        self._listeners.append(stream)
        return stream

    def open_pull(self, image: str) -> Stream:
        """Fetch an image, as `pull_steps` has it: seconds to wait, and the bytes that have come then."""
        stream = Stream()
        self._pulls.append(stream)
        self._nursery.start_soon(self._pull, stream, image)
        return stream

    # What happens to it, and in it.

    def run(self, container: Container) -> None:
        """A container's processes begin."""
        container.status, container.exit_code, container.oom_killed = "running", 0, False
        container.has_met_oom = container.is_run_by_somebody = False
        container.started += 1
        self.tell("start", container)
        self.on_start(container)

    def end(self, container: Container, exit_code: int, *, oom: bool = False) -> None:
        """A container's processes end."""
        if not container.is_alive:
            return
        if oom:
            self.run_out_of_memory(container)
        container.status, container.exit_code, container.oom_killed = "exited", exit_code, container.has_met_oom
        self.tell("die", container, exitCode=str(exit_code))

    def run_out_of_memory(self, container: Container) -> None:
        """One of a container's processes is killed for its memory; it lives on, unless that was the first of them."""
        if container.is_alive:
            container.has_met_oom = True
            self.tell("oom", container)

    async def rename(self, found: str, name: str) -> None:
        """Give it another name."""
        await trio.lowlevel.checkpoint()
        if any(known.name == name for known in self.containers.values()):
            raise self._taken(name)
        container = self.find(found)
        before, container.name = container.name, name
        self.tell("rename", container, oldName=f"/{before}")

    def break_next(self, op: str, fault: Fault, times: int) -> None:
        """Let the next calls of a kind go wrong."""
        self.faults.setdefault(op, deque()).extend([fault] * times)

    def fall(self, *, hung: bool = False) -> None:
        """The engine goes away, or hangs; containers live on as they are.

        One that hangs loses nothing: it goes on with what it was asked for, and says what has happened, as it rises.
        """
        self._become(Mood.HUNG if hung else Mood.DOWN)
        if not hung:
            for stream in (*self._listeners, *self._pulls):
                stream.end()
            self._listeners.clear()
            self._pulls.clear()

    def remember(self, most: int) -> None:
        """Keep so many of our events from now on: those of the host's other containers push the older ones out."""
        self._history = deque(self._history, most)

    def rise(self) -> None:
        """It answers again."""
        self._become(Mood.UP)

    def _become(self, mood: Mood) -> None:
        self.mood = mood
        if mood is Mood.HUNG:
            self._awake = trio.Event() if self._awake.is_set() else self._awake
            return
        unsaid, self._unsaid = self._unsaid, []
        for say in unsaid:
            say()
        self._awake.set()

    def restart(self, *, forgets: bool = False) -> None:
        """The engine's process is killed and started: without live-restore it ends its containers as it comes up.

        Its new history has these ends; but if it took long to come up, who looks back for a moment is not told of them.
        An engine that `forgets` takes frozen containers for ended, and they live (moby#31699).
        """
        self.fall()
        self._era += 1
        self._reserved = set()
        self._history.clear()
        for container in self.containers.values():
            if container.status == "paused" and forgets:
                container.status, container.exit_code, container.is_forgotten = "exited", 137, True
            elif not self.live_restore:
                self.end(container, 137)
        if self.random.random() < _SLOW_TO_COME_UP:
            self._history.clear()
        self.rise()

    async def _pull(self, stream: Stream, image: str) -> None:
        await trio.lowlevel.checkpoint()
        for delay, current in self.pull_steps:
            if delay < 0:
                return
            await trio.sleep(delay)
            await self._awake.wait()
            if current < 0:
                stream.push({"error": "the registry is not well"})
                stream.end()
                return
            detail = {"current": current, "total": self.pull_steps[-1][1]}
            stream.push({"status": "Downloading", "id": "layer", "progressDetail": detail})
        if not stream.ended:
            self.images.add(image)
            stream.end()

    def tell(self, action: str, container: Container, **attributes: str) -> None:
        """Send an event, unless it is to be lost."""
        if self.mood is Mood.HUNG:
            self._unsaid.append(partial(self.tell, action, container, **attributes))
            return
        event: EngineJson = {
            "Action": action,
            "timeNano": int(self._wall() * 1e9),
            "Actor": {
                "ID": container.id,
                "Attributes": {**container.labels, "name": container.name, "image": container.image, **attributes},
            },
        }
        self._history.append(event)
        if self.mood is not Mood.UP:
            return
        if self.events_lost:
            self.events_lost -= 1
            return
        repeats = 1
        if self.events_twice:
            self.events_twice -= 1
            repeats = 2
        for _ in range(repeats):
            self._deliver(event)

    def _deliver(self, event: EngineJson) -> None:
        if self.event_delay:
            self._nursery.start_soon(self._deliver_late, event, tuple(self._listeners), self.event_delay)
        else:
            for stream in self._listeners:
                stream.push(event)

    async def _deliver_late(self, event: EngineJson, listeners: tuple[Stream, ...], delay: float) -> None:
        await trio.sleep(delay)
        await self._awake.wait()
        for stream in listeners:
            stream.push(event)


def _no_such_volume(name: str) -> NotFound:
    return NotFound("", response=status(404), explanation=f"get {name}: no such volume")


def conflict(words: str) -> APIError:
    """The engine's 409."""
    return APIError("", response=status(409), explanation=words)


def server_error(words: str) -> APIError:
    """The engine's 500."""
    return APIError("", response=status(500), explanation=words)
