//! Functions in Python: servers whose behaviour differs from that of the function under test.

use std::{fs, path::Path};

use crate::{function::Function, home::Home};

/// The script of a function. `METHODS` and `SERVER` are placeholders.
const SCRIPT: &str = r#"
import os, sys, time, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

METHODS

server = SERVER((os.environ["HOST"], int(os.environ["PORT"])), Handler)
urllib.request.urlopen(sys.argv[1]).close()
server.serve_forever()
"#;

/// Returns a function in Python. `server` is `HTTPServer` or `ThreadingHTTPServer`. `methods` are the methods of its handler,
/// without indentation; `self.answer(body)` sends a response. `keys` are top-level lines of `function.toml`.
///
/// # Panics
/// When the script cannot be written.
pub fn python(python: &Path, home: &Home, name: &str, server: &str, methods: &str, keys: &str) -> Function {
    let script = home.path(&format!("{name}.py"));
    let indented: String = methods.lines().map(|line| format!("    {line}\n")).collect();
    fs::write(&script, SCRIPT.replace("METHODS", &indented).replace("SERVER", server)).expect("a script");
    let words = [&*python.to_string_lossy(), &*script.to_string_lossy(), "%callback", "--token", home.token()];
    Function::verbatim(name, &format!("{keys}\n[process]\ncommand = {words:?}\n"))
}
