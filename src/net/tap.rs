//! Tap devices by ioctl on `/dev/net/tun`: the one thing about them that netlink cannot do.
//!
//! A tap is made persistent and then let go, so that a machine monitor can attach to it by its name. Until then it goes
//! with the daemon, which is the time to put a mark on it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use nix::{errno::Errno, libc};

const DEVICE: &str = "/dev/net/tun";
/// The kernel puts the lowest free number in its place.
const TEMPLATE: &[u8] = b"faas%d";
/// How the names of all taps start.
pub const PREFIX: &str = "faas";

nix::ioctl_readwrite_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_group, libc::TUNSETGROUP);
nix::ioctl_write_int_bad!(tun_set_persist, libc::TUNSETPERSIST);

/// A tap that exists only as long as this does.
#[derive(Debug)]
pub struct NewTap {
    device: File,
    /// As the kernel chose it.
    pub name: String,
}

impl NewTap {
    /// Makes one that processes of the group `gid` may attach to.
    ///
    /// # Errors
    /// `NotFound` without a tun device, `PermissionDenied` without CAP_NET_ADMIN, else whatever the kernel says.
    pub fn create(gid: libc::gid_t) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let name = attach_new(&device)?;
        // SAFETY: the descriptor is an attached tun device; the argument is a number.
        unsafe { tun_set_group(device.as_raw_fd(), gid as libc::c_int) }?;
        Ok(Self { device, name })
    }

    /// Lets it stay until it is removed.
    pub fn persist(self) -> io::Result<()> {
        // SAFETY: as above.
        unsafe { tun_set_persist(self.device.as_raw_fd(), 1) }?;
        Ok(())
    }
}

fn attach_new(device: &File) -> io::Result<String> {
    // SAFETY: an all-zero `ifreq` is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(TEMPLATE) {
        *place = *byte as libc::c_char;
    }
    // Exclusive: never attach to a tap that exists.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
    unsafe { tun_set_iff(device.as_raw_fd(), &raw mut request) }?;
    let name: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).map_err(|_| Errno::EILSEQ.into())
}
