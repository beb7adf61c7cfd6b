//! Recognises kernels that a VMM can boot by the first bytes of the file. Pure.

/// How many bytes are checked: a multiboot header starts within them.
pub(super) const START: u64 = 8192;

const ELF: &[u8] = b"\x7fELF";
/// `e_machine` and its values for processors of PCs.
const ELF_MACHINE: usize = 18;
const I386: u16 = 3;
const X86_64: u16 = 62;
/// Linux' boot protocol, as documented in its `Documentation/arch/x86/boot.rst`.
const BZIMAGE: (usize, &[u8]) = (0x202, b"HdrS");
const MULTIBOOT: u32 = 0x1bad_b002;

/// Checks that Firecracker (`elf`) or QEMU can boot a file that starts like this. The error is a predicate.
pub(super) fn check(start: &[u8], elf: bool) -> Result<(), String> {
    if start.starts_with(ELF) {
        return match start.get(ELF_MACHINE..ELF_MACHINE + 2) {
            Some(&[low, high]) if [I386, X86_64].contains(&u16::from_le_bytes([low, high])) => Ok(()),
            _ => Err("is an ELF file for another processor".to_owned()),
        };
    }
    let bzimage = start.get(BZIMAGE.0..).is_some_and(|header| header.starts_with(BZIMAGE.1));
    if elf {
        return Err(match bzimage {
            true => "is a bzImage, which Firecracker cannot boot: it needs the ELF file vmlinux".to_owned(),
            false => "is not a kernel that Firecracker can boot: no ELF file".to_owned(),
        });
    }
    let multiboot = || start.chunks_exact(4).any(|word| word == MULTIBOOT.to_le_bytes());
    if bzimage || multiboot() { Ok(()) } else { Err("is not a kernel: neither an ELF file nor a bzImage".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16) -> Vec<u8> {
        let mut file = [ELF, &[0; 60]].concat();
        file[ELF_MACHINE..ELF_MACHINE + 2].copy_from_slice(&machine.to_le_bytes());
        file
    }

    fn bzimage() -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file
    }

    #[test]
    fn every_vmm_boots_elf_files_for_pcs() {
        for machine in [I386, X86_64] {
            assert_eq!((check(&elf(machine), true), check(&elf(machine), false)), (Ok(()), Ok(())));
        }
        assert!(check(&elf(183), false).unwrap_err().contains("another processor"));
        assert!(check(ELF, true).is_err());
    }

    #[test]
    fn only_qemu_boots_a_bzimage() {
        assert_eq!(check(&bzimage(), false), Ok(()));
        assert!(check(&bzimage(), true).unwrap_err().contains("vmlinux"));
    }

    #[test]
    fn other_files_are_no_kernels() {
        for file in [&b""[..], b"\x7f", b"#!/bin/sh\n", &[0; 8192]] {
            assert!(check(file, true).is_err() && check(file, false).is_err());
        }
        let mut multiboot = vec![0; 64];
        multiboot[32..36].copy_from_slice(&MULTIBOOT.to_le_bytes());
        assert_eq!(check(&multiboot, false), Ok(()));
    }
}
