"""A two-megabyte image made from a static busybox, for containers that start in milliseconds. No pytest in here."""

import io
import os
import struct
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import docker

REPOSITORY: Final = "conversationd-tests/tiny"

_INSTALLED: Final = Path("/bin/busybox")
_ELF_INTERPRETER: Final = 3


@contextmanager
def tiny_image(
    base_url: str, programs: Mapping[str, bytes] = MappingProxyType({}), command: str | None = None
) -> Iterator[str]:
    """Import the image under a name of its own; it is removed at the end.

    `programs` are scripts that it has in `/bin` besides, `command` is what it runs by default, if anything.
    """
    name = f"{REPOSITORY}:{uuid.uuid4().hex[:12]}"
    repository, _, tag = name.rpartition(":")
    with closing(docker.APIClient(base_url=base_url, version="auto")) as client:
        changes = [] if command is None else [f'CMD ["{command}"]']
        client.import_image_from_data(tiny_filesystem(programs), repository=repository, tag=tag, changes=changes)
        try:
            yield name
        finally:
            client.remove_image(name, force=True)


def tiny_filesystem(programs: Mapping[str, bytes]) -> bytes:
    """The image's files as a tar: busybox under all its names, scripts, and directories that anybody may write to."""
    with tempfile.TemporaryDirectory() as directory:
        busybox = static_busybox(Path(directory))
        program = busybox.read_bytes()
        applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("workspace", 0o777)):
            tar.addfile(_entry(path, tarfile.DIRTYPE, mode))
        tar.addfile(_entry("bin/busybox", tarfile.REGTYPE, 0o755, len(program)), io.BytesIO(program))
        for path, script in programs.items():
            tar.addfile(_entry(f"bin/{path}", tarfile.REGTYPE, 0o755, len(script)), io.BytesIO(script))
        for applet in sorted(set(applets) - {"busybox"}):
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def _entry(path: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry


def static_busybox(directory: Path) -> Path:
    """The installed one if it is static, else the one of Debian's package, which is unpacked and not installed."""
    if _INSTALLED.exists() and _is_static(_INSTALLED):
        return _INSTALLED
    environment = {**os.environ, "LC_ALL": "C"}
    fetch = "apt-get download -q busybox-static"
    command = f"({fetch} || (apt-get update -q && {fetch})) && dpkg-deb -x *.deb ."
    done = subprocess.run(
        ["sh", "-c", command], check=False, cwd=directory, capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise FileNotFoundError(f"no static busybox: `{command}` says: {done.stderr.strip()}")
    return next(directory.rglob("bin/busybox"))


def _is_static(program: Path) -> bool:
    """A dynamic ELF program names its interpreter in a program header."""
    head = program.read_bytes()[:4096]
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    kinds = [struct.unpack_from("<I", head, offset + number * size)[0] for number in range(count)]
    return _ELF_INTERPRETER not in kinds
