"""The judge of the runtime API: `openhands-workspace`, unmodified. It runs inside the agent's image, not here.

It is given the address of the API, the image, the file with the key, and the README's example, which leaves the runtime
`my-session` running with a file in it.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import httpx  # type: ignore[import-not-found] # in the agent's image
from openhands.workspace import APIRemoteWorkspace  # type: ignore[import-not-found] # the same

URL, IMAGE, KEY_FILE, EXAMPLE = sys.argv[1:]
KEY = Path(KEY_FILE).read_text().strip()
SESSION = "my-session"


def workspace(**more: Any) -> Any:  # noqa: ANN401 - theirs
    """A workspace of the session."""
    given = {"session_id": SESSION, "runtime_class": None, "keep_alive": True, **more}
    return APIRemoteWorkspace(runtime_api_url=URL, runtime_api_key=KEY, server_image=IMAGE, **given)


def session(name: str = SESSION) -> Any:  # noqa: ANN401 - theirs
    """What the API says of a session."""
    return httpx.get(f"{URL}/sessions/{name}", headers={"X-API-Key": KEY})


def see(inside: Any, command: str, printed: str) -> None:  # noqa: ANN401 - theirs
    """Run a command in the sandbox, and see what it prints."""
    result = inside.execute_command(command)
    assert (result.exit_code, result.stdout) == (0, printed), result


runpy.run_path(EXAMPLE)
started = session().json()
assert (started["status"], started["pod_status"]) == ("running", "ready"), started

running = workspace()
see(running, "cat /workspace/note.txt; id -u; id -g", "hello\n10001\n10001\n")
running.pause()
assert session().json()["status"] == "paused"
running.resume()
see(running, "cat /workspace/note.txt", "hello\n")

running.pause()
paused = workspace()
see(paused, "cat /workspace/note.txt; echo $HOME", "hello\n/workspace\n")
assert session().json() == started

refused = None
try:
    workspace(session_id="other", runtime_class="sysbox-runc")
except httpx.HTTPStatusError as error:
    refused = error.response
assert refused is not None
assert refused.status_code == 403
assert "[sandbox.allow] runtimes" in refused.json()["detail"]
assert session("other").status_code == 404

with workspace(keep_alive=False):
    pass
assert session().status_code == 404
print("judged")  # noqa: T201 - what the test waits for
