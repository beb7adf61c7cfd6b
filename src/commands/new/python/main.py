"""A function: handle() answers requests; the rest is an HTTP server that tells the daemon when it is ready."""

import os
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def handle(method, path, body):
    """Returns the status and the text of the answer."""
    print(method, path)  # `unifaas logs` shows what is printed
    return 200, f"Hello from {name}: {method} {path}, {len(body)} bytes\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        if "Transfer-Encoding" in self.headers:
            return self.send_error(411)  # this server reads bodies of known length only
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, text = handle(self.command, self.path, body)
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
ready = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
ready.open(os.environ["CALLBACK_URL"]).close()
server.serve_forever()
