"""docker-py's low-level client, with a time limit on each request and with streams that can be ended."""

import io
import posixpath
import tarfile
import time
from collections.abc import Mapping
from typing import Final, Protocol, cast

import attrs
import docker
from docker.utils import parse_host
from requests import PreparedRequest, Response

from supervisor.conversation.json import JsonObject
from supervisor.sandbox.docker.limits import current_limit
from supervisor.sandbox.docker.transport import UnixAdapter
from supervisor.sandbox.docker.views import EngineJson

_UNTIL_ASKED: Final = "1.41"
_UNIX: Final = "http+unix://"


@attrs.frozen
class Owner:
    """Whose a directory is to be, by numbers, and its mode."""

    user: int
    group: int
    mode: int


class EngineClient(docker.APIClient):
    """An `APIClient` whose requests obey `current_limit`, whatever time limit docker-py itself gives them.

    Making one asks the engine for its version, so it is made in a worker thread, too.
    """

    def __init__(self, base_url: str | None, pool: int) -> None:
        super().__init__(base_url=base_url, version=_UNTIL_ASKED, max_pool_size=pool)
        if self.is_local:
            path = str(parse_host(base_url)).removeprefix(_UNIX)
            self.mount(self.base_url, UnixAdapter(path, pool))
            # A local engine is behind no proxy and wants no password: spares two look-ups in files for each request.
            self.trust_env = False
        try:
            self._version = str(self.version(api_version=False)["ApiVersion"])
        except BaseException:
            self.close()
            raise

    @property
    def is_local(self) -> bool:
        """Whether the engine is reached by a Unix socket of this host."""
        return self.base_url.startswith("http+docker://")

    def send(self, request: PreparedRequest, **kwargs: object) -> Response:
        """Send with the limit of the call that this thread works for."""
        kwargs["timeout"] = current_limit.get().seconds()
        return super().send(request, **kwargs)  # type: ignore[arg-type]  # requests hands its own keywords through

    def create_named(self, name: str, body: JsonObject) -> str:
        """Create a container from the body of the engine's own call; answers with its id."""
        return cast("_Internals", self).create_container_from_config(body, name)["Id"]

    def look_at_image(self, image: str) -> EngineJson:
        """What the engine says of an image; `ImageNotFound` is raised for one that is not on the host."""
        return cast("_Internals", self).inspect_image(image)

    def own_directory(self, container: str, path: str, owner: Owner) -> None:
        """Give a directory of a container, running or not, to a user."""
        parent, name = posixpath.split(path.rstrip("/"))
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, owner.mode, owner.user, owner.group
        entry.mtime = int(time.time())
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(entry)
        self.put_archive(container, parent, buffer.getvalue())

    def open_stream(
        self, method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Response:
        """Begin a request whose answer has no end; only its head has to come within the limit."""
        url = f"{self.base_url}/v{self.api_version}{path}"
        response = self.request(method, url, params=dict(params), headers=dict(headers or {}), stream=True)
        internals = cast("_Internals", self)
        internals._raise_for_status(response)  # noqa: SLF001  # docker-py's own, for subclasses
        internals._disable_socket_timeout(internals._get_raw_response_socket(response))  # noqa: SLF001  # the same
        return response


class _Internals(Protocol):
    """What the stubs of `APIClient` leave out, or leave untyped: some of it is for subclasses only."""

    def create_container_from_config(self, config: JsonObject, name: str) -> dict[str, str]: ...
    def inspect_image(self, image: str) -> EngineJson: ...

    def _raise_for_status(self, response: Response) -> None: ...
    def _get_raw_response_socket(self, response: Response) -> object: ...
    def _disable_socket_timeout(self, socket: object) -> None: ...
