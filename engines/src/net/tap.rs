//! Creates tap devices by ioctl on `/dev/net/tun`, which netlink cannot do.
//!
//! A tap is made persistent and its descriptor closed, so that a VMM can attach to it by name. Before that, the kernel
//! removes the tap with the daemon: it gets its mark in that time.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use nix::{errno::Errno, libc};

const DEVICE: &str = "/dev/net/tun";
/// The kernel replaces `%d` by the lowest free number.
const TEMPLATE: &[u8] = b"faas%d";
/// Prefix of the names of all taps.
pub const PREFIX: &str = "faas";

nix::ioctl_readwrite_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_group, libc::TUNSETGROUP);
nix::ioctl_write_int_bad!(tun_set_persist, libc::TUNSETPERSIST);

/// A tap that the kernel removes when this is dropped.
#[derive(Debug)]
pub struct NewTap {
    device: File,
    /// The name that the kernel chose.
    pub name: String,
}

impl NewTap {
    /// Creates a tap that processes of the group `gid` may attach to.
    ///
    /// # Errors
    /// `NotFound` without a tun device, `PermissionDenied` without CAP_NET_ADMIN, else the kernel's error.
    pub fn create(gid: libc::gid_t) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let name = attach_new(&device)?;
        // SAFETY: the descriptor is an attached tun device; the argument is a number.
        unsafe { tun_set_group(device.as_raw_fd(), gid as libc::c_int) }?;
        Ok(Self { device, name })
    }

    /// Returns a copy of the descriptor, as a child has one until its exec.
    #[cfg(test)]
    pub fn duplicate(&self) -> File {
        self.device.try_clone().expect("a descriptor is free")
    }

    /// Makes the tap persistent, and closes its descriptor.
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
