//! Client of Firecracker's API: saves a template, and loads it into a clone. Each request has a connection of its own.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use nix::libc;
use serde::{Deserialize, Serialize};
use tokio::{net::UnixStream, task::spawn_local, time};
use unifaas_actors::sandbox::RestoreError;

use super::{
    RESTORE_TIMEOUT, SAVE_TIMEOUT,
    firecracker::{API_SOCKET, INTERFACE},
};
use crate::snapshot::Part;

/// Between two looks for the socket.
const SOCKET_INTERVAL: Duration = Duration::from_millis(1);
const MAX_ANSWER: usize = 64 << 10;
/// The first release that can set the guest's clock.
const SETS_CLOCK: (u64, u64) = (1, 16);

/// Why Firecracker has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("Firecracker refuses {call}: {fault}")]
    Refused { call: String, fault: String },
    #[error("{call} of Firecracker: {why}")]
    Unanswered { call: String, why: String },
    #[error("{0} took more than {1:?}")]
    TimedOut(&'static str, Duration),
    #[error("the snapshot was written by Firecracker {written}, and this is {present}")]
    OtherVersion { written: String, present: String },
}

impl From<ApiError> for RestoreError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::TimedOut(..) => Self::TimedOut(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The API of one Firecracker.
#[derive(Debug)]
pub struct FirecrackerApi {
    /// Where it has its files.
    directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct InstanceInfo {
    vmm_version: String,
}

#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

#[derive(Debug, Serialize)]
struct VmState {
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct CreateSnapshot {
    snapshot_type: &'static str,
    snapshot_path: &'static str,
    mem_file_path: &'static str,
}

#[derive(Debug, Serialize)]
struct LoadSnapshot<'a> {
    snapshot_path: &'static str,
    mem_backend: MemoryBackend,
    network_overrides: [NetworkOverride<'a>; 1],
    resume_vm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_realtime: Option<bool>,
}

#[derive(Debug, Serialize)]
struct MemoryBackend {
    backend_type: &'static str,
    backend_path: &'static str,
}

#[derive(Debug, Serialize)]
struct NetworkOverride<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
}

impl FirecrackerApi {
    /// Returns the client of a Firecracker that has its files in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Returns where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Saves the guest, which runs no more afterwards, into two files of the directory. Returns the version of Firecracker.
    ///
    /// # Errors
    /// When it cannot be saved.
    pub async fn save(&self) -> Result<String, ApiError> {
        let save = async {
            let version = self.version().await?;
            self.send(Method::PATCH, "/vm", &VmState { state: "Paused" }).await?;
            let (snapshot_path, mem_file_path) = (Part::State.name(), Part::Memory.name());
            let request = CreateSnapshot { snapshot_type: "Full", snapshot_path, mem_file_path };
            self.send(Method::PUT, "/snapshot/create", &request).await?;
            Ok(version)
        };
        time::timeout(SAVE_TIMEOUT, save).await.unwrap_or(Err(ApiError::TimedOut("to save the guest", SAVE_TIMEOUT)))
    }

    /// Restores a guest from two files of the directory onto a tap, until it runs. `written` is the version of Firecracker that
    /// has saved it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn restore(&self, tap: &str, written: &str) -> Result<(), ApiError> {
        let restore = async {
            let present = self.version().await?;
            if present != written {
                return Err(ApiError::OtherVersion { written: written.to_owned(), present });
            }
            let request = LoadSnapshot {
                snapshot_path: Part::State.name(),
                mem_backend: MemoryBackend { backend_type: "File", backend_path: Part::Memory.name() },
                network_overrides: [NetworkOverride { iface_id: INTERFACE, host_dev_name: tap }],
                resume_vm: true,
                clock_realtime: sets_clock(&present).then_some(true),
            };
            self.send(Method::PUT, "/snapshot/load", &request).await.map(drop)
        };
        let restored = time::timeout(RESTORE_TIMEOUT, restore).await;
        // Nothing more is asked of it.
        let _ = fs::remove_file(self.directory.join(API_SOCKET));
        restored.unwrap_or(Err(ApiError::TimedOut("the restore", RESTORE_TIMEOUT)))
    }

    async fn version(&self) -> Result<String, ApiError> {
        let answer = self.request(Method::GET, "/", Bytes::new()).await?;
        let info: Result<InstanceInfo, _> = serde_json::from_slice(&answer);
        info.map(|info| info.vmm_version).map_err(|error| unanswered("GET /")(&error))
    }

    async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Bytes, ApiError> {
        let call = format!("{method} {path}");
        let body = serde_json::to_vec(body).map_err(|error| unanswered(&call)(&error))?;
        self.request(method, path, body.into()).await
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let call = format!("{method} {path}");
        let failed = unanswered(&call);
        let stream = self.connect().await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        spawn_local(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        let request = request.header(ACCEPT, "application/json").header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let answer = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| failed(&*error))?.to_bytes();
        if head.status.is_success() {
            return Ok(answer);
        }
        let fault = serde_json::from_slice::<Fault>(&answer)
            .map_or_else(|_| format!("status {}", head.status.as_u16()), |fault| fault.fault_message);
        Err(ApiError::Refused { call: call.clone(), fault })
    }

    /// Connects once the socket is there. The path of the directory may be longer than an address of a socket.
    async fn connect(&self) -> io::Result<UnixStream> {
        let directory =
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&self.directory)?;
        let socket = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(API_SOCKET);
        loop {
            match UnixStream::connect(&socket).await {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    time::sleep(SOCKET_INTERVAL).await;
                }
                other => return other,
            }
        }
    }
}

