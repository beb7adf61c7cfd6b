//! Firecracker's API, as far as snapshots need it: statuses and messages are Firecracker's.

use std::{
    convert::Infallible,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use serde::{
    Deserialize,
    de::{DeserializeOwned, Error, IgnoredAny},
};
use serde_json::{Value, json};

use crate::{
    VERSION,
    guest::{Guest, create},
    machine::{Machine, open_tap},
    refusal::{self, Refusal},
    saved::Saved,
};

const MAX_BODY: usize = 51_200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    state: VmState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum VmState {
    Paused,
    Resumed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateSnapshotParams {
    #[serde(default, rename = "snapshot_type")]
    _snapshot_type: SnapshotType,
    snapshot_path: String,
    mem_file_path: String,
}

#[derive(Debug, Default, Deserialize)]
enum SnapshotType {
    Diff,
    #[default]
    Full,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadSnapshotConfig {
    snapshot_path: String,
    mem_file_path: Option<String>,
    mem_backend: Option<MemBackendConfig>,
    #[serde(default, rename = "enable_diff_snapshots")]
    _enable_diff_snapshots: bool,
    #[serde(default, rename = "track_dirty_pages")]
    _track_dirty_pages: bool,
    #[serde(default)]
    resume_vm: bool,
    #[serde(default)]
    network_overrides: Vec<NetworkOverride>,
    #[serde(rename = "vsock_override")]
    _vsock_override: Option<IgnoredAny>,
    #[serde(default, rename = "clock_realtime")]
    _clock_realtime: bool,
    #[serde(default, rename = "huge_pages")]
    _huge_pages: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemBackendConfig {
    backend_path: String,
    backend_type: MemBackendType,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
enum MemBackendType {
    File,
    Uffd,
}

#[derive(Debug, Deserialize)]
struct NetworkOverride {
    iface_id: String,
    host_dev_name: String,
}

/// Why a request is refused.
struct Fault {
    message: String,
    /// The process ends after the answer.
    is_fatal: bool,
}

fn fault(message: impl fmt::Display) -> Fault {
    Fault { message: message.to_string(), is_fatal: false }
}

/// The message of a snapshot that cannot be loaded.
fn unloadable(why: impl fmt::Display) -> Fault {
    let message = format!("Load snapshot error: Failed to restore from snapshot: {why}");
    Fault { message, is_fatal: true }
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

/// The process with its guest, if it has one.
struct Vmm<'a> {
    id: &'a str,
    guest: Option<Guest>,
    is_paused: bool,
}

/// Serves requests, beside a machine if there is one. Ends with QEMU.
pub fn serve(
    socket: &str,
    id: &str,
    machine: impl FnOnce() -> Result<Option<Machine>, Refusal>,
) -> Result<Infallible, Refusal> {
    let listener = UnixListener::bind(socket).map_err(|_| refusal::socket(socket))?;
    let broken = |error: io::Error| Refusal::Panic { place: "QEMU", message: error.to_string() };
    let guest = machine()?.map(|machine| Guest::start(machine, None)).transpose().map_err(broken)?;
    let mut vmm = Vmm { id, guest, is_paused: false };
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        if answer_all(stream, &mut vmm).is_err_and(|error| error.kind() == io::ErrorKind::Other) {
            return Err(refusal::restore());
        }
    }
}

/// Answers the requests of a connection. Fails with `Other` if the process has to end.
fn answer_all(stream: UnixStream, vmm: &mut Vmm<'_>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = read(&mut reader)? {
        let answer = vmm.handle(&request);
        let (status, body) = match &answer {
            Ok(None) => ("204 No Content", String::new()),
            Ok(Some(body)) => ("200 OK", body.to_string()),
            Err(fault) => ("400 Bad Request", json!({ "fault_message": fault.message }).to_string()),
        };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        write!(
            writer,
            "HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
             Content-Type: application/json\r\n{length}\r\n{body}"
        )?;
        if answer.is_err_and(|fault| fault.is_fatal) {
            return Err(io::Error::other("the process is too dirty to recover"));
        }
    }
    Ok(())
}

/// Reads a request. `None`: the connection was closed.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let value = line.to_ascii_lowercase().strip_prefix("content-length:").map(|value| value.trim().parse());
        length = value.map_or(Ok(length), |value| value.map_err(|_| io::ErrorKind::InvalidData))?;
    }
    if length > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Some(Request { method, path, body }))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| not_parsed(&error))
}

fn not_parsed(error: &serde_json::Error) -> Fault {
    fault(format!("An error occurred when deserializing the json body of a request: {error}."))
}

