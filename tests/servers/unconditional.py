"""An S3 store that forgets the condition of a conditional put, as some do: a proxy in front of one that does not."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from millrace.laptop.servers.weed import Weed
from svc_storage.adapters.s3.objects import Objects
from tests.servers.weed import address, credentials


@contextmanager
def unconditional(weed: Weed) -> Iterator[str]:
    """Its endpoint, while the block runs."""
    target = weed.endpoint.removeprefix("http://")
    bucket = Objects(address(weed, ""), credentials(weed.keys[0]))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_way(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.command == "PUT" and self.headers.get("if-none-match"):
                bucket.put(self.path.split("/", 2)[2], body)  # the condition is signed: put it in our own name
                self.answer(200, [("ETag", '"0"')], b"")
                return
            onward = http.client.HTTPConnection(target)
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                onward.putheader(name, value)
            onward.endheaders(body)
            found = onward.getresponse()
            self.answer(found.status, found.getheaders(), found.read())
            onward.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one_way

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Not on the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
