"""A function for UniFaaS: listen on HOST:PORT, make the ready callback, serve."""

import os
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True  # head and body are two writes; the second must not wait for an acknowledgement

    def answer(self):
        self.skip_body()
        instance = os.environ.get("INSTANCE_ID", "hello-python")
        text = f"Hello from {instance}, pid {os.getpid()}\n{self.command} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def skip_body(self):
        """Reads the body to its end, because the next request on this connection starts after it."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.skip(int(self.headers.get("Content-Length", 0)))
        while size := int(self.rfile.readline().split(b";")[0], 16):
            self.skip(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def skip(self, size):
        while size and (piece := self.rfile.read(min(size, 65536))):
            size -= len(piece)


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that may wait to be accepted; the default is 5


server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8080))), Hello)
callback = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CALLBACK_URL")
if callback:
    # The daemon is next door: never through a proxy that the environment may name.
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(callback, timeout=10).close()
server.serve_forever()
