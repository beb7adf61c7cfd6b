//! The checks of Firecracker's kernel loader, and a file that QEMU's loader takes.

use std::{
    ffi::CStr,
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::fs::FileExt,
    },
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::refusal::{Refusal, starting};

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const PT_LOAD: u32 = 1;
/// Kernels start at this address or above.
const FIRST_ADDRESS: u64 = 1 << 20;
/// The file for QEMU, which checks more of a header than Firecracker does.
const NAME: &CStr = c"kernel";

fn refused(kind: &str) -> Refusal {
    let words = format!("Cannot load kernel due to invalid memory configuration or invalid kernel image: {kind}");
    starting(&format!("ConfigureSystem(KernelLoader({kind}))"), &words)
}

/// Checks that the kernel can be loaded into `memory` bytes.
pub fn check(file: &File, memory: u64) -> Result<(), Refusal> {
    let elf = |kind: &str| refused(&format!("Elf({kind})"));
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(|_| elf("ReadElfHeader"))?;
    let number = |at: usize, size: usize| little_endian(&header[at..at + size]);
    if !header.starts_with(b"\x7fELF") {
        return Err(refused("Bzimage(InvalidBzImage)"));
    }
    if header[5] != 1 {
        return Err(elf("BigEndianElfOnLittle"));
    }
    if number(54, 2) != SEGMENT as u64 {
        return Err(elf("InvalidProgramHeaderSize"));
    }
    if number(32, 8) < HEADER as u64 {
        return Err(elf("InvalidProgramHeaderOffset"));
    }
    if number(24, 8) < FIRST_ADDRESS {
        return Err(elf("InvalidEntryAddress"));
    }
    let mut table = vec![0; SEGMENT * number(56, 2) as usize];
    file.read_exact_at(&mut table, number(32, 8)).map_err(|_| elf("ReadProgramHeader"))?;
    let length = file.metadata().map_err(|_| elf("ReadKernelImage"))?.len();
    for segment in table.chunks_exact(SEGMENT).filter(|segment| little_endian(&segment[..4]) == u64::from(PT_LOAD)) {
        let [offset, address, size] = [8, 24, 32].map(|at| little_endian(&segment[at..at + 8]));
        if address.saturating_add(size) > memory || offset.saturating_add(size) > length {
            return Err(elf("ReadKernelImage"));
        }
    }
    Ok(())
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Returns the refusal of memory that cannot be backed by huge pages.
pub fn unbacked() -> Refusal {
    refused("Elf(ReadKernelImage)")
}

/// Returns a path of the same kernel for QEMU, which reads class, version and machine, too.
pub fn for_qemu(path: &str, mut file: &File) -> std::io::Result<String> {
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let original = content.clone();
    (content[4], content[6]) = (2, 1);
    content[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    if content == original {
        return Ok(path.to_owned());
    }
    inherited(&content)
}

/// Returns a path of a file with this content, which QEMU inherits.
pub fn inherited(content: &[u8]) -> std::io::Result<String> {
    let mut copy = File::from(memfd_create(NAME, MFdFlags::empty())?);
    copy.write_all(content)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let _ = copy.into_raw_fd();
    Ok(path)
}
