"""`python -m tests.benchmarks.deaths URL`: a plain docker-py reader that prints each death with its time."""

import sys
import time

import docker


def main(base_url: str) -> None:
    """Print a container's id and `time.perf_counter()` for each `die` event, until killed."""
    events = docker.APIClient(base_url=base_url, version="auto").events(decode=True, filters={"event": "die"})
    print("listening", flush=True)  # noqa: T201 - for the process that started us
    for event in events:
        print(event["id"], time.perf_counter(), flush=True)  # noqa: T201 - for the process that started us


if __name__ == "__main__":
    main(sys.argv[1])