impl Vmm<'_> {
    fn handle(&mut self, request: &Request) -> Result<Option<Value>, Fault> {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => Ok(Some(self.info())),
            ("PATCH", "/vm") => self.set_state(parse::<Vm>(&request.body)?.state),
            ("PUT", "/snapshot/create") => self.create(&parse(&request.body)?),
            ("PUT", "/snapshot/load") => self.load(parse(&request.body)?),
            (method, path) => Err(fault(format!("Invalid request method and/or path: {method} {path}."))),
        }
    }

    fn info(&self) -> Value {
        let state = match &self.guest {
            None => "Not started",
            Some(_) if self.is_paused => "Paused",
            Some(_) => "Running",
        };
        let version = VERSION.trim_start_matches("Firecracker v");
        json!({ "id": self.id, "state": state, "vmm_version": version, "app_name": "Firecracker" })
    }

    fn guest(&mut self) -> Result<&mut Guest, Fault> {
        let early = || fault("The requested operation is not supported before starting the microVM.");
        self.guest.as_mut().ok_or_else(early)
    }

    fn set_state(&mut self, state: VmState) -> Result<Option<Value>, Fault> {
        let guest = self.guest()?;
        let done = if state == VmState::Paused { guest.pause() } else { guest.resume() };
        done.map_err(|error| fault(format!("Internal VMM error: {error}")))?;
        self.is_paused = state == VmState::Paused;
        Ok(None)
    }

    fn create(&mut self, params: &CreateSnapshotParams) -> Result<Option<Value>, Fault> {
        let is_paused = self.is_paused;
        let guest = self.guest()?;
        let failed = |why: String| fault(format!("Create snapshot error: {why}"));
        if !is_paused {
            let why = "Cannot save the microVM state: Operation not allowed: save/restore unavailable while running";
            return Err(failed(why.to_owned()));
        }
        let on_file = |what: &'static str| {
            move |error: io::Error| failed(format!("Cannot perform open on the {what} backing file: {error}"))
        };
        let mut state = create(&params.snapshot_path).map_err(on_file("snapshot"))?;
        let saved = Saved::of(&guest.machine).and_then(|saved| saved.bytes());
        saved.and_then(|bytes| state.write_all(&bytes)).map_err(on_file("snapshot"))?;
        create(&params.mem_file_path).map_err(on_file("memory"))?;
        guest.save(&params.mem_file_path).map_err(|error| failed(format!("Cannot write memory file: {error}")))?;
        Ok(None)
    }

    fn load(&mut self, config: LoadSnapshotConfig) -> Result<Option<Value>, Fault> {
        let memory = match (config.mem_backend, config.mem_file_path) {
            (Some(_), Some(_)) => {
                let words = "too many fields: either `mem_backend` or `mem_file_path` exclusively is required";
                return Err(not_parsed(&serde_json::Error::custom(words)));
            }
            (None, None) => {
                let words = "missing field: either `mem_backend` or `mem_file_path` is required";
                return Err(not_parsed(&serde_json::Error::custom(words)));
            }
            (Some(backend), None) if backend.backend_type == MemBackendType::Uffd => {
                let why = "Failed to load guest memory: Error creating guest memory from uffd: there is no handler";
                return Err(unloadable(why));
            }
            (backend, path) => backend.map(|backend| backend.backend_path).or(path).unwrap_or_default(),
        };
        if self.guest.is_some() {
            return Err(fault("The requested operation is not supported after starting the microVM."));
        }
        let from_file = |why: String| unloadable(format!("Failed to get snapshot state from file: {why}"));
        let bytes = fs::read(&config.snapshot_path)
            .map_err(|error| from_file(format!("Failed to open snapshot file: {error}")))?;
        let broken = || from_file("Failed to load snapshot state from file: CRC64 validation failed".to_owned());
        let mut saved = Saved::parse(&bytes).ok_or_else(broken)?;
        for NetworkOverride { iface_id, host_dev_name } in config.network_overrides {
            let network = saved.layout.networks.iter_mut().find(|network| network.iface_id == iface_id);
            network.ok_or_else(|| from_file("Unknown Network Device.".to_owned()))?.tap = host_dev_name;
        }
        let in_memory = |why: String| {
            unloadable(format!("Failed to load guest memory: Error creating guest memory from file: {why}"))
        };
        let length = File::open(&memory)
            .and_then(|file| file.metadata())
            .map_err(|error| in_memory(format!("Failed to load guest memory: {error}")))?
            .len();
        if length < saved.layout.memory() {
            return Err(in_memory("Failed to restore guest memory: the file is too short".to_owned()));
        }
        let device = |why: String| {
            unloadable(format!("Failed to build microVM from snapshot: Failed to restore devices: {why}"))
        };
        for (path, is_read_only) in &saved.layout.disks {
            let opened = OpenOptions::new().read(true).write(!is_read_only).open(path);
            opened.map_err(|error| device(format!("Error opening the backing file: {error}")))?;
        }
        for network in &saved.layout.networks {
            open_tap(&network.tap).map_err(|error| device(format!("Open tap device failed: {error}")))?;
        }
        let broken = |error: io::Error| unloadable(format!("Failed to build microVM from snapshot: {error}"));
        let mut guest = saved.machine().and_then(|machine| Guest::start(machine, Some(&memory))).map_err(broken)?;
        if config.resume_vm {
            guest.resume().map_err(broken)?;
        }
        self.is_paused = !config.resume_vm;
        self.guest = Some(guest);
        Ok(None)
    }
}
