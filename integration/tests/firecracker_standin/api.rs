//! The API, as far as snapshots need it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::Duration,
};

use integration::{eventually, vm::ip};
use serde_json::{Value, json};

use crate::host::{Host, Machine, TAP, with_each};

const TIME_LIMIT: Duration = Duration::from_secs(20);
const SOCKET: &str = "api.sock";
const GUEST: &str = "10.200.0.2:8080";

/// A Firecracker with its API.
struct Api {
    machine: Machine,
    socket: std::path::PathBuf,
}

impl Api {
    /// Starts it in the directory of the test, with the configuration or without one.
    async fn start(host: &Host, config: Option<Value>) -> Self {
        let socket = host.path(SOCKET);
        let _ = fs::remove_file(&socket);
        // The kernel closes the files of a process that was killed a little after its end.
        let tap = async || ip(&format!("-o link show {TAP}"));
        eventually(TIME_LIMIT, "the tap is free", tap, |line| line.contains("NO-CARRIER")).await;
        let mut command = Command::new(&host.firecracker);
        command.args(["--id", "i-1", "--api-sock", SOCKET, "--level", "Error"]).current_dir(host.files.path());
        if let Some(config) = config {
            command.args(["--config-file", &host.file("config.json", config.to_string().as_bytes())]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let api = Self { machine: Machine(child), socket };
        let look = async || UnixStream::connect(&api.socket).is_ok();
        eventually(TIME_LIMIT, "the socket is there", look, |there| *there).await;
        api
    }

    fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        let length = body.len();
        let fields = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        write!(stream, "{method} {path} HTTP/1.1\r\n{fields}\r\n{body}").unwrap();
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            length =
                line.to_lowercase().strip_prefix("content-length: ").map_or(length, |value| value.parse().unwrap());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        (first.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
    }

    /// Checks that a request is refused with these words.
    #[track_caller]
    fn refuses(&self, (method, path, body): (&str, &str, &str), words: &str) {
        let (status, said) = self.request(method, path, body);
        let fault: Value = serde_json::from_str(&said).unwrap_or_default();
        let message = fault["fault_message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(words), "{method} {path} {body}: {status} {said}");
    }

    #[track_caller]
    fn does(&self, (method, path, body): (&str, &str, &str)) {
        assert_eq!(self.request(method, path, body), (204, String::new()), "{method} {path} {body}");
    }

    fn state(&self) -> String {
        let (status, said) = self.request("GET", "/", "");
        let info: Value = serde_json::from_str(&said).unwrap();
        assert!(status == 200 && info["id"] == "i-1" && info["app_name"] == "Firecracker", "{said}");
        assert!(info["vmm_version"].as_str().unwrap().starts_with("1.17"), "{said}");
        info["state"].as_str().unwrap().to_owned()
    }

    /// Waits until it has ended by itself, and returns its status.
    async fn ended(mut self) -> Option<i32> {
        let look = async || self.machine.0.try_wait().unwrap();
        eventually(TIME_LIMIT, "it ends", look, Option::is_some).await.unwrap().code()
    }
}

const PAUSE: (&str, &str, &str) = ("PATCH", "/vm", r#"{"state":"Paused"}"#);
const CREATE: (&str, &str, &str) =
    ("PUT", "/snapshot/create", r#"{"snapshot_type":"Full","snapshot_path":"state","mem_file_path":"memory"}"#);
const BACKEND: &str = r#""mem_backend":{"backend_type":"File","backend_path":"memory"}"#;

fn load(more: &str) -> String {
    format!(r#"{{"snapshot_path":"state",{BACKEND}{more}}}"#)
}

/// Boots the guest, waits until it is ready, and saves it.
async fn saved(host: &Host, config: Value) {
    let template = Api::start(host, Some(config)).await;
    eventually(TIME_LIMIT, "a callback", async || host.was_called_back(), |called| *called).await;
    assert_eq!(template.state(), "Running");
    let early = "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable \
                 while running";
    template.refuses(CREATE, early);
    template.does(PAUSE);
    assert_eq!(template.state(), "Paused");
    template.refuses(
        ("PUT", "/snapshot/create", r#"{"snapshot_path":"no/such/place","mem_file_path":"memory"}"#),
        "Create snapshot error: Cannot perform open on the snapshot backing file: No such file or directory",
    );
    template.does(CREATE);
    let late = "The requested operation is not supported after starting the microVM.";
    template.refuses(("PUT", "/snapshot/load", &load("")), late);
    let size = host.path("memory").metadata().unwrap().len();
    assert!(size >= 32 << 20 && host.path("state").is_file(), "{size}");
}

/// Returns the answer of the guest.
async fn answer() -> String {
    let ask = async || {
        let address: SocketAddr = GUEST.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()?;
        stream.set_read_timeout(Some(TIME_LIMIT)).ok()?;
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    };
    eventually(TIME_LIMIT, "an answer", ask, Option::is_some).await.unwrap_or_default()
}

#[test]
fn guest_is_saved_and_loaded() {
    with_each(async |host| {
        let mut config = host.config();
        config["drives"] =
            json!([{ "drive_id": "rootfs", "path_on_host": "disk", "is_root_device": true, "is_read_only": false }]);
        host.zeros("disk", 1 << 20);
        saved(&host, config).await;
        let clone = Api::start(&host, None).await;
        assert_eq!(clone.state(), "Not started");
        let overridden = format!(
            r#","resume_vm":true,"clock_realtime":true,"network_overrides":[{{"iface_id":"eth0","host_dev_name":"{TAP}"}}]"#
        );
        clone.does(("PUT", "/snapshot/load", &load(&overridden)));
        assert_eq!(clone.state(), "Running");
        assert!(answer().await.contains("Hello from the unikernel at 10.200.0.2"));
        drop(clone);

        let paused = Api::start(&host, None).await;
        paused.does(("PUT", "/snapshot/load", &load("")));
        assert_eq!(paused.state(), "Paused");
        paused.does(("PATCH", "/vm", r#"{"state":"Resumed"}"#));
        assert!(answer().await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn wrong_requests_are_refused() {
    with_each(async |host| {
        let api = Api::start(&host, None).await;
        let body = "An error occurred when deserializing the json body of a request: ";
        let with_body = |words: &str| format!("{body}{words}");
        let both = load(r#","mem_file_path":"memory""#);
        for (request, words) in [
            (PAUSE, "The requested operation is not supported before starting the microVM.".to_owned()),
            (CREATE, "The requested operation is not supported before starting the microVM.".to_owned()),
            (("PATCH", "/vm", r#"{"state":"Frozen"}"#), with_body("unknown variant `Frozen`")),
            (("PATCH", "/vm", "{}"), with_body("missing field `state`")),
            (("PUT", "/snapshot/create", r#"{"snapshot_path":"state"}"#), with_body("missing field `mem_file_path`")),
            (("PUT", "/snapshot/load", &load(r#","frob":1"#)), with_body("unknown field `frob`")),
            (("PUT", "/snapshot/load", &load(r#","resume_vm":"yes""#)), with_body("invalid type: string")),
            (("PUT", "/snapshot/load", r#"{"snapshot_path":"state"}"#), with_body("missing field: either")),
            (("PUT", "/snapshot/load", &both), with_body("too many fields: either")),
            (("PUT", "/snapshot/frob", "{}"), "Invalid request method and/or path: ".to_owned()),
        ] {
            api.refuses(request, &words);
        }
        let mut second = Command::new(&host.firecracker);
        second.args(["--api-sock", SOCKET]).current_dir(host.files.path());
        let second = second.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&second.stderr);
        assert!(second.status.code() == Some(1) && said.contains("RunWithApi(FailedToBindSocket("), "{said}");
    });
}

#[test]
fn broken_snapshots_end_the_process() {
    with_each(async |host| {
        let mut config = host.config();
        config["drives"] =
            json!([{ "drive_id": "rootfs", "path_on_host": "disk", "is_root_device": true, "is_read_only": true }]);
        host.zeros("disk", 1 << 20);
        saved(&host, config).await;
        let from = "Load snapshot error: Failed to restore from snapshot: ";
        let unknown = r#","network_overrides":[{"iface_id":"eth7","host_dev_name":"x"}]"#;
        for (more, break_it, words) in [
            (unknown, None, "Failed to get snapshot state from file: Unknown Network Device."),
            ("", Some("disk"), "Failed to build microVM from snapshot: Failed to restore devices: "),
            ("", Some("memory"), "Failed to load guest memory: "),
            ("", Some("state"), "Failed to get snapshot state from file: Failed to open snapshot file: "),
        ] {
            if let Some(name) = break_it {
                fs::rename(host.path(name), host.path("aside")).unwrap();
            }
            let clone = Api::start(&host, None).await;
            clone.refuses(("PUT", "/snapshot/load", &load(more)), &format!("{from}{words}"));
            assert_eq!(clone.ended().await, Some(1), "{words}");
            if let Some(name) = break_it {
                fs::rename(host.path("aside"), host.path(name)).unwrap();
            }
        }
        let mut state = fs::read(host.path("state")).unwrap();
        let middle = state.len() / 2;
        state[middle] ^= 1;
        fs::write(host.path("state"), state).unwrap();
        let clone = Api::start(&host, None).await;
        let words =
            "Failed to get snapshot state from file: Failed to load snapshot state from file: CRC64 validation failed";
        clone.refuses(("PUT", "/snapshot/load", &load("")), &format!("{from}{words}"));
        assert_eq!(clone.ended().await, Some(1));
    });
}
