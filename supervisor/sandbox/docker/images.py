"""Pulls images: the bytes as progress, and an end to pulls that no longer advance."""

import re
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio
from docker.auth import get_config_header, resolve_repository_name
from docker.errors import APIError, ImageNotFound
from docker.utils import parse_repository_tag
from requests import Response

from supervisor.conversation.errors import ImageUnavailable
from supervisor.conversation.spec import LocalImage, PullPolicy, SandboxSpec
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import read_limit
from supervisor.sandbox.docker.streams import EngineStream, JsonLines
from supervisor.sandbox.docker.translation import is_refusal, words_of
from supervisor.sandbox.docker.views import EngineJson
from supervisor.sandbox.port import PullProgress

TELL_EVERY: Final = 0.25
"""Seconds between two reports of a pull's progress, at least."""

_REFERENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]*")
_WHOLE: Final = ("Download complete", "Pull complete", "Already exists")


@attrs.define
class PullTally:
    """Adds up what the engine tells of a pull, layer by layer."""

    _current: dict[str, int] = attrs.field(factory=dict)
    _total: dict[str, int] = attrs.field(factory=dict)
    _last: dict[str, tuple[str, int]] = attrs.field(factory=dict)

    @property
    def progress(self) -> PullProgress:
        """The bytes of all layers that the engine has told of."""
        return PullProgress(sum(self._current.values()), sum(self._total.values()))

    def take(self, message: EngineJson) -> bool:
        """Count one message; says whether it shows that the pull advances. Repeats and retries do not.

        Raises:
            ImageUnavailable: the message is an error, the registry's or the engine's.
        """
        if "error" in message:
            raise ImageUnavailable(str(message["error"]))
        layer, status = str(message.get("id", "")), str(message.get("status", ""))
        detail = message.get("progressDetail") or {}
        current = int(detail.get("current") or 0)
        if status == "Downloading":
            self._total[layer] = max(int(detail.get("total") or 0), current)
            self._current[layer] = current
        elif status in _WHOLE and layer in self._total:
            self._current[layer] = self._total[layer]
        news = (status, current)
        advances = self._last.get(layer) != news and not status.startswith("Retrying")
        self._last[layer] = news
        return advances


async def find_image(looks: Lane, image: str) -> LocalImage | None:
    """Look for an image; see the port. What is no name of an image is none."""
    await trio.lowlevel.checkpoint()
    if not _is_name(image):
        return None
    try:
        return await looks.look(lambda client: _look_for(client, image))
    except ImageUnavailable:
        return None


async def ensure_image(
    looks: Lane,
    pulls: Lane,
    spec: SandboxSpec,
    progress: Callable[[PullProgress], Awaitable[None]],
    stall: float,
) -> None:
    """Make the spec's image present; see the port."""
    if not _is_name(spec.image):
        raise ImageUnavailable(f"{spec.image!r} is not the name of an image")
    if spec.pull is not PullPolicy.ALWAYS:
        if await looks.look(lambda client: _look_for(client, spec.image)) is not None:
            return
        if spec.pull is PullPolicy.NEVER:
            raise ImageUnavailable(f"the image {spec.image} is not on the host, and may not be pulled")
    try:
        await _pull(pulls, spec.image, progress, stall)
    except ImageUnavailable as error:
        raise ImageUnavailable(f"the image {spec.image} cannot be pulled: {error.message}") from error


async def _pull(lane: Lane, image: str, progress: Callable[[PullProgress], Awaitable[None]], stall: float) -> None:
    async with lane.slot():
        with trio.move_on_after(stall) as patience:
            async with lane.open_stream(read_limit(stall + 1), lambda client: _begin(client, image)) as stream:
                await _follow(stream, progress, stall, patience)
    if patience.cancelled_caught:
        raise ImageUnavailable(f"it did not advance for {stall:g} s")


async def _follow(
    stream: EngineStream,
    progress: Callable[[PullProgress], Awaitable[None]],
    stall: float,
    patience: trio.CancelScope,
) -> None:
    messages, tally = JsonLines(), PullTally()
    told, next_report = tally.progress, trio.current_time()
    while chunk := await stream.next_chunk():
        advances = [tally.take(message) for message in messages.feed(chunk)]
        if any(advances):
            patience.deadline = trio.current_time() + stall
        if tally.progress != told and trio.current_time() >= next_report:
            told, next_report = tally.progress, trio.current_time() + TELL_EVERY
            await progress(told)
    if tally.progress != told:
        await progress(tally.progress)


def _is_name(image: str) -> bool:
    return _REFERENCE.fullmatch(image) is not None and ".." not in image


def _look_for(client: EngineClient, image: str) -> LocalImage | None:
    try:
        told = client.look_at_image(image)
    except ImageNotFound:
        return None
    except APIError as error:
        if is_refusal(error):
            raise ImageUnavailable(words_of(error)) from error
        raise
    return LocalImage(str(told.get("Created") or ""), int(told.get("Size") or 0))


def _begin(client: EngineClient, image: str) -> Response:
    """Ask for one image: without a tag the engine would fetch all that its repository has."""
    repository, tag = parse_repository_tag(image)
    registry, _ = resolve_repository_name(repository)
    credentials = get_config_header(client, registry)
    headers = {"X-Registry-Auth": credentials.decode("ascii")} if credentials else {}
    try:
        return client.open_stream("POST", "/images/create", {"fromImage": repository, "tag": tag or "latest"}, headers)
    except APIError as error:
        raise ImageUnavailable(words_of(error)) from error
