//! Reads ELF headers: the machine that a file was built for, and the segments that are loaded.

use std::{fs::File, io, os::unix::fs::FileExt};

use elf::{
    abi,
    endian::{AnyEndian, EndianParse},
    file::{Class, FileHeader, parse_ident},
    note::{Note, NoteIterator},
    parse::ParseAt,
    segment::{ProgramHeader, SegmentTable},
};

/// The bytes of the longest header.
const HEADER: usize = 64;
const IDENT: usize = abi::EI_NIDENT;
/// Notes of a kernel are some hundred bytes.
const MAX_NOTES: u64 = 64 << 10;
/// The note with the entry point by which QEMU starts an ELF kernel: its owner and its type.
const PVH_NOTE: (&str, u64) = ("Xen", 18);

/// The headers of an ELF file.
#[derive(Debug)]
pub(super) struct Elf {
    pub machine: u16,
    pub is_64_bit: bool,
    pub is_little_endian: bool,
    pub entry: u64,
    segments: Vec<ProgramHeader>,
    /// Whether it has an entry point for QEMU.
    pub has_pvh_entry: bool,
}

/// Returns whether a file that starts like this is an ELF file.
pub(super) fn is_elf(start: &[u8]) -> bool {
    start.starts_with(&abi::ELFMAGIC)
}

/// Returns the machine of an ELF file that starts like this. `None`: it is none, or its header is not complete.
pub(super) fn machine(start: &[u8]) -> Option<u16> {
    header(start).map(|header| header.e_machine)
}

fn header(start: &[u8]) -> Option<FileHeader<AnyEndian>> {
    let (ident, tail) = start.split_at_checked(IDENT)?;
    FileHeader::parse_tail(parse_ident(ident).ok()?, tail).ok()
}

impl Elf {
    /// Reads the headers of a file. The error is a predicate for it.
    pub fn read(file: &File) -> Result<Self, String> {
        let damaged = |what: &str| format!("is a damaged ELF file: {what}");
        let mut start = [0; HEADER];
        let length = file.metadata().map_err(unreadable)?.len();
        let header = usize::try_from(length).map_or(HEADER, |length| length.min(HEADER));
        file.read_exact_at(&mut start[..header], 0).map_err(unreadable)?;
        let header = self::header(&start[..header]).ok_or_else(|| damaged("its header is not complete"))?;
        let entry = usize::from(header.e_phentsize);
        ProgramHeader::validate_entsize(header.class, entry).map_err(|_| damaged("it has no program headers"))?;
        let mut table = vec![0; entry * usize::from(header.e_phnum)];
        read(file, &mut table, header.e_phoff).ok_or_else(|| damaged("its program headers are missing"))?;
        let segments: Vec<_> = SegmentTable::new(header.endianness, header.class, &table).iter().collect();
        let end = |segment: &ProgramHeader| segment.p_offset.checked_add(segment.p_filesz);
        let is_read = |segment: &ProgramHeader| [abi::PT_LOAD, abi::PT_NOTE].contains(&segment.p_type);
        let is_whole = |segment: &ProgramHeader| !is_read(segment) || end(segment).is_some_and(|end| end <= length);
        if !segments.iter().any(|segment| segment.p_type == abi::PT_LOAD && segment.p_filesz > 0) {
            return Err(damaged("it has no segment to load"));
        }
        if !segments.iter().all(is_whole) {
            return Err(damaged("its segments reach beyond its end"));
        }
        let has_pvh_entry = segments.iter().any(|segment| has_pvh_note(file, &header, segment));
        Ok(Self {
            machine: header.e_machine,
            is_64_bit: header.class == Class::ELF64,
            is_little_endian: header.endianness.is_little(),
            entry: header.e_entry,
            segments,
            has_pvh_entry,
        })
    }

    /// Returns the first physical address after its code and data, and that after all bytes that are loaded: loaders pass
    /// over or refuse constants, such as notes, that a linker has put elsewhere.
    pub fn ends(&self) -> (u64, u64) {
        let loaded = || self.segments.iter().filter(|segment| segment.p_type == abi::PT_LOAD);
        let is_used = |segment: &&ProgramHeader| segment.p_flags & (abi::PF_X | abi::PF_W) != 0;
        let used = loaded().filter(is_used).map(|segment| segment.p_paddr.saturating_add(segment.p_memsz));
        let all = loaded().map(|segment| segment.p_paddr.saturating_add(segment.p_filesz));
        (used.max().unwrap_or_default(), all.max().unwrap_or_default())
    }
}

