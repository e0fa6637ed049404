"""What the engine itself tells of containers: that no conversation ever has two."""

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any, Final, Self

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from supervisor.sandbox.docker.names import CONVERSATION_LABEL, OWNER_LABEL
from tests.engine_host import listens

_TRY_AGAIN_AFTER: Final = 0.05


class EngineWatch:
    """Follows the engine's own events in a thread, over restarts of the engine, for as long as the context lasts."""

    def __init__(self, engine_url: str, owner: str) -> None:
        self.doubles: list[str] = []
        self.made: set[str] = set()
        self._url = engine_url
        self._owner = owner
        self._there: defaultdict[str, set[str]] = defaultdict(set)
        self._gone: set[str] = set()
        self._listening = threading.Event()
        self._ending = threading.Event()
        self._client: docker.APIClient | None = None
        self._stream: Any = None  # docker-py's, without a type of its own
        self._thread = threading.Thread(target=self._run, name="engine-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            # When the engine goes away, what happens meanwhile is listed when it is back.
            with suppress(DockerException, RequestException, OSError, ValueError):
                if listens(self._url):  # docker-py would leave a socket that is refused to the garbage collector
                    self._follow()
            self._ending.wait(_TRY_AGAIN_AFTER)

    def _follow(self) -> None:
        client = docker.APIClient(base_url=self._url, version="1.41")
        try:
            mine = {"label": f"{OWNER_LABEL}={self._owner}"}
            filters = {**mine, "type": "container", "event": ["create", "destroy"]}
            self._stream = client.events(since=int(time.time()) - 1, filters=filters, decode=True)
            rows = {row["Id"]: row["Labels"][CONVERSATION_LABEL] for row in client.containers(all=True, filters=mine)}
            self._restart_from(rows)
            self._listening.set()
            for event in self._stream:
                self._hear(event)
        finally:
            client.close()

    def _restart_from(self, rows: dict[str, str]) -> None:
        self._there.clear()
        for container, conversation in rows.items():
            self._add(conversation, container)

    def _hear(self, event: dict[str, Any]) -> None:
        container, conversation = event["Actor"]["ID"], event["Actor"]["Attributes"][CONVERSATION_LABEL]
        if event["Action"] == "destroy":
            self._gone.add(container)
            self._there[conversation].discard(container)
        elif container not in self._gone:
            self._add(conversation, container)

    def _add(self, conversation: str, container: str) -> None:
        self.made.add(container)
        self._there[conversation].add(container)
        if len(self._there[conversation]) > 1:
            self.doubles.append(f"{conversation} had {len(self._there[conversation])} containers at once")
