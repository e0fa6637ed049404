"""The image with the real agent server, built from Debian's and PyPI's packages alone: no image registry is needed.

It has `openhands-workspace`, too: the client of the runtime API by which `test_workspace` judges ours.

`ensure_agent_image` finds the image by a tag that is the hash of its recipe, or builds it in about three minutes. What
the build needs of the host (name servers, CA certificates, settings of pip) is shown to it in a mount namespace and in
its environment, so that nothing of it gets into the image, and no mount can outlive the build.
"""

import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import attrs
from docker import APIClient
from docker.errors import APIError, DockerException

REPOSITORY: Final = "conversationd-e2e-agent"
LABEL: Final = "conversationd.e2e"
PORT: Final = 8000

_PINS: Final = tuple(f"openhands-{part}==1.58.0" for part in ("agent-server", "sdk", "tools", "workspace"))
_DEBIAN: Final = "trixie"
_MIRROR: Final = "http://deb.debian.org/debian"
_DEBIAN_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates", "git", "tmux")
_NEEDED_BYTES: Final = 4 * 1024**3
_IMPORT_SECONDS: Final = 600
_CA_IN_CHROOT: Final = "/etc/ssl/certs/ca-certificates.crt"
_CA_SETTINGS: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

_BOOTSTRAP: Final = (
    f"debootstrap --variant=minbase --include={','.join(_DEBIAN_PACKAGES)} {_DEBIAN} "
    f'"$ROOT" "${{DEBIAN_MIRROR:-{_MIRROR}}}"'
)
# The binds live in the step's own mount namespace: over a file of the image, never into it.
_INSTALL: Final = f"""
touch "$ROOT/etc/resolv.conf"
mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"
mount --bind "$CA_BUNDLE" "$ROOT{_CA_IN_CHROOT}"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
chroot "$ROOT" python3 -m venv /opt/agent
chroot "$ROOT" python3 -m venv /opt/build
chroot "$ROOT" /opt/build/bin/pip install --no-cache-dir uv
chroot "$ROOT" /opt/build/bin/uv pip install --python /opt/agent/bin/python \\
    --no-cache --compile-bytecode {" ".join(_PINS)}
rm -rf "$ROOT/opt/build"
"""
_SLIM: Final = """
chroot "$ROOT" apt-get clean
rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/usr/share/doc/* "$ROOT"/usr/share/man/* "$ROOT"/var/log/* "$ROOT"/root/.cache
mkdir -p "$ROOT/workspace"
"""
# As in the published image: clients of the runtime API name both.
_PUBLISHED: Final = """
chroot "$ROOT" useradd --uid 10001 --create-home openhands
printf '#!/bin/sh\\nexec /opt/agent/bin/python -m openhands.agent_server "$@"\\n' \\
    > "$ROOT/usr/local/bin/openhands-agent-server"
chmod 755 "$ROOT/usr/local/bin/openhands-agent-server"
"""
_ENTRYPOINT: Final = ("/opt/agent/bin/python", "-m", "openhands.agent_server", "--host", "0.0.0.0", "--port", str(PORT))
_CHANGES: Final = (
    f"ENTRYPOINT {json.dumps(_ENTRYPOINT)}",
    f"EXPOSE {PORT}",
    "WORKDIR /workspace",
    "ENV PATH=/opt/agent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    f"LABEL {LABEL}=agent",
)


class ImageBuildFailed(Exception):
    """The image cannot be built here; the message says what is missing and ends with the build's last lines."""


@attrs.frozen
class _Step:
    title: str
    script: str


_STEPS: Final = (
    _Step(f"installing Debian {_DEBIAN} (about 80 s)", _BOOTSTRAP),
    _Step(f"installing {_PINS[0]} from PyPI (about 40 s)", _INSTALL),
    _Step("adding what the published image has", _PUBLISHED),
    _Step("removing what only the build needed", _SLIM),
)


def image_name() -> str:
    """The image's name; its tag changes with the recipe."""
    recipe = "\0".join([*(step.script for step in _STEPS), *_CHANGES])
    return f"{REPOSITORY}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure_agent_image(base_url: str, progress: Callable[[str], None] = print) -> str:
    """Find the image on the engine at `base_url`, or build it there; answers with its name.

    Raises:
        ImageBuildFailed: something is missing here; the message says what.
    """
    name = image_name()
    try:
        api = APIClient(base_url, version="auto", timeout=_IMPORT_SECONDS)
    except DockerException as error:
        raise ImageBuildFailed(f"no Docker Engine answers at {base_url}: {error}") from error
    try:
        if not api.images(name, quiet=True):
            _build(api, name, progress)
    finally:
        api.close()
    return name


def _build(api: APIClient, name: str, progress: Callable[[str], None]) -> None:
    _ensure_debootstrap(progress)
    with _build_directory() as directory:
        root = directory / "root"
        environment = _build_environment(root)
        with (directory / "log").open("w+b") as log:
            for step in _STEPS:
                progress(f"agent image: {step.title}")
                _run_step(step, environment, log)
        progress("agent image: handing it to the engine (about 20 s)")
        _import(api, root, name)
    progress(f"agent image: {name} is ready")