fn has_pvh_note(file: &File, header: &FileHeader<AnyEndian>, segment: &ProgramHeader) -> bool {
    if segment.p_type != abi::PT_NOTE || segment.p_filesz > MAX_NOTES {
        return false;
    }
    let mut notes = vec![0; segment.p_filesz as usize];
    if read(file, &mut notes, segment.p_offset).is_none() {
        return false;
    }
    // Linkers write other alignments, too; these notes are always aligned to 4 bytes.
    NoteIterator::new(header.endianness, header.class, 4, &notes).any(|note| match note {
        Note::Unknown(note) => note.n_type == PVH_NOTE.1 && note.name_str().is_ok_and(|name| name == PVH_NOTE.0),
        _ => false,
    })
}

fn read(file: &File, bytes: &mut [u8], offset: u64) -> Option<()> {
    file.read_exact_at(bytes, offset).ok()
}

fn unreadable(error: io::Error) -> String {
    super::files::reason(&error)
}

/// Returns the usual name of a machine.
pub(super) fn machine_name(machine: u16) -> String {
    let name = match machine {
        abi::EM_386 => "i386",
        abi::EM_X86_64 => "x86-64",
        abi::EM_ARM => "arm",
        abi::EM_AARCH64 => "aarch64",
        abi::EM_RISCV => "riscv",
        abi::EM_PPC64 => "ppc64",
        abi::EM_S390 => "s390x",
        abi::EM_MIPS => "mips",
        abi::EM_LOONGARCH => "loongarch",
        other => match elf::to_str::e_machine_to_human_str(other) {
            Some(name) => name,
            None => return format!("machine {other}"),
        },
    };
    name.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// Returns an ELF file for x86-64 with one segment at 1 MiB, of `memory` bytes, and the entry point for QEMU.
    pub fn kernel(memory: u64) -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &2_u16.to_le_bytes());
        put(18, &abi::EM_X86_64.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(24, &(1_u64 << 20).to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &2_u16.to_le_bytes());
        let note: Vec<u8> =
            [4_u32.to_le_bytes(), 4_u32.to_le_bytes(), 18_u32.to_le_bytes(), *b"Xen\0", [0; 4]].concat();
        for (at, kind, memory) in [(64, abi::PT_LOAD, memory), (120, abi::PT_NOTE, 20)] {
            put(at, &kind.to_le_bytes());
            put(at + 4, &7_u32.to_le_bytes());
            put(at + 8, &176_u64.to_le_bytes());
            put(at + 24, &(1_u64 << 20).to_le_bytes());
            put(at + 32, &20_u64.to_le_bytes());
            put(at + 40, &memory.to_le_bytes());
        }
        [file, note].concat()
    }

    /// Returns a file with this content.
    pub fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn said(content: &[u8]) -> String {
        Elf::read(&file(content)).unwrap_err()
    }

    #[test]
    fn reads_machine_entry_and_segments() {
        let elf = Elf::read(&file(&kernel(5000))).unwrap();
        assert_eq!((elf.machine, elf.is_64_bit, elf.is_little_endian), (abi::EM_X86_64, true, true));
        assert_eq!((elf.entry, elf.has_pvh_entry), (1 << 20, true));
        assert_eq!(elf.ends(), ((1 << 20) + 5000, (1 << 20) + 20));
        let mut constants = kernel(5000);
        constants[64 + 4] = 4;
        assert_eq!(Elf::read(&file(&constants)).unwrap().ends(), (0, (1 << 20) + 20));
        assert_eq!(machine(&kernel(1)), Some(abi::EM_X86_64));
        let mut plain = kernel(1);
        plain[176 + 8] = 1;
        assert!(!Elf::read(&file(&plain)).unwrap().has_pvh_entry);
    }

    #[test]
    fn damaged_files_are_named_so() {
        let whole = kernel(1);
        for (length, what) in [
            (4, "its header is not complete"),
            (20, "its header is not complete"),
            (64, "its program headers are missing"),
            (180, "its segments reach beyond its end"),
        ] {
            assert_eq!(said(&whole[..length]), format!("is a damaged ELF file: {what}"));
        }
        let mut empty = whole;
        empty[56] = 0;
        assert_eq!(said(&empty), "is a damaged ELF file: it has no segment to load");
        assert_eq!((machine(b"\x7fELF"), machine(b"#!/bin/sh\n")), (None, None));
    }

    #[test]
    fn machines_have_their_usual_names() {
        assert_eq!(machine_name(183), "aarch64");
        assert_eq!((machine_name(2).as_str(), machine_name(60_000).as_str()), ("SPARC", "machine 60000"));
    }
}
