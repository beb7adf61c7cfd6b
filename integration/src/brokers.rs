//! Brokers of messages: a NATS server and an MQTT broker, each at a loopback address of its own, and clients of both.
//!
//! The clients speak the protocols themselves: a message counts as confirmed when the broker has acknowledged it.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{Home, SOON, eventually, nats_login::NatsLogin, processes, tools, wait::poll_blocking};

/// How long a client waits for a broker.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A broker that can be ended and started again, at the same address.
#[derive(Debug)]
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Broker {
    /// Starts an MQTT broker. `persists`: sessions survive its orderly end. `None`: mosquitto is not installed.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn mqtt(home: &Home, persists: bool) -> Option<Self> {
        let location = home.path("mosquitto").display().to_string();
        let settings =
            if persists { format!("persistence true\npersistence_location {location}/\n") } else { String::new() };
        Self::mqtt_at(home, own_address(1883), &settings).await
    }

    /// Starts an MQTT broker that every client may use at this address, with more settings.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn mqtt_at(home: &Home, address: SocketAddr, settings: &str) -> Option<Self> {
        let (program, directory) = (tools::system_program("mosquitto")?, home.path("mosquitto"));
        fs::create_dir_all(&directory).expect("a directory");
        let listener = format!("listener {} {}\nallow_anonymous true\n", address.port(), address.ip());
        let config = format!("per_listener_settings true\nuser root\n{listener}{settings}");
        let file = directory.join("mosquitto.conf");
        fs::write(&file, config).expect("a file");
        let arguments = vec!["-c".to_owned(), file.display().to_string()];
        Some(Self::started(program, arguments, address, directory.join("log")).await)
    }

    /// Starts a NATS server with JetStream, which syncs each message. `None`: it is not installed.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn nats(home: &Home, settings: &str) -> Option<Self> {
        let store = home.path("nats/store");
        let jetstream = format!("jetstream {{ store_dir: {store:?}, sync_interval: always }}\n{settings}\n");
        Self::nats_at(home, own_address(4222), &jetstream).await
    }

    /// Starts a NATS server at this address, with more settings.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn nats_at(home: &Home, address: SocketAddr, settings: &str) -> Option<Self> {
        let (program, directory) = (nats_server()?, home.path("nats"));
        fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("nats.conf");
        fs::write(&file, format!("listen: \"{address}\"\n{settings}\n")).expect("a file");
        let arguments = vec!["-c".to_owned(), file.display().to_string()];
        Some(Self::started(program, arguments, address, directory.join("log")).await)
    }

    async fn started(program: PathBuf, arguments: Vec<String>, address: SocketAddr, log: PathBuf) -> Self {
        let mut broker = Self { address, program, arguments, log, child: None };
        broker.start().await;
        broker
    }

    /// Starts it again, and waits until it accepts connections.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("a broker"));
        let connects = async || TcpStream::connect(self.address).await.is_ok();
        eventually(SOON, "the broker accepts connections", connects, |accepts| *accepts).await;
    }

    /// Ends it with a signal, and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        processes::signal(child.id(), signal);
        let ended = poll_blocking(SOON, || matches!(child.try_wait(), Ok(Some(_))), |ended| *ended);
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{} does not end", self.program.display());
        }
    }

    /// Returns its process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Returns its address as a URL.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the log of the broker\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Returns an address of loopback that no other test uses, so that it is free whenever the broker is started again.
pub fn own_address(port: u16) -> SocketAddr {
    let [a, b, c] = rand::random::<[u8; 3]>();
    SocketAddr::from(([127, a.clamp(1, 250), b, c.clamp(1, 250)], port))
}

/// Returns the NATS server of these tests: `NATS_SERVER_EXE`, or that which `integration/run` has installed, as that of the
/// system may be too old. `None`: there is none, which was printed.
///
/// # Panics
/// When there is none and this is CI.
#[allow(clippy::print_stderr, reason = "the test runner shows it")]
pub fn nats_server() -> Option<PathBuf> {
    let given = env::var_os("NATS_SERVER_EXE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let installed = || {
        let this = env::current_exe().expect("the test has a path");
        this.ancestors().map(|directory| directory.join("tools/nats/bin/nats-server")).find(|path| path.is_file())
    };
    let found = given.or_else(installed);
    if found.is_none() {
        let why = "there is no NATS server: integration/run installs one, NATS_SERVER_EXE names another one";
        assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "{why}");
        eprintln!("skipped: {why}");
    }
    found
}

/// Publishes to an MQTT broker.
#[derive(Debug)]
pub struct MqttPublisher {
    stream: TcpStream,
    last: u16,
}

impl MqttPublisher {
    /// Connects.
    ///
    /// # Errors
    /// When the broker is not there, or does not answer in time.
    pub async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let connecting = async {
            let mut stream = TcpStream::connect(address).await?;
            // CONNECT of version 3.1.1 with a clean session, no keep-alive and no name.
            stream.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00").await?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await?;
            assert_eq!(answer, [0x20, 2, 0, 0], "it is accepted");
            Ok(Self { stream, last: 0 })
        };
        timeout(CLIENT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }

    /// Publishes a message, and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// When it is not certain that the broker has it.
    ///
    /// # Panics
    /// When the broker answers something else.
    pub async fn publish(&mut self, topic: &str, body: &[u8], qos: u8) -> std::io::Result<()> {
        self.last = self.last.checked_add(1).unwrap_or(1);
        let id = self.last.to_be_bytes();
        let mut packet = (u16::try_from(topic.len()).expect("a short topic")).to_be_bytes().to_vec();
        packet.extend(topic.as_bytes());
        if qos > 0 {
            packet.extend(id);
        }
        packet.extend(body);
        let mut head = vec![0x30 | qos << 1];
        let mut length = packet.len();
        loop {
            let digit = u8::try_from(length % 128).expect("a digit");
            length /= 128;
            head.push(if length > 0 { digit | 0x80 } else { digit });
            if length == 0 {
                break;
            }
        }
        let publishing = async {
            self.stream.write_all(&[head, packet].concat()).await?;
            match qos {
                0 => {}
                1 => self.expect(&[0x40, 2, id[0], id[1]]).await?,
                _ => {
                    self.expect(&[0x50, 2, id[0], id[1]]).await?;
                    self.stream.write_all(&[0x62, 2, id[0], id[1]]).await?;
                    self.expect(&[0x70, 2, id[0], id[1]]).await?;
                }
            }
            Ok(())
        };
        timeout(CLIENT_TIMEOUT, publishing).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }

    async fn expect(&mut self, packet: &[u8; 4]) -> std::io::Result<()> {
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, packet, "the confirmation of this message");
        Ok(())
    }
}

/// A message of NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsMessage {
    /// The lines of its headers.
    pub headers: String,
    /// Its body.
    pub body: String,
}

impl NatsMessage {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Publishes to a NATS server, and waits for the answer to each message.
#[derive(Debug)]
pub struct NatsClient {
    stream: BufReader<TcpStream>,
    inbox: String,
}

impl NatsClient {
    /// Connects.
    ///
    /// # Errors
    /// When the server is not there, or does not answer in time.
    pub async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        Self::connect_as(address, &NatsLogin::None).await
    }

    /// Connects, and logs in.
    ///
    /// # Errors
    /// When the server is not there, or does not answer in time.
    pub async fn connect_as(address: SocketAddr, login: &NatsLogin) -> std::io::Result<Self> {
        let inbox = format!("_INBOX.{:016x}", rand::random::<u64>());
        let connecting = async {
            let mut stream = BufReader::new(TcpStream::connect(address).await?);
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let hello = format!("CONNECT {}\r\nSUB {inbox} 1\r\nPING\r\n", login.options(&line));
            stream.write_all(hello.as_bytes()).await?;
            Ok::<_, std::io::Error>(stream)
        };
        let stream = timeout(CLIENT_TIMEOUT, connecting).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        Ok(Self { stream, inbox })
    }

    /// Publishes a message, and waits for the first answer to it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn request(&mut self, subject: &str, headers: &str, body: &str) -> std::io::Result<NatsMessage> {
        let head = format!("NATS/1.0\r\n{headers}\r\n");
        let (length, whole) = (head.len(), head.len() + body.len());
        let packet = format!("HPUB {subject} {} {length} {whole}\r\n{head}{body}\r\n", self.inbox);
        let answered = async {
            self.stream.write_all(packet.as_bytes()).await?;
            self.next().await
        };
        timeout(CLIENT_TIMEOUT, answered).await.map_err(|_| std::io::ErrorKind::TimedOut)?
    }

    /// Publishes a message that needs no answer.
    ///
    /// # Errors
    /// When the server is gone.
    pub async fn send(&mut self, subject: &str, body: &str) -> std::io::Result<()> {
        self.stream.write_all(format!("PUB {subject} {}\r\n{body}\r\n", body.len()).as_bytes()).await
    }

    /// Publishes a message to a stream, and waits until the server has stored it. Returns its number there.
    ///
    /// # Errors
    /// When it is not certain that the server has it.
    pub async fn store(&mut self, subject: &str, body: &str) -> std::io::Result<u64> {
        let answer = self.request(subject, "", body).await?;
        let stored: Value = serde_json::from_str(&answer.body).map_err(|_| std::io::ErrorKind::InvalidData)?;
        stored["seq"].as_u64().ok_or_else(|| std::io::Error::other(answer.body))
    }

    /// Creates a stream in files that has these subjects.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn create_stream(&mut self, name: &str, subjects: &str) {
        let config = format!("{{\"name\":{name:?},\"subjects\":[{subjects:?}],\"storage\":\"file\"}}");
        let answer = self.request(&format!("$JS.API.STREAM.CREATE.{name}"), "", &config).await.expect("an answer");
        assert!(!answer.body.contains("\"error\""), "{answer:?}");
    }

    async fn next(&mut self) -> std::io::Result<NatsMessage> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let words: Vec<_> = line.split_whitespace().collect();
            let number = |word: Option<&&str>| word.and_then(|word| word.parse().ok()).unwrap_or(0_usize);
            let (head, whole) = match words.first() {
                Some(&"PING") => {
                    self.stream.write_all(b"PONG\r\n").await?;
                    continue;
                }
                Some(&"MSG") => (0, number(words.last())),
                Some(&"HMSG") => (number(words.get(words.len() - 2)), number(words.last())),
                _ => continue,
            };
            let mut message = vec![0; whole + 2];
            self.stream.read_exact(&mut message).await?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Ok(NatsMessage { headers: text(&message[..head]), body: text(&message[head..whole]) });
        }
    }
}

/// Returns the path of a file to which functions, as any user, may add lines.
///
/// # Panics
/// When it cannot be created.
pub fn public_file(path: PathBuf) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(&path, "").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("its mode");
    path
}

/// Returns the lines of such a file.
///
/// # Panics
/// When it cannot be read.
pub fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).expect("the file").lines().map(str::to_owned).collect()
}
