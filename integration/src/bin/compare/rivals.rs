//! Other proxies: nginx and HAProxy, configured for this purpose as an expert would.

use std::{fmt::Write, fs, net::SocketAddr, path::Path};

use tempfile::TempDir;

use crate::{
    child::{Running, free_port},
    machine::is_installed,
};

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    _running: Running,
}

/// What clients speak to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in clear, with prior knowledge.
    Http2,
}

/// Starts nginx: two workers, kept connections on both sides, streamed bodies with buffers that suit long and short ones,
/// no log. A route is a path and the upstream that serves it.
pub fn nginx(directory: &TempDir, protocol: Protocol, routes: &[(String, SocketAddr)]) -> Result<Proxy, String> {
    let http2 = if protocol == Protocol::Http2 { " http2" } else { "" };
    let at = directory.path().display();
    let (mut upstreams, mut locations) = (String::new(), String::new());
    for (number, (path, upstream)) in routes.iter().enumerate() {
        let _ = writeln!(
            upstreams,
            "upstream u{number} {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}"
        );
        let _ = writeln!(locations, "location {path} {{ proxy_pass http://u{number}/; }}");
    }
    let config = |address| {
        format!(
            "worker_processes 2;\ndaemon off;\npid {at}/nginx.pid;\nerror_log stderr crit;\n\
             events {{ worker_connections 16384; }}\n\
             http {{\n\
             access_log off;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/fastcgi;\nuwsgi_temp_path {at}/uwsgi;\nscgi_temp_path {at}/scgi;\n\
             keepalive_requests 1000000000;\nkeepalive_timeout 3600;\nclient_max_body_size 0;\n\
             proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
             proxy_request_buffering off;\nproxy_max_temp_file_size 0;\n\
             proxy_buffer_size 32k;\nproxy_buffers 32 32k;\nproxy_busy_buffers_size 512k;\n\
             client_body_buffer_size 128k;\n\
             {upstreams}\
             server {{\nlisten {address}{http2} backlog=4096;\n{locations}}}\n}}\n"
        )
    };
    start("nginx", directory.path(), config, |file| {
        vec!["nginx".to_owned(), "-e".to_owned(), "stderr".to_owned(), "-c".to_owned(), file.to_owned()]
    })
}

/// Starts HAProxy: two threads, upstream connections shared by all clients, no log.
pub fn haproxy(directory: &TempDir, protocol: Protocol, upstream: SocketAddr) -> Result<Proxy, String> {
    let proto = if protocol == Protocol::Http2 { " proto h2" } else { "" };
    let config = |address| {
        format!(
            "global\n  nbthread 2\n  maxconn 8192\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
             frontend clients\n  bind {address}{proto}\n  default_backend function\n\
             backend function\n  server only {upstream}\n"
        )
    };
    start("haproxy", directory.path(), config, |file| {
        vec!["haproxy".to_owned(), "-q".to_owned(), "-db".to_owned(), "-f".to_owned(), file.to_owned()]
    })
}

fn start(
    program: &str,
    directory: &Path,
    config: impl Fn(SocketAddr) -> String,
    line: impl Fn(&str) -> Vec<String>,
) -> Result<Proxy, String> {
    if !is_installed(program) {
        return Err("not installed".to_owned());
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let file = directory.join(format!("{program}.conf"));
    fs::write(&file, config(address)).map_err(|error| error.to_string())?;
    let line = line(&file.to_string_lossy());
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    Ok(Proxy { address, _running: Running::start(&line).accepting(address) })
}
