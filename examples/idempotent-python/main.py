"""A function that does its work once, however often it gets the same request: it recognises a repeat by Idempotency-Key."""

import os
import sqlite3
import tempfile
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Where the work goes. The work and its key are written in one transaction, so that no crash comes between them.
FILE = os.environ.get("ORDERS", os.path.join(tempfile.gettempdir(), "orders.db"))


def place_order(key, order):
    """Stores an order, unless it was stored under this key before. Returns its number."""
    with sqlite3.connect(FILE, timeout=10) as orders:
        orders.execute("CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, key TEXT UNIQUE, text TEXT)")
        orders.execute("INSERT OR IGNORE INTO orders (key, text) VALUES (?, ?)", (key, order))
        return orders.execute("SELECT number FROM orders WHERE key = ?", (key,)).fetchone()[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers.get("Idempotency-Key")
        if not key:
            return self.send_error(400, "no Idempotency-Key")  # is not tried again
        attempt = self.headers.get("x-unifaas-attempt", "1")
        number = place_order(key, body.decode(errors="replace"))
        text = f"order {number}, attempt {attempt}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
ready = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
ready.open(os.environ["CALLBACK_URL"]).close()
server.serve_forever()