def _as_root(*argv: str) -> Sequence[str]:
    return argv if os.geteuid() == 0 else ("sudo", *argv)


@contextmanager
def _build_directory() -> Iterator[Path]:
    # Not /tmp: it is often a tmpfs with nodev, where debootstrap refuses to work, and too small.
    parent = Path("/var/tmp")
    free = shutil.disk_usage(parent).free
    if free < _NEEDED_BYTES:
        raise ImageBuildFailed(
            f"{parent} has {free >> 20} MiB free, and the agent image needs {_NEEDED_BYTES >> 20} MiB"
        )
    directory = Path(tempfile.mkdtemp(prefix="conversationd-image-", dir=parent))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    # What an interrupted step leaves running needs a moment to die, and may write until then.
    for _ in range(10):
        if subprocess.run(_as_root("rm", "-rf", "--one-file-system", str(directory)), check=False).returncode == 0:
            return
        time.sleep(0.2)


def _ensure_debootstrap(progress: Callable[[str], None]) -> None:
    if shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        return
    progress("agent image: installing debootstrap by apt")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ("debootstrap", "debian-archive-keyring")
    for command in (("apt-get", "update", "-qq"), ("apt-get", "install", "-qq", "--no-install-recommends", *packages)):
        try:
            subprocess.run(_as_root(*command), env=environment, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (
                error.stderr.decode(errors="replace")[-500:] if isinstance(error, subprocess.CalledProcessError) else ""
            )
            raise ImageBuildFailed(
                f"debootstrap is missing, and installing it by apt failed: {error} {detail}".strip()
            ) from error


def _run_step(step: _Step, environment: Mapping[str, str], log: IO[bytes]) -> None:
    settings = [f"{name}={value}" for name, value in environment.items()]
    # Of its own are the mounts, so that none outlives the step, and the processes, so that none outlives this one.
    namespace = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    # `env` carries the settings across sudo, which drops most of the environment.
    argv = _as_root("env", "-i", *settings, *namespace, "sh", "-euc", step.script)
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=True)
    except OSError as error:
        raise ImageBuildFailed(f"the agent image needs root, or sudo, which is missing: {error}") from error
    except subprocess.CalledProcessError as error:
        log.seek(0)
        tail = log.read().decode(errors="replace").splitlines()[-15:]
        raise ImageBuildFailed("\n".join([f"{step.title} failed with exit code {error.returncode}:", *tail])) from error


def _build_environment(root: Path) -> dict[str, str]:
    bundle = next((path for path in map(os.environ.get, _CA_SETTINGS) if path and Path(path).is_file()), _CA_IN_CHROOT)
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "ROOT": str(root),
        "CA_BUNDLE": bundle,
        **{name: value for name in (*_PROXIES, "DEBIAN_MIRROR") if (value := os.environ.get(name))},
        **_index_settings(_pip_settings()),
        **dict.fromkeys(_CA_SETTINGS, _CA_IN_CHROOT),
    }


def _pip_settings() -> dict[str, str]:
    """What pip's own files and environment say, by the names of pip's environment variables; later ones win."""
    parser = configparser.RawConfigParser()
    home = Path.home()
    files = [
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    parser.read([*files, *filter(None, [os.environ.get("PIP_CONFIG_FILE")])])
    sections = [parser[name] for name in ("global", "install") if parser.has_section(name)]
    settings = {f"PIP_{key.upper().replace('-', '_')}": value for section in sections for key, value in section.items()}
    return settings | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def _index_settings(pip: Mapping[str, str]) -> dict[str, str]:
    """The settings of pip that say where packages are, for pip and for uv; places on the host's disk are left out."""
    index = pip.get("PIP_INDEX_URL", "")
    extra = " ".join(url for url in pip.get("PIP_EXTRA_INDEX_URL", "").split() if url.startswith("http"))
    seconds = pip.get("PIP_DEFAULT_TIMEOUT") or pip.get("PIP_TIMEOUT", "")
    settings = {
        "PIP_INDEX_URL": index,
        "PIP_EXTRA_INDEX_URL": extra,
        "PIP_DEFAULT_TIMEOUT": seconds,
        "UV_DEFAULT_INDEX": index,
        "UV_INDEX": extra,
        "UV_HTTP_TIMEOUT": seconds,
    }
    return {name: value for name, value in settings.items() if value}


def _import(api: APIClient, root: Path, name: str) -> None:
    repository, _, tag = name.partition(":")
    argv = _as_root("tar", "--numeric-owner", "-C", str(root), "-c", ".")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tar:
        try:
            answer = api.import_image_from_stream(tar.stdout, repository=repository, tag=tag, changes=list(_CHANGES))
        except (APIError, OSError) as error:
            raise ImageBuildFailed(f"the engine did not take the agent image: {error}") from error
    if tar.returncode or '"error"' in answer:
        raise ImageBuildFailed(f"handing the agent image to the engine failed: tar {tar.returncode}, {answer[-500:]}")
