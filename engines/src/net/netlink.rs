//! Interfaces, addresses and routes over netlink.
//!
//! A request is carried out while it is sent, and removing an interface can take tens of milliseconds. So this is used on
//! the thread of `tap_manager.rs`, never on the actors' thread.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::{Stream, TryStreamExt};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{LinkAttribute, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};
use tokio::{task::JoinHandle, time::timeout};

use super::{
    firewall::Mark,
    subnet::{LINK_BITS, Subnet},
    tap,
};

/// The routing table with the host's own addresses, which are listed as addresses.
const LOCAL_TABLE: u8 = 255;

const LOOPBACK: &str = "lo";

/// The longest wait for the answer to a request. The kernel drops an answer for which it has no memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A netlink socket, in the network namespace of the thread that opened it. After a lost answer it is replaced by another one.
pub struct Netlink(RefCell<Connected>);

/// A handle, and the task that sends its requests and reads their answers.
type Connected = (Handle, JoinHandle<()>);

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub group: u32,
}

/// A range that is in use on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub range: Subnet,
    /// The address or route, in words.
    pub by: String,
    /// Whether it looks like another UniFaaS daemon.
    pub daemon: bool,
}

impl Netlink {
    /// Opens a socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open() -> io::Result<Self> {
        connect().map(|connected| Self(RefCell::new(connected)))
    }

    /// Sends a request, which errors call `what`, and waits for its answer.
    async fn request<T>(
        &self,
        what: &str,
        request: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>,
    ) -> io::Result<T> {
        let handle = self.0.borrow().0.clone();
        let answer = timeout(ANSWER_TIMEOUT, request(handle)).await;
        let error = match answer {
            // The end of the task also ends an answer, which then looks complete.
            _ if self.0.borrow().1.is_finished() => io::Error::other(format!("{what}: the netlink socket has failed")),
            Ok(answer) => return answer.map_err(kernel_error),
            Err(_) => {
                let why = format!("{what}: the kernel has not answered for {} s", ANSWER_TIMEOUT.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, why)
            }
        };
        // A list whose rest is lost blocks all later lists of its socket.
        self.0.replace(connect()?);
        Err(error)
    }

    /// Sends a request for a list, which errors call `what`, and waits for its end.
    async fn list<T, S>(&self, what: &str, request: impl FnOnce(Handle) -> S) -> io::Result<Vec<T>>
    where
        S: Stream<Item = Result<T, rtnetlink::Error>>,
    {
        self.request(what, async |handle| request(handle).try_collect().await).await
    }

    /// Returns every interface.
    pub async fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let messages = self.list("the list of interfaces", |handle| handle.link().get().execute()).await?;
        Ok(messages.into_iter().map(|message| interface(&message)).collect())
    }

    /// Adds the host's address of a link to an interface, and brings it up.
    pub async fn set_up(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let add = async |handle: Handle| handle.address().add(index, address.into(), LINK_BITS).execute().await;
        self.request("to add an address", add).await?;
        self.set("to bring an interface up", LinkUnspec::new_with_index(index).up()).await
    }

    /// Sets the MAC address of an interface.
    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.set("to set a MAC address", LinkUnspec::new_with_index(index).address(mac.to_vec())).await
    }

    /// Adds a permanent entry to the ARP table, so that the first packet need not wait for an answer.
    pub async fn add_arp_entry(&self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        let add = async |handle: Handle| {
            handle.neighbours().add(index, address.into()).link_layer_address(&mac).replace().execute().await
        };
        self.request("to add an ARP entry", add).await
    }

    /// Moves an interface to another group.
    pub async fn set_group(&self, index: u32, group: u32) -> io::Result<()> {
        let attribute = LinkAttribute::Group(group);
        self.set("to set a group", LinkUnspec::new_with_index(index).append_extra_attribute(attribute)).await
    }

    async fn set(&self, what: &str, change: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        self.request(what, async |handle| handle.link().set(change.build()).execute().await).await
    }

    /// Removes an interface, even while it is in use. A missing interface is no error.
    pub async fn remove(&self, index: u32) -> io::Result<()> {
        let remove = async |handle: Handle| handle.link().del(index).execute().await;
        ignore_missing(self.request("to remove an interface", remove).await)
    }

    /// Removes every interface of a group at once.
    pub async fn remove_group(&self, group: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        let remove = async |handle: Handle| handle.link().del_with_message(message).execute().await;
        ignore_missing(self.request("to remove interfaces", remove).await)
    }

    /// Returns the ranges of this host's addresses and routes, except default routes and the reservation of `own`.
    pub async fn used(&self, own: Mark) -> io::Result<Vec<Used>> {
        let interfaces = self.interfaces().await?;
        let name = |index: Option<u32>| {
            interfaces.iter().find(|interface| Some(interface.index) == index).map(|interface| interface.name.as_str())
        };
        let mut used = Vec::new();
        for message in self.list("the list of addresses", |handle| handle.address().get().execute()).await? {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            let Some(base) = local else { continue };
            let interface = name(Some(message.header.index)).unwrap_or("?");
            let by = format!("address {base} of interface {interface}");
            let daemon = interface.starts_with(tap::PREFIX);
            used.push(Used { range: Subnet { base, bits: message.header.prefix_len }, by, daemon });
        }
        for route in self.routes().await? {
            let bits = route.header.destination_prefix_length;
            let Some(base) = destination(&route) else { continue };
            if bits == 0 || route.header.table == LOCAL_TABLE || metric_of(&route) == Some(own.closed()) {
                continue;
            }
            let (via, daemon) = match name(interface_of(&route)) {
                Some(name) => {
                    let daemon = name.starts_with(tap::PREFIX) || metric_of(&route).is_some_and(Mark::is_one);
                    (format!("through interface {name}"), daemon)
                }
                None if route.header.kind == RouteType::Unreachable => {
                    ("which another daemon may have reserved".into(), true)
                }
                None => ("without an interface".into(), false),
            };
            used.push(Used { range: Subnet { base, bits }, by: format!("route {base}/{bits} {via}"), daemon });
        }
        Ok(used)
    }

    /// Returns the names of interfaces with a default route.
    pub async fn uplinks(&self) -> io::Result<Vec<String>> {
        let interfaces = self.interfaces().await?;
        let default = |route: &RouteMessage| route.header.destination_prefix_length == 0;
        let indices: Vec<u32> =
            self.routes().await?.iter().filter(|route| default(route)).filter_map(interface_of).collect();
        Ok(interfaces.into_iter().filter(|one| indices.contains(&one.index)).map(|one| one.name).collect())
    }

    /// Reserves the range by an unreachable route, which the routes of taps override. No packet for a missing guest leaves
    /// the host, and other programs see that the range is in use.
    pub async fn reserve(&self, subnet: Subnet, mark: Mark) -> io::Result<()> {
        self.add_route(reservation(subnet, mark)).await
    }

    /// Removes the reservation. A range that is not reserved, or by another daemon, is no error.
    pub async fn release(&self, subnet: Subnet, mark: Mark) -> io::Result<()> {
        self.remove_route(reservation(subnet, mark)).await
    }

    /// Returns the index of the interface with that name.
    pub async fn find(&self, name: &str) -> io::Result<u32> {
        let get = |handle: Handle| handle.link().get().match_name(name.to_owned()).execute();
        let found = self.list("to find an interface", get).await?;
        found.first().map(|message| message.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns whether the interface has a carrier. A tap has one while a process is attached to it.
    pub async fn has_carrier(&self, index: u32) -> io::Result<bool> {
        let get = |handle: Handle| handle.link().get().match_index(index).execute();
        let found = self.list("to find a carrier", get).await?;
        let attributes = found.iter().flat_map(|message| &message.attributes);
        Ok(attributes.into_iter().any(|attribute| matches!(attribute, LinkAttribute::Carrier(1))))
    }

    /// Leads packets for `guest` to the loopback interface, unless their socket is bound to a tap. A route that is there is no
    /// error.
    pub async fn divert(&self, guest: Ipv4Addr, mark: Mark) -> io::Result<()> {
        let index = self.find(LOOPBACK).await?;
        match self.add_route(diversion(guest, index, mark)).await {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Removes that route. A missing route is no error.
    pub async fn stop_diverting(&self, guest: Ipv4Addr, mark: Mark) -> io::Result<()> {
        let index = self.find(LOOPBACK).await?;
        self.remove_route(diversion(guest, index, mark)).await
    }

    async fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        self.list("the list of routes", |handle| handle.route().get(query).execute()).await
    }

    async fn add_route(&self, route: RouteMessage) -> io::Result<()> {
        self.request("to add a route", async |handle| handle.route().add(route).execute().await).await
    }

    /// Removes a route. A missing route is no error.
    async fn remove_route(&self, route: RouteMessage) -> io::Result<()> {
        ignore_missing(
            self.request("to remove a route", async |handle| handle.route().del(route).execute().await).await,
        )
    }
}

/// Opens a socket.
fn connect() -> io::Result<Connected> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    Ok((handle, tokio::spawn(connection)))
}

/// Returns a route with the mark as its metric. No other route has this prefix, so the metric has no other effect.
fn reservation(subnet: Subnet, mark: Mark) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.base, subnet.bits)
        .kind(RouteType::Unreachable)
        .priority(mark.closed())
        .build()
}

