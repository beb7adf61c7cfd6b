//! Runs Firecracker with one input, and checks what comes of it.

use std::{
    env, fs,
    io::{self, ErrorKind, Read, Write},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use integration::{
    eventually,
    firecracker::Firecracker,
    vm::{ip, isolated, unikernel},
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const TAP: &str = "byhand0";
const HOST: &str = "10.200.0.1";
const GUEST: &str = "10.200.0.2";
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// What comes of an input.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    /// The guest calls back.
    Runs,
    /// The guest prints its address, on a tap that leads nowhere.
    Boots,
    /// The guest resets itself: it got no command line, or no address.
    Resets,
    /// It exits with this status and prints these words.
    Exits(i32, &'static str),
    /// It ends with SIGABRT and prints these words.
    Panics(&'static str),
}

/// Files, network and callback listener of the machines of a test.
pub struct Host {
    pub firecracker: PathBuf,
    pub files: TempDir,
    callback: TcpListener,
}

impl Host {
    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    /// Writes a file of zeros.
    pub fn zeros(&self, name: &str, bytes: u64) -> String {
        fs::File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
        self.path(name).display().to_string()
    }

    pub fn cmdline(&self) -> String {
        let port = self.callback.local_addr().unwrap().port();
        format!("ip={GUEST} gw={HOST} mask=255.255.255.252 callback=http://{HOST}:{port}/ready/x")
    }

    /// Returns a configuration file as the daemon writes it.
    pub fn config(&self) -> Value {
        json!({
            "boot-source": { "kernel_image_path": unikernel(), "boot_args": self.cmdline() },
            "drives": [],
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 32 },
            "network-interfaces": [
                { "iface_id": "eth0", "host_dev_name": TAP, "guest_mac": "02:fa:0a:c8:00:02" },
            ],
        })
    }

    /// Checks what comes of a change of the configuration.
    pub async fn check(&self, name: &str, change: impl FnOnce(&mut Value), expected: Outcome) {
        let mut config = self.config();
        change(&mut config);
        self.check_text(name, &config.to_string(), expected).await;
    }

    pub async fn check_text(&self, name: &str, text: &str, expected: Outcome) {
        let config = self.file("config.json", text.as_bytes());
        self.check_arguments(name, &["--id", "i-1", "--no-api", "--config-file", &config], expected).await;
    }

    /// Returns what it has printed.
    pub async fn check_arguments(&self, name: &str, arguments: &[&str], expected: Outcome) -> String {
        let (mut output, writer) = io::pipe().unwrap();
        let mut command = Command::new(&self.firecracker);
        command.args(arguments).current_dir(self.files.path()).stdin(Stdio::null());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut machine = Machine(command.spawn().expect("it can be executed"));
        // The writers of this process.
        drop(command);
        let printed = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let printed = printed.clone();
            move || {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = output.read(&mut piece) {
                    printed.lock().unwrap().extend_from_slice(&piece[..length]);
                }
            }
        });
        let said = || String::from_utf8_lossy(&printed.lock().unwrap()).into_owned();
        let address = format!("unikernel: {GUEST}/30");
        let look = async || {
            let status = machine.0.try_wait().unwrap();
            let called = self.was_called_back() || (matches!(expected, Outcome::Boots) && said().contains(&address));
            (called, status, said())
        };
        let is_over = |(called, status, _): &(bool, Option<ExitStatus>, String)| *called || status.is_some();
        let (called, status, _) = eventually(TIME_LIMIT, format!("{name}: an end or a callback"), look, is_over).await;
        drop(machine);
        reader.join().unwrap();
        let (said, status) = (said(), status.map(|status| (status.code(), status.signal())));
        let is_as_expected = match expected {
            Outcome::Runs | Outcome::Boots => called,
            Outcome::Resets => status == Some((Some(0), None)) && said.contains("unikernel: "),
            Outcome::Exits(code, words) => status == Some((Some(code), None)) && said.contains(words),
            Outcome::Panics(words) => status == Some((None, Some(6))) && said.contains(words),
        };
        let firecracker = self.firecracker.display();
        assert!(is_as_expected, "{firecracker}: {name}: not {expected:?}, but {called} {status:?}:\n{said}");
        said
    }

    pub fn was_called_back(&self) -> bool {
        match self.callback.accept() {
            Ok((mut call, _)) => {
                call.set_nonblocking(false).unwrap();
                let _ = call.read(&mut [0; 1024]);
                call.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A process that is killed when it is not needed any more.
pub struct Machine(pub Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test in a network namespace with a tap, for each Firecracker.
pub fn with_each<F: Future<Output = ()>>(test: impl Fn(Host) -> F + Send + 'static) {
    isolated(|| async move {
        ip(&format!("tuntap add {TAP} mode tap"));
        ip(&format!("addr add {HOST}/30 dev {TAP}"));
        ip(&format!("link set {TAP} up"));
        let real = env::var_os("FIRECRACKER_EXE").map(PathBuf::from).filter(|real| is_1_17(real));
        for firecracker in [Firecracker::stand_in().program].into_iter().chain(real) {
            let callback = TcpListener::bind((HOST, 0)).unwrap();
            callback.set_nonblocking(true).unwrap();
            test(Host { firecracker, files: tempfile::tempdir().unwrap(), callback }).await;
        }
    });
}

fn is_1_17(firecracker: &Path) -> bool {
    let output = Command::new(firecracker).arg("--version").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"Firecracker v1.17."))
}

/// Returns a change of one value.
pub fn set(pointer: &'static str, value: Value) -> impl FnOnce(&mut Value) {
    move |config| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Array(list) => list.push(value),
            parent => parent[key] = value,
        }
    }
}

/// Returns the removal of one key.
pub fn remove(pointer: &'static str) -> impl FnOnce(&mut Value) {
    move |config| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
    }
}
