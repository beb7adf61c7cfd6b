//! A receiver of results: an HTTP server in Python that checks signatures by itself and answers as the path says.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{Home, SOON, tools, within};

/// The script. Its arguments: the port or 0, the secret or nothing, and a file with certificate and key or nothing.
///
/// The first part of a path says how a result is answered: `refuse` and a count with 500 so often, `hang` and a count not at
/// all so often, `slow` after 3 s, `redirect` with 307, `endless` with a body without end; everything is taken else.
const SCRIPT: &str = r#"
import base64, collections, hashlib, hmac, json, ssl, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, secret, certificate = sys.argv[1:]
counts, lock = collections.Counter(), threading.Lock()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def signature(self, body):
        head = "%s.%s." % (self.headers["webhook-id"], self.headers["webhook-timestamp"])
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, head.encode() + body, hashlib.sha256).digest()
        return "v1," + base64.b64encode(digest).decode()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        counts[self.path] += 1
        given = self.headers.get("webhook-signature")
        seen = {
            "path": self.path, "body": body.decode("latin-1"), "time": time.time(),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "is_signed": given is not None and bool(secret) and hmac.compare_digest(given, self.signature(body)),
        }
        with lock:
            print(json.dumps(seen), flush=True)
        _, kind, *rest = self.path.split("?")[0].split("/")
        is_early = counts[self.path] <= int(rest[0] if rest and rest[0].isdigit() else 0)
        if kind == "hang" and is_early:
            time.sleep(60)
            return
        if kind == "slow":
            time.sleep(3)
        status = 500 if kind == "refuse" and is_early else 307 if kind == "redirect" else 200
        self.send_response(status)
        if kind == "redirect":
            self.send_header("Location", "/elsewhere")
        if kind == "endless":
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        self.send_header("Content-Length", "0")
        self.end_headers()

class Server(ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *_):
        pass

server = Server(("127.0.0.1", int(port)), Handler)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A receiver that runs until it is dropped.
pub struct Receiver {
    /// The port on 127.0.0.1.
    pub port: u16,
    seen: Arc<Mutex<Vec<Value>>>,
    _process: Child,
}

impl Receiver {
    /// Starts a receiver on any port. `None`: Python is not installed. `secret` begins with `whsec_`, or is empty.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(home: &Home, secret: &str) -> Option<Self> {
        Self::start_at(home, 0, secret, None).await
    }

    /// Starts a receiver on a port, perhaps with TLS.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_at(home: &Home, port: u16, secret: &str, certificate: Option<&Path>) -> Option<Self> {
        let python = tools::program("python3")?;
        let script = home.path("receiver.py");
        std::fs::write(&script, SCRIPT).expect("a script");
        let mut command = Command::new(python);
        command.arg(script).arg(port.to_string()).arg(secret).arg(certificate.unwrap_or_else(|| Path::new("")));
        let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it can be run");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let first = within(SOON, "the receiver's port", lines.next_line()).await.expect("its output");
        let port = first.and_then(|line| line.parse().ok()).expect("a port");
        let seen = Arc::<Mutex<Vec<Value>>>::default();
        let kept = seen.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().expect("no panic").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Some(Self { port, seen, _process: process })
    }

    /// Returns a URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns the results that it has got at a path, in order.
    ///
    /// # Panics
    /// When a check has failed before.
    pub fn got(&self, path: &str) -> Vec<Value> {
        self.seen.lock().expect("no panic").iter().filter(|seen| seen["path"] == path).cloned().collect()
    }
}
