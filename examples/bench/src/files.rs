//! The files of `/read` and `/unzip`: written at build time, read at request time.
//!
//! The archive is a ZIP file without a directory: local headers with names and sizes, each followed by its deflated data.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::Problem;

/// Names the directory with the files.
const VARIABLE: &str = "BENCH_FILES";
/// Where images and disks have them.
const USUAL: &str = "/bench";
const READ: &str = "read.bin";
const ARCHIVE: &str = "files.zip";
/// Size of the file of `/read`, and of all files of the archive together.
const SIZE: usize = 50 << 20;
const ENTRIES: usize = 10;
const BUFFER: usize = 128 << 10;
const SIGNATURE: [u8; 4] = *b"PK\x03\x04";
const HEADER: usize = 30;

/// Returns the directory with the files, if there is one.
pub fn directory() -> Option<PathBuf> {
    let chosen = env::var_os(VARIABLE).map_or_else(|| PathBuf::from(USUAL), PathBuf::from);
    chosen.join(READ).is_file().then_some(chosen)
}

fn open(name: &str) -> Result<File, Problem> {
    let missing = || Problem::Unsupported(format!("there is no {name} in {USUAL} or ${VARIABLE}"));
    File::open(directory().ok_or_else(missing)?.join(name)).map_err(|_| missing())
}

fn failed(error: &io::Error) -> Problem {
    Problem::Wrong(format!("cannot be read: {error}"))
}

/// Reads the large file to its end, and returns its size.
pub fn read() -> Result<usize, Problem> {
    let (mut file, mut buffer) = (open(READ)?, vec![0; BUFFER]);
    let (mut size, mut sum) = (0, 0_u64);
    loop {
        let count = file.read(&mut buffer).map_err(|error| failed(&error))?;
        if count == 0 {
            break;
        }
        size += count;
        // One byte of each page, so that reading is measured and not adding.
        sum += buffer[..count].iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>();
    }
    if size == SIZE && sum > 0 { Ok(size) } else { Err(Problem::Wrong(format!("{READ} has {size} bytes"))) }
}

/// Unpacks the archive in memory, and returns the size of its files.
pub fn unzip() -> Result<usize, Problem> {
    let mut archive = Vec::new();
    open(ARCHIVE)?.read_to_end(&mut archive).map_err(|error| failed(&error))?;
    let wrong = || Problem::Wrong(format!("{ARCHIVE} is damaged"));
    let (mut rest, mut size, mut count) = (archive.as_slice(), 0, 0);
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER>().filter(|(head, _)| head[..4] == SIGNATURE) {
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let name = usize::from(u16::from_le_bytes([header[26], header[27]]));
        let (sum, packed, unpacked) = (number(14), number(18) as usize, number(22) as usize);
        let data = behind.get(name..name + packed).ok_or_else(wrong)?;
        let file = miniz_oxide::inflate::decompress_to_vec_with_limit(data, unpacked).map_err(|_| wrong())?;
        if file.len() != unpacked || crc32(&file) != sum {
            return Err(wrong());
        }
        (rest, size, count) = (&behind[name + packed..], size + unpacked, count + 1);
    }
    if count == ENTRIES && rest.is_empty() { Ok(size) } else { Err(wrong()) }
}

/// Writes the files into a directory.
///
/// # Errors
/// When they cannot be written.
pub fn write_files(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join(READ), text(SIZE, 1))?;
    let mut archive = io::BufWriter::new(File::create(directory.join(ARCHIVE))?);
    for entry in 0..ENTRIES {
        let (name, content) = (format!("file-{entry}.txt"), text(SIZE / ENTRIES, entry as u64 + 2));
        let packed = miniz_oxide::deflate::compress_to_vec(&content, 6);
        archive.write_all(&SIGNATURE)?;
        // Version 2.0, no flags, deflated, 1980-01-01 00:00.
        for word in [20_u16, 0, 8, 0, 0x21] {
            archive.write_all(&word.to_le_bytes())?;
        }
        for number in [crc32(&content), packed.len() as u32, content.len() as u32] {
            archive.write_all(&number.to_le_bytes())?;
        }
        for word in [name.len() as u16, 0] {
            archive.write_all(&word.to_le_bytes())?;
        }
        archive.write_all(name.as_bytes())?;
        archive.write_all(&packed)?;
    }
    archive.flush()
}

/// Returns words in a fixed order that looks random. They shrink to about a third, as text does.
fn text(size: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "instance ",
        "request ",
        "kernel ",
        "sandbox ",
        "memory ",
        "network ",
        "image ",
        "function ",
        "start ",
        "page ",
        "guest ",
        "host ",
        "timer ",
        "queue ",
        "socket ",
        "thread ",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = Vec::with_capacity(size + 64);
    while text.len() < size {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend_from_slice(WORDS[(state >> 60) as usize].as_bytes());
        text.extend_from_slice(format!("{:x} ", state & 0xfff).as_bytes());
    }
    text.truncate(size);
    text
}

/// The checksum of ZIP files, eight bits at a time.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let (mut value, mut bit) = (at as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8))
}
