//! Recognises kernels that a VMM can boot, and reads from their headers what they need. `guest.rs` compares that with what
//! the guest gets.

use std::{fs::File, os::unix::fs::FileExt};

use super::{
    elf::{self, Elf},
    files::reason,
};

/// How many bytes are searched for the header of a kernel that is no ELF file. A multiboot header starts within them.
const START: usize = 8192;

/// Processors of PCs.
const MACHINES: [u16; 2] = [::elf::abi::EM_386, ::elf::abi::EM_X86_64];
const MULTIBOOT: u32 = 0x1bad_b002;
/// The header of Linux' image for aarch64.
const AARCH64_IMAGE: (usize, &[u8]) = (0x38, b"ARM\x64");
/// Firecracker starts no kernel below this address.
const FIRECRACKER_KERNELS: u64 = 1 << 20;

/// The VMMs, by the kernels that they boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vmm {
    Firecracker,
    Qemu,
}

/// What a kernel needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// The first physical address after the memory that it occupies when it starts; 0 if its header does not say that.
    pub end: u64,
    /// The longest command line that it takes, in bytes, if its header says that.
    pub cmdline: Option<u64>,
}

/// Reads the headers of a kernel that `vmm` is to boot. The error is a predicate for the file.
pub(super) fn inspect(file: &File, vmm: Vmm) -> Result<Kernel, String> {
    let mut start = vec![0; START];
    let mut filled = 0;
    while filled < START {
        match file.read_at(&mut start[filled..], filled as u64).map_err(|error| reason(&error))? {
            0 => break,
            count => filled += count,
        }
    }
    start.truncate(filled);
    if elf::is_elf(&start) {
        return elf_kernel(file, vmm, &start);
    }
    if start.get(AARCH64_IMAGE.0..).is_some_and(|header| header.starts_with(AARCH64_IMAGE.1)) {
        return Err(foreign("aarch64"));
    }
    match (BzImage::new(&start), vmm) {
        (Some(_), Vmm::Firecracker) => {
            Err("is a bzImage, which Firecracker cannot boot: it needs the ELF file vmlinux".to_owned())
        }
        (None, Vmm::Firecracker) => Err("is not a kernel that Firecracker can boot: no ELF file".to_owned()),
        (Some(image), Vmm::Qemu) => {
            let length = file.metadata().map_err(|error| reason(&error))?.len();
            if image.length() > length {
                return Err(format!("is a damaged bzImage: it has {length} bytes instead of {}", image.length()));
            }
            Ok(Kernel { end: image.end(), cmdline: Some(image.cmdline()) })
        }
        (None, Vmm::Qemu) if is_multiboot(&start) => Ok(Kernel::default()),
        (None, Vmm::Qemu) => Err("is not a kernel: neither an ELF file nor a bzImage".to_owned()),
    }
}

fn elf_kernel(file: &File, vmm: Vmm, start: &[u8]) -> Result<Kernel, String> {
    let elf = Elf::read(file)?;
    if !elf.is_little_endian || !MACHINES.contains(&elf.machine) {
        return Err(foreign(&elf::machine_name(elf.machine)));
    }
    match vmm {
        Vmm::Firecracker if !elf.is_64_bit => Err("is a 32-bit ELF file, and Firecracker boots 64-bit ones".to_owned()),
        Vmm::Firecracker if elf.entry < FIRECRACKER_KERNELS => {
            Err(format!("is not a kernel: it starts at address {:#x}, below 1 MiB", elf.entry))
        }
        Vmm::Qemu if !elf.has_pvh_entry && !is_multiboot(start) => {
            Err("has no entry point for QEMU: neither a PVH note nor a multiboot header".to_owned())
        }
        _ => {
            let (used, all) = elf.ends();
            // QEMU passes over what is loaded elsewhere, and Firecracker refuses it.
            Ok(Kernel { end: if vmm == Vmm::Qemu { used } else { used.max(all) }, cmdline: None })
        }
    }
}

fn foreign(machine: &str) -> String {
    format!("is built for {machine}, and guests here are PCs (x86-64)")
}

fn is_multiboot(start: &[u8]) -> bool {
    start.chunks_exact(4).any(|word| word == MULTIBOOT.to_le_bytes())
}

/// The header of a Linux bzImage, as documented in Linux' `Documentation/arch/x86/boot.rst`.
struct BzImage<'a>(&'a [u8]);

impl<'a> BzImage<'a> {
    fn new(start: &'a [u8]) -> Option<Self> {
        start.get(0x202..).is_some_and(|header| header.starts_with(b"HdrS")).then_some(Self(start))
    }

