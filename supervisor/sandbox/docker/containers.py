"""The engine calls for containers and workspaces. Everything here blocks, and runs in the threads of a lane."""

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import attrs
from docker.errors import APIError, NotFound

from supervisor.conversation.errors import Conflict, EngineUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.sandbox.docker.client import EngineClient, Owner
from supervisor.sandbox.docker.hardening import ENGINE_SOCKETS, create_body
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.docker.translation import ENGINE_ERRORS, words_of
from supervisor.sandbox.docker.views import EngineJson, read_state, read_view
from supervisor.sandbox.port import OwnedSandbox, SandboxPlan, SandboxState, SandboxView

_PAUSES: Final = tuple(0.01 * 2**attempt for attempt in range(9))
"""Seconds between attempts at a name that the engine calls taken, while it shows no container of that name."""

_TAKEN: Final = 409
_NUMBERS: Final = re.compile(r"(?P<user>[0-9]{1,10})(:(?P<group>[0-9]{1,10}))?")
_USERS_OWN: Final = 0o755
_GROUPS_OWN: Final = 0o2775  # what is made in it belongs to the group, too
_GONE: Final = "no such container"
_GOING_AWAY: Final = ("removing", "dead")


@attrs.frozen
class EngineHost:
    """What we need to know of the host that the engine runs on."""

    cores: int
    direct: bool


