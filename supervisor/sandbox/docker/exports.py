"""Writes a sandbox's workspace into a tar file."""

from functools import partial
from pathlib import Path

from supervisor.sandbox.archives import new_archive
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import read_limit
from supervisor.sandbox.docker.streams import EngineStream


async def export_directory(lane: Lane, container: str, directory: str, target: Path) -> None:
    """Write a directory of a container into a new file; nothing of it is left if that fails or is cancelled.

    Raises:
        SandboxFailed: the file exists or cannot be written, or the container or its directory is gone.
        EngineUnavailable: the engine does not answer, or stopped in the middle.
    """
    path, parameters = f"/containers/{container}/archive", {"path": directory}
    async with (
        lane.slot(),
        lane.open_stream(read_limit(), lambda client: client.open_stream("GET", path, parameters)) as stream,
    ):
        await stream.read(partial(_write, stream, target))


def _write(stream: EngineStream, target: Path) -> None:
    with new_archive(target) as tar:
        while chunk := stream.next_chunk_blocking():
            tar.write(chunk)