    /// Returns the little-endian number at an offset; 0 behind the end.
    fn number<const N: usize>(&self, offset: usize) -> u64 {
        let bytes = self.0.get(offset..offset + N).unwrap_or_default();
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Returns the version of the boot protocol: fields were added to the header over time.
    fn protocol(&self) -> u64 {
        self.number::<2>(0x206)
    }

    /// Returns the length of the whole file, without a signature at its end.
    fn length(&self) -> u64 {
        let setup_sectors = match self.number::<1>(0x1f1) {
            0 => 4,
            sectors => sectors,
        };
        (setup_sectors + 1) * 512 + self.number::<4>(0x1f4) * 16
    }

    /// Returns the end of the memory in which the kernel unpacks itself.
    fn end(&self) -> u64 {
        match self.protocol() {
            0x20a.. => self.number::<8>(0x258).saturating_add(self.number::<4>(0x260)),
            _ => 0,
        }
    }

    fn cmdline(&self) -> u64 {
        match self.protocol() {
            0x206.. => self.number::<4>(0x238),
            _ => 255,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::elf::tests::{file, kernel},
        *,
    };

    /// Returns a bzImage that takes 2047 bytes of command line and occupies memory up to `end`.
    pub fn bzimage(end: u64) -> Vec<u8> {
        let mut image = vec![0; 5 * 512 + 16];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f4, &[1]);
        put(0x202, b"HdrS\x0f\x02");
        put(0x238, &2047_u32.to_le_bytes());
        put(0x258, &(1_u64 << 20).to_le_bytes());
        put(0x260, &((end - (1 << 20)) as u32).to_le_bytes());
        image
    }

    fn both(content: &[u8]) -> [Result<Kernel, String>; 2] {
        [Vmm::Firecracker, Vmm::Qemu].map(|vmm| inspect(&file(content), vmm))
    }

    #[test]
    fn every_vmm_boots_elf_files_for_pcs() {
        let expected = Kernel { end: 3 << 20, cmdline: None };
        assert_eq!(both(&kernel(2 << 20)), [Ok(expected), Ok(Kernel { end: 3 << 20, cmdline: None })]);
        let mut aarch64 = kernel(1);
        aarch64[18] = 183;
        let mut big_endian = kernel(1);
        big_endian[5] = 2;
        for other in [&aarch64, &big_endian, &b"\x7fELF".to_vec()] {
            assert!(both(other).iter().all(Result::is_err));
        }
        let said = "is built for aarch64, and guests here are PCs (x86-64)".to_owned();
        assert_eq!(both(&aarch64), [Err(said.clone()), Err(said)]);
    }

    #[test]
    fn entry_point_must_be_one_of_the_vmm() {
        let mut without_note = kernel(1);
        without_note[176 + 8] = 0;
        let [firecracker, qemu] = both(&without_note);
        assert!(firecracker.is_ok() && qemu.unwrap_err().contains("neither a PVH note nor a multiboot header"));
        without_note.extend(MULTIBOOT.to_le_bytes());
        without_note.resize(without_note.len().next_multiple_of(4), 0);
        assert_eq!(without_note.len() % 4, 0);
        assert!(both(&without_note)[1].is_ok());
        let mut low = kernel(1);
        low[24..32].copy_from_slice(&0x1000_u64.to_le_bytes());
        assert!(both(&low)[0].as_ref().unwrap_err().contains("0x1000"));
    }

    #[test]
    fn only_qemu_boots_a_bzimage() {
        let [firecracker, qemu] = both(&bzimage(70 << 20));
        assert!(firecracker.unwrap_err().contains("vmlinux"));
        assert_eq!(qemu, Ok(Kernel { end: 70 << 20, cmdline: Some(2047) }));
        let cut = &bzimage(70 << 20)[..2000];
        assert_eq!(both(cut)[1], Err("is a damaged bzImage: it has 2000 bytes instead of 2576".to_owned()));
        let mut old = bzimage(70 << 20);
        old[0x206] = 5;
        assert_eq!(both(&old)[1], Ok(Kernel { end: 0, cmdline: Some(255) }));
    }

    #[test]
    fn other_files_are_no_kernels() {
        for content in [&b""[..], b"\x7f", b"#!/bin/sh\n", &[0; 9000]] {
            assert!(both(content).iter().all(|result| result.as_ref().unwrap_err().contains("not a kernel")));
        }
        let mut multiboot = vec![0; 64];
        multiboot[32..36].copy_from_slice(&MULTIBOOT.to_le_bytes());
        assert_eq!(both(&multiboot)[1], Ok(Kernel::default()));
        let mut image = vec![0; 64];
        image[0x38..0x3c].copy_from_slice(AARCH64_IMAGE.1);
        assert!(both(&image)[1].as_ref().unwrap_err().contains("built for aarch64"));
    }
}