@attrs.define
class Containers:
    """The containers of one owner.

    Changes go by the engine's id of a container that was seen to carry our labels, never by a name: a name may belong
    to something foreign, or change hands. `_ids` remembers what was seen, by the name that it should have; one that
    somebody has renamed is found by its id, and gets its name back. `_unanswered` are the names of those that we asked
    to start without being told how that went.
    """

    names: Names
    sockets: tuple[str, ...] = ENGINE_SOCKETS
    pauses: Sequence[float] = _PAUSES
    _host: EngineHost | None = None
    _ids: dict[str, str] = attrs.field(factory=dict)
    _unanswered: set[str] = attrs.field(factory=set)

    def know(self, name: str, container: str) -> None:
        """Take somebody's word for the id of a container of ours."""
        self._ids[name] = container

    def host(self, client: EngineClient) -> EngineHost:
        """The engine's host, asked once. Rootless engines keep their containers' addresses to themselves."""
        if self._host is None:
            info = client.info()
            hidden = any("rootless" in option for option in info.get("SecurityOptions") or ())
            hidden = hidden or info.get("OperatingSystem") == "Docker Desktop"
            self._host = EngineHost(cores=info["NCPU"], direct=client.is_local and not hidden)
        return self._host

    def launch(self, client: EngineClient, plan: SandboxPlan) -> SandboxView:
        """Create and start, or adopt; see the port."""
        body = create_body(plan, self.names, self.host(client).cores, self.sockets)
        name = self.names.container(plan.conversation, plan.incarnation)
        self._claim_workspace(client, plan.conversation)
        for pause in self.pauses:
            made = _create(client, name, body)
            if made is not None:
                self._ids[name] = made
                self._unanswered.discard(name)
            launched = self._start_or_remove(client, plan, made) if made is not None else self._adopt(client, plan)
            if launched is not None:
                return launched
            # Another create of the same name is under way, such as one that our predecessor asked for as it died.
            time.sleep(pause)
        raise EngineUnavailable(f"{name} goes away as often as it is made, or the engine says so")

    def inspect(self, client: EngineClient, name: str) -> SandboxView | None:
        """Look at our container of this name; a foreign one of the name is none of ours."""
        container = self._look(client, name)
        return None if container is None else self._view(name, container)

    def pause(self, client: EngineClient, name: str) -> None:
        """Freeze it."""
        self._change_running(client, name, client.pause, fine="already paused")

    def unpause(self, client: EngineClient, name: str) -> None:
        """Thaw it."""
        self._change_running(client, name, client.unpause, fine="not paused")

    def stop(self, client: EngineClient, name: str, grace: float) -> None:
        """End it by its stop signal, then SIGKILL. The engine thaws a frozen one after it has sent the signal."""
        seconds = math.ceil(grace)
        self._change(client, name, lambda container: client.stop(container, timeout=seconds))

    def kill(self, client: EngineClient, name: str) -> None:
        """End it by SIGKILL, frozen or not."""

        def kill(container: str) -> None:
            try:
                client.kill(container)
            except APIError as error:
                if "is not running" not in words_of(error):
                    raise

        self._change(client, name, kill)

    def remove(self, client: EngineClient, name: str) -> None:
        """Remove it with its anonymous volumes, which the engine would keep for ever; the workspace has a name."""
        self._change(client, name, lambda container: _remove(client, container))
        self._ids.pop(name, None)
        self._unanswered.discard(name)

    def remove_workspace(self, client: EngineClient, conversation: ConversationId) -> None:
        """Remove the conversation's volume; one that is gone, or was never ours, is none of ours."""
        name = self.names.workspace(conversation)
        try:
            if self.names.owns_workspace(conversation, client.inspect_volume(name)["Labels"]):
                client.remove_volume(name)
        except NotFound:
            return
        except APIError as error:
            if error.status_code == _TAKEN:
                raise Conflict(f"the workspace {name} is still in use: {words_of(error)}") from error
            raise

    def list_owned(self, client: EngineClient) -> Sequence[OwnedSandbox]:
        """All of ours."""
        rows = client.containers(all=True, filters={"label": self.names.owner_filter()})
        return [owned for row in rows if (owned := self._read_row(row)) is not None]

    def list_workspaces(self, client: EngineClient) -> Sequence[ConversationId]:
        """Whose volumes there are, by their names: engines forget for a while what labels a volume has (see above)."""
        rows = client.volumes(filters={"name": self.names.workspaces_filter()})["Volumes"] or ()
        return [owner for row in rows if (owner := self.names.read_workspace(row["Name"])) is not None]

    def find(self, client: EngineClient, name: str) -> str | None:
        """The engine's id of our container of this name; None if there is none."""
        known = self._ids.get(name)
        if known is None and self._look(client, name) is not None:
            known = self._ids[name]
        return known

    def _read_row(self, row: EngineJson) -> OwnedSandbox | None:
        ownership = self.names.read_labels(row["Labels"])
        if ownership is None:
            return None
        name = self.names.container(ownership.conversation, ownership.incarnation)
        if row["Names"][0].removeprefix("/") != name and self._ids.get(name) != row["Id"]:
            return None
        self._ids[name] = row["Id"]
        return OwnedSandbox(name, ownership.conversation, ownership.incarnation, read_state(row["State"]))

    def _look(self, client: EngineClient, name: str) -> EngineJson | None:
        known = self._ids.get(name)
        container = _inspect(client, known) if known else None
        if container is None:
            container = _inspect(client, name)
        if container is None or not (container["Id"] == known or self._is_ours(name, container)):
            self._ids.pop(name, None)
            return None
        self._ids[name] = container["Id"]
        if container["Name"].removeprefix("/") != name:
            self._give_name_back(client, name, container["Id"])
        return container

    def _give_name_back(self, client: EngineClient, name: str, container: str) -> None:
        with suppress(APIError):  # somebody else's container may have the name by now: ours is still found by its id
            client.rename(container, name)

    def _is_ours(self, name: str, container: EngineJson) -> bool:
        # An id that starts like the name would be found by it, too.
        asked = container["Name"].removeprefix("/") == name
        return asked and self.names.read_ownership(name, container["Config"]["Labels"] or {}) is not None

    def _view(self, name: str, container: EngineJson) -> SandboxView:
        return read_view(name, container, direct=self._host is not None and self._host.direct)

    def _claim_workspace(self, client: EngineClient, conversation: ConversationId) -> None:
        """Make the volume, or find out that it is there: the engine answers the same way, with its labels.

        One that the engine has found on its disk as it started, and given to no container since, it answers without
        them (seen with 20.10): then they are asked for.
        """
        name = self.names.workspace(conversation)
        volume = client.create_volume(name, labels=self.names.workspace_labels(conversation))
        labels = volume["Labels"] or client.inspect_volume(name)["Labels"]
        if not self.names.owns_workspace(conversation, labels):
            raise Conflict(f"a volume {name} exists that is not ours: remove or rename it")

    def _start(self, client: EngineClient, name: str, container: str) -> None:
        try:
            client.start(container)
        except APIError:
            raise
        except ENGINE_ERRORS:
            self._unanswered.add(name)
            raise

    def _start_or_remove(self, client: EngineClient, plan: SandboxPlan, container: str) -> SandboxView | None:
        """Start it; None if it went away meanwhile."""
        name = self.names.container(plan.conversation, plan.incarnation)
        owner = _owner(plan.spec.user)
        try:
            if owner is not None:
                client.own_directory(container, plan.spec.workspace, owner)
            self._start(client, name, container)
        except APIError as error:
            self.remove(client, name)
            if _GONE in words_of(error).lower():  # a missing network is a 404, too
                return None
            raise
        return self.inspect(client, name)

    def _adopt(self, client: EngineClient, plan: SandboxPlan) -> SandboxView | None:
        """Take over what has the plan's name; None if it went away."""
        name = self.names.container(plan.conversation, plan.incarnation)
        container = _inspect(client, name)
        if container is None:
            return None
        if not self._is_ours(name, container):
            raise Conflict(f"a container {name} exists that is not ours: remove or rename it")
        self._ids[name] = container["Id"]
        view = self._view(name, container)
        if container["State"]["Status"] in _GOING_AWAY or self._may_start_late(view, container):
            self.remove(client, name)
            return None
        return self._wake(client, plan, view)

    def _may_start_late(self, view: SandboxView, container: EngineJson) -> bool:
        """Whether our predecessor, or we, may have asked for its start and not been answered.

        If it was asked for another one, the first could come after the end of what that has started. Of a container
        that is gone there is nothing to start.
        """
        runs = view.state in (SandboxState.RUNNING, SandboxState.PAUSED)
        sure = self.names.made_now(container["Config"]["Labels"]) and view.name not in self._unanswered
        return not runs and not sure

    def _wake(self, client: EngineClient, plan: SandboxPlan, view: SandboxView) -> SandboxView | None:
        if view.state is SandboxState.RUNNING:
            return view
        if view.state is SandboxState.CREATED:
            return self._start_or_remove(client, plan, view.id)
        if view.state is SandboxState.PAUSED:
            client.unpause(view.id)
        else:
            self._start(client, view.name, view.id)
        return self.inspect(client, view.name)

    def _change(self, client: EngineClient, name: str, change: Callable[[str], None]) -> bool:
        """Change our container; False says that there is none.

        An id that we know may be that of an earlier one: a list that was asked for before that was removed can be
        answered after this one was made.
        """
        for _ in range(2):
            container = self.find(client, name)
            if container is None:
                return False
            try:
                change(container)
            except NotFound:
                self._ids.pop(name, None)
            else:
                return True
        return False

    def _change_running(self, client: EngineClient, name: str, change: Callable[[str], None], fine: str) -> None:
        try:
            found = self._change(client, name, change)
        except APIError as error:
            if fine not in words_of(error):
                raise
            # The engine calls a stopped container "not paused", too.
            found = self._runs(client, name)
        if not found:
            raise SandboxFailed(f"{name} does not run")

    def _runs(self, client: EngineClient, name: str) -> bool:
        view = self.inspect(client, name)
        return view is not None and view.state in (SandboxState.RUNNING, SandboxState.PAUSED)


def _owner(user: str | None) -> Owner | None:
    """Who is to own the workspace: a user by numbers. What a name stands for only the image knows, and prepares it."""
    numbers = _NUMBERS.fullmatch(user or "")
    if numbers is None:
        return None
    if numbers["group"] is None:
        return Owner(int(numbers["user"]), 0, _USERS_OWN)
    return Owner(int(numbers["user"]), int(numbers["group"]), _GROUPS_OWN)


def _inspect(client: EngineClient, name: str) -> EngineJson | None:
    try:
        container: EngineJson = client.inspect_container(name)
    except NotFound:
        return None
    return container


def _create(client: EngineClient, name: str, body: JsonObject) -> str | None:
    """The new container's id; None if the name is taken."""
    try:
        return client.create_named(name, body)
    except APIError as error:
        if error.status_code == _TAKEN:
            return None
        raise


def _remove(client: EngineClient, container: str) -> None:
    try:
        client.remove_container(container, v=True, force=True)
    except APIError as error:
        if "already in progress" not in words_of(error):
            raise
        client.wait(container, condition="removed")
