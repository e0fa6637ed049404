"""The OpenAPI document is true: schemathesis asks the running daemon everything that it promises, and a lot else."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.daemon_process import DaemonProcess
from tests.http_door import http_door

EXAMPLES: Final = 3
PATHS: Final = "^/(api/(conversations|v1)|start|pause|resume|stop|list|sessions|runtime|image_exists|registry_prefix)"
WITHIN: Final = 240.0


def test_running_daemon_keeps_what_its_document_says(http_daemon: DaemonProcess, tmp_path: Path) -> None:
    """Statuses, headers, content types and bodies as documented; what is wrong refused, what is right taken.

    Deadlines of a moment pass, and images that are not there are asked for, so an answer of 5xx proves nothing here:
    the log does, which has no bug in it. Streams of events never end, and have tests of their own;
    `/conversations` is the same router once more.
    """
    address, key = http_door(http_daemon)
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        f"http://{address.authority}/openapi.json",
        *("--header", f"X-API-Key: {key}"),
        *("--include-path-regex", PATHS),
        *("--exclude-checks", "not_a_server_error"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic"),
        "--no-color",
    ]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=WITHIN)
    assert done.returncode == 0, done.stdout[-8000:]
    log = http_daemon.log.read_text()
    assert "went wrong inside" not in log
    assert '"exc_info"' not in log
