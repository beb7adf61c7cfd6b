//! Connects to instances. Where several have one address, each on an interface of its own, sockets are bound to that.

use std::{io, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpSocket, TcpStream},
    time,
};
use unifaas_actors::sandbox::Route;

/// Until a second attempt is made beside the first one. The pause is doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Opens a connection.
///
/// # Errors
/// Why there is none.
pub async fn connect(route: &Route) -> io::Result<TcpStream> {
    let Some(device) = &route.device else { return TcpStream::connect(route.address).await };
    let socket = if route.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.connect(route.address).await
}

/// Opens the first connection to a guest. The kernel drops packets for some milliseconds after a VMM has attached to a tap
/// that was long unused, and repeats a lost one after a second. So further attempts are made beside the first.
///
/// # Errors
/// Why there is none.
pub async fn connect_first(route: &Route) -> io::Result<TcpStream> {
    if route.device.is_none() {
        return connect(route).await;
    }
    let mut attempts = FuturesUnordered::from_iter([connect(route)]);
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            Some(opened) = attempts.next() => return opened,
            () = time::sleep(pause) => attempts.push(connect(route)),
        }
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    fn route(address: SocketAddr, device: &str) -> Route {
        Route { address, device: Some(device.into()) }
    }

    #[tokio::test]
    async fn connection_uses_the_interface() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for opened in [connect(&address.into()).await, connect(&route(address, "lo")).await] {
            assert_eq!(opened.unwrap().peer_addr().unwrap(), address);
        }
        assert_eq!(connect(&route(address, "nosuch0")).await.unwrap_err().raw_os_error(), Some(nix::libc::ENODEV));
    }

    #[tokio::test]
    async fn first_answer_of_several_attempts_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(connect_first(&route(address, "lo")).await.is_ok());
        drop(listener);
        let refused = connect_first(&route(address, "lo")).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
