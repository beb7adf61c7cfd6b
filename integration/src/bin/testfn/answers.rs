//! The response of each path, valid or not.

use std::{
    cell::Cell,
    fmt::Write,
    io,
    rc::Rc,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures::{SinkExt, StreamExt};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use crate::{
    abuse::{self, Endless},
    call_back,
    options::Options,
    say,
    wire::{Connection, Request},
};

/// The running function.
pub(crate) struct Function {
    pub options: Options,
    /// Notified when the function must stop listening.
    pub deaf: Notify,
    in_flight: Cell<u64>,
    most_in_flight: Cell<u64>,
    served: Cell<u64>,
}

impl Function {
    pub fn new(options: Options) -> Self {
        let zero = || Cell::new(0);
        Self { options, deaf: Notify::new(), in_flight: zero(), most_in_flight: zero(), served: zero() }
    }
}

/// Counts a request while it is being answered.
struct InFlight(Rc<Function>);

impl InFlight {
    fn enter(function: &Rc<Function>) -> Self {
        let now = function.in_flight.get() + 1;
        function.in_flight.set(now);
        function.most_in_flight.set(function.most_in_flight.get().max(now));
        Self(Rc::clone(function))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// The state of the connection after a response.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Close,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(function: &Rc<Function>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    let mut served = 0;
    while let Some(request) = connection.request().await? {
        if function.options.forgetful && served > 0 {
            return Ok(());
        }
        served += 1;
        function.served.set(function.served.get() + 1);
        slow_down(function).await;
        let _counted = InFlight::enter(function);
        if request.path() == "/ws" {
            return web_socket(connection, &request).await;
        }
        let after = answer(function, &mut connection, &request).await?;
        if after == After::Close || request.closes() {
            return Ok(());
        }
        connection.drain().await?;
    }
    Ok(())
}

/// Delays the answer to the present request, or all answers, as the options say.
#[allow(clippy::disallowed_methods, reason = "a stall holds up everything")]
async fn slow_down(function: &Function) {
    let is_at = |every: Option<u64>| every.is_some_and(|every| function.served.get().is_multiple_of(every));
    let length = Duration::from_millis(function.options.slow_ms);
    if is_at(function.options.stall_every) {
        std::thread::sleep(length);
    }
    if is_at(function.options.slow_every) {
        sleep(length).await;
    }
}

/// Adds a line to a file, in one write.
fn record(file: &str, line: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(file)?;
    file.write_all(&[line, b"\n"].concat())
}

async fn answer(function: &Function, connection: &mut Connection, request: &Request) -> io::Result<After> {
    match request.path() {
        "/expect" if request.expects_continue() => {
            connection.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much").await?;
            return linger(connection).await;
        }
        "/verbatim/unread" => return verbatim(connection, request).await,
        "/early" => {
            plain(connection, request, "200 OK", "", "without having read it").await?;
            return linger(connection).await;
        }
        _ => {}
    }
    if request.expects_continue() {
        connection.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if request.path() == "/echo" {
        return echo(connection, request).await.map(|()| After::Keep);
    }
    let received = connection.drain().await?;
    let wait = || sleep(Duration::from_millis(request.number("ms", 100)));
    if function.options.fail_every.is_some_and(|every| function.served.get().is_multiple_of(every)) {
        return status(connection, request, 500).await.map(|()| After::Keep);
    }
    match request.path() {
        "/pid" => plain(connection, request, "200 OK", "", &std::process::id().to_string()).await?,
        "/in-flight-max" => {
            let most = function.most_in_flight.get().to_string();
            plain(connection, request, "200 OK", "", &most).await?;
        }
        "/sleep" => {
            let now = function.in_flight.get();
            wait().await;
            plain(connection, request, "200 OK", "", &format!("{} {now}", std::process::id())).await?;
        }
        "/received" => plain(connection, request, "200 OK", "", &received.to_string()).await?,
        "/headers" => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.raw.len());
            connection.send(head).await?;
            connection.send(&request.raw).await?;
        }
        "/verbatim" => return verbatim(connection, request).await,
        "/until-closed" => {
            let closed = timeout(Duration::from_secs(30), connection.request()).await;
            say(match closed {
                Ok(Ok(None) | Err(_)) => "the connection was closed",
                Ok(Ok(Some(_))) => "there was another request",
                Err(_) => "the connection stayed open",
            });
            return Ok(After::Close);
        }
        "/callback" => plain(connection, request, "200 OK", "", &function.options.callback).await?,
        "/callback/other" => {
            let status = call_back(request.text("url").unwrap_or_default(), "GET").await?;
            plain(connection, request, "200 OK", "", &status).await?;
        }
        "/callback/again" => {
            let status = call_back(&function.options.callback, "GET").await?;
            plain(connection, request, "200 OK", "", &status).await?;
        }
        "/env" => {
            let value = request.text("name").and_then(|name| std::env::var(name).ok()).unwrap_or_default();
            plain(connection, request, "200 OK", "", &value).await?;
        }
        "/now" => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            plain(connection, request, "200 OK", "", &now.as_micros().to_string()).await?;
        }
        "/uid" => plain(connection, request, "200 OK", "", &nix::unistd::getuid().to_string()).await?,
        "/record" => {
            let names = request.text("headers").unwrap_or("x-unifaas-invocation");
            let values: Vec<_> = names.split(',').map(|name| request.header(name).unwrap_or_default()).collect();
            record(request.text("file").unwrap_or_default(), &values.join(&b' '))?;
            wait().await;
            plain(connection, request, "200 OK", "", "recorded").await?;
        }
        "/say" => {
            say(request.text("line").unwrap_or_default());
            plain(connection, request, "200 OK", "", "said").await?;
        }
        "/odd-headers" => odd_headers(connection).await?,
        "/hop" => {
            let headers = "Connection: x-private, keep-alive\r\nKeep-Alive: timeout=7\r\nX-Private: 1\r\n\
                           Proxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nX-Public: 1\r\n";
            plain(connection, request, "200 OK", headers, "hop").await?;
        }
        "/timing" => plain(connection, request, "200 OK", "Server-Timing: db;dur=53\r\n", "timed").await?,
        "/bytes" => bytes(connection, request).await?,
        "/last-bytes" => {
            bytes(connection, request).await?;
            exit(0);
        }
        "/stream" => stream(connection, request, "text/plain", |n| format!("line {n}\n")).await?,
        "/sse" => stream(connection, request, "text/event-stream", |n| format!("data: {n}\n\n")).await?,
        "/allocate" => {
            let hoard = vec![1_u8; (request.number("mib", 1) << 20) as usize];
            plain(connection, request, "200 OK", "", &hoard.len().to_string()).await?;
        }
        "/exit" => exit(request.number("code", 0)),
        "/garbage" => return raw(connection, "\u{1}\u{2} this is not HTTP\r\n\r\n").await,
        "/mute" => return Ok(After::Close),
        "/truncate" => {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart of it").await?;
            wait().await;
            return Ok(After::Close);
        }
        "/truncate-chunked" => {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\n").await?;
            wait().await;
            return Ok(After::Close);
        }
        "/bad-chunk" => {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\n").await?;
            wait().await;
            return raw(connection, "ZZ\r\nno number\r\n").await;
        }
        "/two-lengths" => {
            return raw(connection, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde").await;
        }
        "/close-delimited" => return raw(connection, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end").await,
        "/http10" => return raw(connection, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nof old").await,
        "/reset" => {
            if request.text("after") == Some("head") {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart of it").await?;
                wait().await;
            }
            connection.stream.set_zero_linger()?;
            return Ok(After::Close);
        }
        "/big-head" => {
            let mut headers = String::new();
            for n in 0..request.number("kib", 1) {
                let _ = write!(headers, "X-Big-{n}: {}\r\n", "b".repeat(1000));
            }
            plain(connection, request, "200 OK", &headers, "big").await?;
        }
        "/drip" => {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndrip" {
                connection.send([*byte]).await?;
                sleep(Duration::from_millis(2)).await;
            }
        }
        "/deaf" => {
            function.deaf.notify_one();
            plain(connection, request, "200 OK", "Connection: close\r\n", "pardon?").await?;
            return Ok(After::Close);
        }
        "/bomb" => {
            abuse::bomb(Duration::from_millis(request.number("ms", 1000)))?;
            plain(connection, request, "200 OK", "", "ticking").await?;
        }
        "/flood" => {
            abuse::flood(Duration::from_millis(request.number("ms", 1000)));
            plain(connection, request, "200 OK", "", "rising").await?;
        }
        "/flooded" => {
            let bytes = abuse::FLOODED.load(Ordering::Relaxed).to_string();
            plain(connection, request, "200 OK", "", &bytes).await?;
        }
        "/fill" => {
            let how = abuse::fill(request.text("path").unwrap_or_default(), request.number("mib", 1));
            plain(connection, request, "200 OK", "", &how).await?;
        }
        "/connect" => {
            let how = abuse::connect(request.text("addr").unwrap_or_default()).await;
            plain(connection, request, "200 OK", "", how).await?;
        }
        "/ask" => {
            let answer = abuse::ask(request).await;
            plain(connection, request, "200 OK", "", &answer).await?;
        }
        "/half/head" => abuse::half(connection, "HTTP/1.1 200 OK\r\nContent-Le").await?,
        "/half/body" => abuse::half(connection, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").await?,
        "/half/unmeasured" => abuse::half(connection, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf").await?,
        "/half/nothing" => abuse::half(connection, "").await?,
        path if Endless::of(path).is_some() => {
            if let Some(endless) = Endless::of(path) {
                endless.send(connection).await?;
            }
            return Ok(After::Close);
        }
        path => match path.strip_prefix("/status/").and_then(|code| code.parse::<u16>().ok()) {
            Some(code) => status(connection, request, code).await?,
            None => plain(connection, request, "200 OK", "", &format!("{} {}", request.method, request.target)).await?,
        },
    }
    Ok(After::Keep)
}

async fn plain(
    connection: &mut Connection,
    request: &Request,
    status: &str,
    headers: &str,
    body: &str,
) -> io::Result<()> {
    let mut answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    if request.method != "HEAD" {
        answer.push_str(body);
    }
    connection.send(answer).await
}

async fn raw(connection: &mut Connection, bytes: &str) -> io::Result<After> {
    connection.send(bytes).await.map(|()| After::Close)
}

/// Sends the raw bytes of the parameter `hex`. Commas separate pieces, which are sent `ms` milliseconds apart. With
/// `then=close` or `then=reset`, the connection ends after another `ms` milliseconds.
async fn verbatim(connection: &mut Connection, request: &Request) -> io::Result<After> {
    let pause = || sleep(Duration::from_millis(request.number("ms", 0)));
    for (position, piece) in request.text("hex").unwrap_or_default().split(',').enumerate() {
        if position > 0 {
            pause().await;
        }
        let digits = piece.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        let bytes: Result<Vec<u8>, _> = digits.map(|pair| u8::from_str_radix(pair, 16)).collect();
        connection.send(bytes.map_err(io::Error::other)?).await?;
    }
    match request.text("then") {
        Some("close") => pause().await,
        Some("reset") => {
            pause().await;
            connection.stream.set_zero_linger()?;
        }
        _ => return Ok(After::Keep),
    }
    Ok(After::Close)
}

async fn status(connection: &mut Connection, request: &Request, code: u16) -> io::Result<()> {
    if code == 204 || code == 304 {
        return connection.send(format!("HTTP/1.1 {code} Bare\r\nETag: \"e\"\r\n\r\n")).await;
    }
    plain(connection, request, &format!("{code} As Asked"), "", "the function's own words").await
}

/// Ends a connection after the peer has closed it. An immediate close would reset it and lose the response.
async fn linger(connection: &mut Connection) -> io::Result<After> {
    connection.stream.shutdown().await?;
    let _ = timeout(Duration::from_secs(2), connection.drain()).await;
    Ok(After::Close)
}

/// Sends the body back as it arrives, with the same framing.
async fn echo(connection: &mut Connection, request: &Request) -> io::Result<()> {
    let chunked = request.declared_length().is_none();
    let framing = request
        .declared_length()
        .map_or_else(|| "Transfer-Encoding: chunked".to_owned(), |length| format!("Content-Length: {length}"));
    connection.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await?;
    while let Some(piece) = connection.piece().await? {
        if chunked {
            connection.send(format!("{:x}\r\n", piece.len())).await?;
        }
        connection.send(&piece).await?;
        if chunked {
            connection.send("\r\n").await?;
        }
    }
    if chunked { connection.send("0\r\n\r\n").await } else { Ok(()) }
}

async fn bytes(connection: &mut Connection, request: &Request) -> io::Result<()> {
    let mib = request.number("mib", 1);
    connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", mib << 20)).await?;
    let block = vec![b'x'; 1 << 20];
    for _ in 0..mib {
        connection.send(&block).await?;
    }
    Ok(())
}

/// Sends `n` chunks, `ms` apart.
async fn stream(
    connection: &mut Connection,
    request: &Request,
    content_type: &str,
    piece: impl Fn(u64) -> String,
) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(head).await?;
    for n in 0..request.number("n", 5) {
        if n > 0 {
            sleep(Duration::from_millis(request.number("ms", 100))).await;
        }
        let piece = piece(n);
        connection.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await?;
    }
    connection.send("0\r\n\r\n").await
}

/// Sends headers of every legal kind: obs-text bytes, repeated, empty, long, odd names, odd case.
async fn odd_headers(connection: &mut Connection) -> io::Result<()> {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    head.extend_from_slice(b"X-Bytes: ");
    head.extend(0x80..=0xff_u8);
    head.extend_from_slice(b"\r\nX-Text: \ttab \"quoted\" (comment) \\ ~!\r\nX-Empty:\r\n");
    head.extend_from_slice(b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nsEt-CoOkIe: c=3\r\n!#$%&'*+-.^_`|~0: odd name\r\n");
    head.extend_from_slice(format!("X-Long: {}\r\n", "l".repeat(4000)).as_bytes());
    for n in 0..60 {
        head.extend_from_slice(format!("X-Many-{n}: {n}\r\n").as_bytes());
    }
    head.extend_from_slice(b"Content-Length: 3\r\n\r\nodd");
    connection.send(head).await
}

/// Accepts the upgrade and echoes every message.
async fn web_socket(mut connection: Connection, request: &Request) -> io::Result<()> {
    let key = request.header("sec-websocket-key").unwrap_or_default();
    if key.is_empty() {
        return plain(&mut connection, request, "426 Upgrade Required", "Upgrade: websocket\r\n", "").await;
    }
    let accept = derive_accept_key(key);
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    connection.send(head).await?;
    let (stream, read) = connection.into_parts();
    let mut socket = WebSocketStream::from_partially_read(stream, read, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "nothing here is worth an orderly ending")]
fn exit(code: u64) -> ! {
    std::process::exit(i32::try_from(code).unwrap_or(1))
}