/// Returns a route for one guest's address with the mark as its metric.
fn diversion(guest: Ipv4Addr, index: u32, mark: Mark) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(guest, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .priority(mark.closed())
        .build()
}

fn interface(message: &LinkMessage) -> Interface {
    let mut interface = Interface { index: message.header.index, name: String::new(), group: 0 };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Group(group) => interface.group = *group,
            _ => {}
        }
    }
    interface
}

/// Returns the IPv4 destination. `None`: an IPv6 route, or a default route.
fn destination(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

fn interface_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn metric_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    })
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    use nix::libc::{ENODEV, ENOENT, ENXIO, ESRCH};
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(ENODEV | ENOENT | ENXIO | ESRCH)) => Ok(()),
        other => other,
    }
}

/// Returns the kernel's error number, if there is one.
fn kernel_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use tokio::time;

    use super::*;

    impl Netlink {
        /// Has the next request fail.
        pub fn fail(&self) {
            self.0.borrow().1.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_whose_answer_is_lost_fails_by_its_name_and_the_next_one_is_answered() {
        let netlink = Netlink::open().unwrap();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        // It never sends the request, so there is no answer.
        let silent = tokio::spawn(async move {
            let _connection = connection;
            future::pending().await
        });
        netlink.0.replace((handle, silent));
        let error = netlink.interfaces().await.unwrap_err();
        assert_eq!(error.to_string(), "the list of interfaces: the kernel has not answered for 10 s");
        time::resume();
        assert!(!netlink.interfaces().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn answer_that_a_failed_socket_cuts_short_is_an_error() {
        let netlink = Netlink::open().unwrap();
        netlink.fail();
        let error = netlink.interfaces().await.unwrap_err();
        assert_eq!(error.to_string(), "the list of interfaces: the netlink socket has failed");
        assert!(!netlink.interfaces().await.unwrap().is_empty());
    }
}
