"""A registry of one image, over plain HTTP on this host's loopback, which engines trust without TLS."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

SIZE: Final = 3_000_000
NAME: Final = "conversationd-tests/pulled"

_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves the image `NAME:1` of one random layer. With `stalling` the layer stops half way until `release`."""

    def __init__(self, *, stalling: bool) -> None:
        plain = _layer()
        self.layer = gzip.compress(plain, compresslevel=1)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
        }
        self._blobs = {_digest(self.layer): self.layer}
        encoded = json.dumps(config).encode()
        self._blobs[_digest(encoded)] = encoded
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "size": len(encoded), "digest": _digest(encoded)},
                "layers": [{"mediaType": _LAYER, "size": len(self.layer), "digest": _digest(self.layer)}],
            }
        ).encode()
        self._stalling = stalling
        self.stalled = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """Let go of what stalls."""
        self._released.set()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        kind, _, reference = request.path.rpartition("/")
        if request.path == "/v2/":
            self._send(request, b"{}", "application/json")
        elif kind == f"/v2/{NAME}/manifests" and reference in ("1", "latest", _digest(self.manifest)):
            self._send(request, self.manifest, _MANIFEST)
        elif kind == f"/v2/{NAME}/blobs" and reference in self._blobs:
            self._send(request, self._blobs[reference], "application/octet-stream")
        else:
            errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self._send(request, json.dumps(errors).encode(), "application/json", status=404)

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, kind: str, status: int = 200) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Docker-Content-Digest", _digest(body))
        request.end_headers()
        if request.command == "HEAD":
            return
        half = len(body) // 2 if self._stalling and body is self.layer else len(body)
        request.wfile.write(body[:half])
        if half < len(body):
            self.stalled.set()
            self._released.wait()


@contextmanager
def running_registry(*, stalling: bool = False) -> Iterator[tuple[Registry, str]]:
    """A registry, and the name by which an engine on this host pulls its image."""
    registry = Registry(stalling=stalling)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                registry.answer(self)
            except ConnectionError:
                self.close_connection = True
            if registry.stalled.is_set():
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815  # the standard library's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the same
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry, f"127.0.0.1:{server.server_port}/{NAME}:1"
    finally:
        registry.release()
        server.shutdown()
        thread.join()
        server.server_close()


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("random")
        entry.size = SIZE
        tar.addfile(entry, io.BytesIO(os.urandom(SIZE)))
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
