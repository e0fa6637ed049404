"""`make demo`: one conversation through its life on the terminal, by the real daemon and its real client.

The agent is a small program in a small sandbox, so that the demo needs no model and no registry: it counts its steps
into its workspace. With Docker it is in a container; with `PROVIDER=process` it needs nothing but this host. Everything
that is made here is gone at the end.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import docker
from rich.console import Console

from tests.daemon_process import DaemonProcess, running_daemon
from tests.engine_host import NoEngine, find_engine, running_engine
from tests.tiny_image import tiny_image

COUNT: Final = """
step=$(wc -l < steps 2>/dev/null || echo 0)
while :; do
    step=$((step + 1))
    echo "step $step" | tee -a steps
    sleep 0.3
done
"""
AGENT: Final = f"""#!/bin/sh
# A small agent: counts its steps into the workspace, and goes on where it was when it is started again.
httpd -p 8000 -h /workspace
cd /workspace
{COUNT}""".encode()
CONFIG: Final = """
[sandbox]
image = "{image}"
pull = "never"
memory = "64MiB"
[timeouts]
grace = "2s"
[agent]
driver = "none"
"""
# The same agent where there is no busybox: Python serves.
PROCESS_CONFIG: Final = f"""
[process]
command = ["sh", "-c", '''
{sys.executable} -m http.server --bind 127.0.0.1 {{port}} > /dev/null 2>&1 &
{COUNT}''']
[sandbox]
provider = "process"
[timeouts]
grace = "2s"
[agent]
driver = "none"
"""
_SETTLE: Final = 1.2
_PATIENCE: Final = 60.0


def main(provider: str) -> int:
    """Run the demo on a provider, "" for Docker; answers with the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]conversationd[/bold]: one conversation through its life\n")
    try:
        (_on_this_host if provider == "process" else _on_docker)(console)
    except NoEngine as error:
        console.print(f"[red]The demo needs a Docker Engine, or PROVIDER=process:[/red] {error}")
        return 1
    console.print("\nDone: the daemon has ended, and nothing of the demo is left.")
    return 0


def _on_docker(console: Console) -> None:
    if find_engine() is None:
        console.print("No Docker Engine answers: installing Debian's, where needed, and starting one for this demo ...")
    with running_engine() as base_url, tiny_image(base_url, {"agent": AGENT}, "agent") as image:
        console.print(f"Docker Engine: {base_url}; a small agent image was built: {image}")
        with running_daemon(CONFIG.format(image=image), {"DOCKER_HOST": base_url}) as daemon:
            Walk(console, daemon, "docker kill", lambda name, _: _kill_container(base_url, name)).go()


def _on_this_host(console: Console) -> None:
    console.print("No Docker Engine is needed: the sandbox is a process of this host")
    with running_daemon(PROCESS_CONFIG) as daemon:
        walk = Walk(console, daemon, "kill -9", lambda _, pid: os.kill(int(pid), signal.SIGKILL))
        try:
            walk.go()
        except BaseException:
            walk.end()
            raise


def _kill_container(base_url: str, name: str) -> None:
    client = docker.APIClient(base_url=base_url, version="auto")
    client.kill(name)
    client.close()


@attrs.frozen
class Walk:
    """The steps of the demo. `kill` is given a sandbox's name, and its engine's id up to the first dash."""

    console: Console
    daemon: DaemonProcess
    kill_command: str
    kill: Callable[[str, str], None]

    def go(self) -> None:
        """Walk through all of them."""
        self.console.print(f"conversationd runs as process {self.daemon.pid} and listens on {self.daemon.socket}")
        self._say("Start it: its sandbox is created, hardened, and ready when its port accepts.")
        self._run("start", "demo")
        time.sleep(_SETTLE)
        self._run("logs", "demo", "--tail", "2")
        self._say("Pause it: every process in the sandbox is frozen where it is ...")
        self._run("pause", "demo")
        self._run("logs", "demo", "--tail", "1")
        time.sleep(_SETTLE)
        self._run("logs", "demo", "--tail", "1")
        self._say("... and resume it: it goes on with the very next step.")
        self._run("resume", "demo")
        time.sleep(_SETTLE)
        self._run("logs", "demo", "--tail", "6")
        self._say("Kill its sandbox from outside: the supervisor sees it at once and starts the next one.")
        self._kill_and_follow()
        self._say("The workspace was kept, so the work goes on; the conversation says how often it was restarted.")
        time.sleep(_SETTLE)
        self._run("logs", "demo", "--tail", "2")
        self._run("list")
        self._say("Stop it, archive it, and delete it with its workspace.")
        self._run("stop", "demo")
        self._run("archive", "demo")
        self._run("delete", "demo")
        self._run("list")

    def end(self) -> None:
        """Leave nothing running that the walk did not come to end."""
        subprocess.run(self._command(("stop", "demo", "--force")), check=False, env=self._environ)

    def _say(self, text: str) -> None:
        self.console.print(f"\n[cyan]# {text}[/cyan]")

    def _run(self, *arguments: str) -> None:
        self.console.print(f"[bold green]$[/bold green] conversationctl {' '.join(arguments)}")
        subprocess.run(self._command(arguments), check=True, env=self._environ)

    def _kill_and_follow(self) -> None:
        shown = subprocess.run(
            self._command(("get", "demo", "--json")), check=True, env=self._environ, capture_output=True
        )
        sandbox = json.loads(shown.stdout)["sandbox"]
        name, pid = sandbox["name"], sandbox["id"].partition("-")[0]
        self.console.print("[bold green]$[/bold green] conversationctl events --follow demo &")
        command = self._command(("events", "--follow", "demo"))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environ) as following:
            time.sleep(_SETTLE)
            killed = name if "docker" in self.kill_command else pid
            self.console.print(f"[bold green]$[/bold green] {self.kill_command} {killed}")
            self.kill(name, pid)
            self._echo_until_running(following)
            following.terminate()

    def _echo_until_running(self, following: "subprocess.Popen[str]") -> None:
        deadline = time.monotonic() + _PATIENCE
        for line in following.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            if "RUNNING" in line and "ready" in line:
                return
            if time.monotonic() > deadline:
                break
        raise TimeoutError("the conversation was not restarted")

    def _command(self, arguments: Sequence[str]) -> Sequence[str]:
        return [sys.executable, "-m", "supervisor.cli.conversationctl", *arguments]

    @property
    def _environ(self) -> dict[str, str]:
        return {**os.environ, "CONVERSATIOND_ADDRESS": f"unix:{self.daemon.socket}"}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [""]))
