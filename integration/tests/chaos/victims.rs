//! What is known of an instance, from `/debug` and the process table, and its callback.

use std::net::SocketAddr;

use integration::processes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

pub fn id_of(instance: &Value) -> String {
    instance["id"].as_str().unwrap_or_default().to_owned()
}

/// Returns the processes of an instance on this host.
pub fn processes_of(instance: &Value) -> Vec<u32> {
    match (instance["engine_id"].as_str(), instance["pid"].as_u64()) {
        // The engine numbers processes otherwise. Those of a container descend from its shim.
        (Some(container), _) => processes::of_container(container),
        (None, Some(pid)) => processes::family(u32::try_from(pid).unwrap()),
        (None, None) => Vec::new(),
    }
}

/// Returns the tap of an instance.
pub fn tap_of(instance: &Value) -> Option<&str> {
    let held = instance["resources"].as_array()?.iter().filter_map(Value::as_str);
    held.filter_map(|resource| resource.strip_prefix("tap ")).find_map(|rest| rest.split(' ').next())
}

/// Returns the callback token among a process's arguments.
pub fn token_of(pid: u32) -> Option<String> {
    let arguments = processes::arguments(pid);
    arguments.iter().find_map(|word| Some(word.split_once("/ready/")?.1.to_owned()))
}

/// Calls back from an address that no instance has, and returns the status.
pub async fn call_back(to: SocketAddr, token: &str) -> std::io::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 99], 0).into())?;
    let mut stream = socket.connect(to).await?;
    let head = format!("POST /ready/{token} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default())
}
