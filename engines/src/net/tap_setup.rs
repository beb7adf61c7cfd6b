//! Creates one tap with its mark and address, and waits until its VMM can attach to it.

use std::{io, time::Duration};

use nix::libc::gid_t;
use slog::{Logger, debug};
use tokio::time;

use super::{
    error::{NetError, refused},
    firewall::Mark,
    netlink::Netlink,
    subnet::PointToPoint,
    sysctl,
    tap::NewTap,
};

/// Between two looks whether a new tap is still attached, and how long it may be.
const DETACH_INTERVAL: Duration = Duration::from_millis(1);
const DETACH_TIMEOUT: Duration = Duration::from_secs(5);

/// Creates a tap with the addresses `link`, without egress, that processes of the group `gid` may attach to. With
/// `is_shared`, other taps have the same addresses. Returns its name and interface index. After an error there is no tap.
pub async fn create(
    netlink: &Netlink,
    gid: gid_t,
    mark: Mark,
    link: PointToPoint,
    is_shared: bool,
    log: &Logger,
) -> Result<(String, u32), NetError> {
    let tap = NewTap::create(gid).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NetError::Missing("virtual machines need /dev/net/tun, which is not there".into()),
        io::ErrorKind::PermissionDenied => NetError::unprivileged(),
        _ => refused("a tap device")(error),
    })?;
    let name = tap.name.clone();
    sysctl::quiet(&name);
    let set_up = async {
        let index = netlink.find(&name).await?;
        // Before it is persistent: a later daemon finds it by its group.
        netlink.set_group(index, if is_shared { mark.clones() } else { mark.closed() }).await?;
        tap.persist()?;
        if is_shared {
            // A clone knows its gateway by the MAC address that the template has seen.
            netlink.set_mac(index, link.gateway_mac()).await?;
            sysctl::accept_any_route_back(&name)?;
        }
        netlink.set_up(index, link.gateway).await?;
        if is_shared {
            netlink.add_arp_entry(index, link.guest, link.guest_mac()).await?;
        }
        let waited = wait_until_detached(netlink, index).await?;
        if !waited.is_zero() {
            debug!(log, "a new tap was attached to a child at first"; "tap" => &name, "waited" => ?waited);
        }
        Ok(index)
    };
    match set_up.await {
        Ok(index) => Ok((name, index)),
        Err(error) => {
            if let Ok(left) = netlink.find(&name).await {
                let _ = netlink.remove(left).await;
            }
            Err(refused(&format!("tap {name}"))(error))
        }
    }
}

/// Waits until no process is attached to a new tap, so that its VMM does not find it busy (EBUSY). Returns how long that
/// took.
///
/// A child that another thread was just creating has a copy of the tap's descriptor. The kernel closes that copy at the
/// child's exec, but up to 142 ms late (measured), while it waits for the lock of the network configuration.
async fn wait_until_detached(netlink: &Netlink, index: u32) -> io::Result<Duration> {
    let start = time::Instant::now();
    let mut waited = Duration::ZERO;
    while netlink.has_carrier(index).await? {
        time::sleep(DETACH_INTERVAL).await;
        waited = start.elapsed();
        if waited > DETACH_TIMEOUT {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a process is still attached to it"));
        }
    }
    Ok(waited)
}

#[cfg(test)]
pub mod tests {
    use std::thread;

    use nix::sched::{CloneFlags, unshare};
    use tokio::runtime;

    use super::*;

    /// Runs in a network namespace that ends with it. Without the privilege for that it does nothing.
    pub fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
        let run = move || {
            if unshare(CloneFlags::CLONE_NEWNET).is_ok() && NewTap::create(0).is_ok() {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(test());
            }
        };
        thread::spawn(run).join().unwrap();
    }

    #[test]
    fn waits_until_last_copy_of_descriptor_is_closed() {
        isolated(|| async {
            let netlink = Netlink::open().unwrap();
            let tap = NewTap::create(0).unwrap();
            let index = netlink.find(&tap.name).await.unwrap();
            let copy = tap.duplicate();
            tap.persist().unwrap();
            assert!(netlink.has_carrier(index).await.unwrap());
            let closing = async {
                time::sleep(Duration::from_millis(20)).await;
                drop(copy);
            };
            let (waited, ()) = futures::join!(wait_until_detached(&netlink, index), closing);
            assert!(waited.unwrap() >= Duration::from_millis(15));
            assert_eq!(wait_until_detached(&netlink, index).await.unwrap(), Duration::ZERO);
        });
    }
}