fn unanswered(call: &str) -> impl Fn(&dyn std::fmt::Display) -> ApiError + use<'_> {
    move |why| ApiError::Unanswered { call: call.to_owned(), why: why.to_string() }
}

/// Returns whether a release, as in `1.17.0-dev`, can set the guest's clock.
fn sets_clock(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= SETS_CLOCK
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use tokio::task::LocalSet;

    use super::*;

    /// Answers requests with these statuses and bodies, and returns what was requested.
    fn monitor(directory: &Path, answers: Vec<(&'static str, &'static str)>) -> thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(directory.join(API_SOCKET)).unwrap();
        thread::spawn(move || {
            let answer = |(status, body): (&str, &str)| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0);
                reader.read_line(&mut first).unwrap();
                for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    length =
                        line.to_lowercase().strip_prefix("content-length: ").map_or(length, |it| it.parse().unwrap());
                }
                let mut sent = vec![0; length];
                reader.read_exact(&mut sent).unwrap();
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                format!("{} {}", first.trim_end_matches(" HTTP/1.1\r\n"), String::from_utf8(sent).unwrap())
            };
            answers.into_iter().map(answer).collect()
        })
    }

    const INFO: (&str, &str) =
        ("200 OK", r#"{"app_name":"Firecracker","id":"i","state":"Running","vmm_version":"1.17.0"}"#);
    const DONE: (&str, &str) = ("204 No Content", "");

    #[tokio::test]
    async fn guest_is_paused_saved_and_loaded() {
        let place = tempfile::tempdir().unwrap();
        let api = FirecrackerApi::new(place.path().to_owned());
        let requests = monitor(place.path(), vec![INFO, DONE, DONE, INFO, DONE]);
        LocalSet::new()
            .run_until(async {
                assert_eq!(api.save().await.unwrap(), "1.17.0");
                api.restore("faas7", "1.17.0").await.unwrap();
            })
            .await;
        let load = concat!(
            r#"PUT /snapshot/load {"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"#,
            r#""network_overrides":[{"iface_id":"eth0","host_dev_name":"faas7"}],"resume_vm":true,"clock_realtime":true}"#
        );
        let expected = [
            "GET / ",
            r#"PATCH /vm {"state":"Paused"}"#,
            r#"PUT /snapshot/create {"snapshot_type":"Full","snapshot_path":"state","mem_file_path":"memory"}"#,
            "GET / ",
            load,
        ];
        assert_eq!(requests.join().unwrap(), expected);
        assert!(!place.path().join(API_SOCKET).exists());
    }

    #[tokio::test]
    async fn errors_name_call_and_fault() {
        let place = tempfile::tempdir().unwrap();
        let api = FirecrackerApi::new(place.path().to_owned());
        let fault = ("400 Bad Request", r#"{"fault_message":"no such file"}"#);
        let requests = monitor(place.path(), vec![INFO, fault, INFO]);
        LocalSet::new()
            .run_until(async {
                let said = api.save().await.unwrap_err().to_string();
                assert_eq!(said, "Firecracker refuses PATCH /vm: no such file");
                let said = api.restore("faas7", "1.16.1").await.unwrap_err().to_string();
                assert_eq!(said, "the snapshot was written by Firecracker 1.16.1, and this is 1.17.0");
            })
            .await;
        assert_eq!(requests.join().unwrap().len(), 3);
    }

    #[test]
    fn clock_is_set_from_1_16_on() {
        assert!(sets_clock("1.16.0") && sets_clock("2.0.0-dev") && !sets_clock("1.15.9") && !sets_clock(""));
    }
}
