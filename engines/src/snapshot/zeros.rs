//! Gives back the space of zeros in a file.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::{FallocateFlags, fallocate};

/// The size of a page, and of most blocks of file systems.
const PAGE: usize = 4096;
const READ_SIZE: usize = 256 * PAGE;

/// Makes holes of all pages of zeros. Returns the size of the rest.
///
/// # Errors
/// When the file cannot be read. Without support of the file system no holes are made.
pub fn punch(file: &File) -> io::Result<u64> {
    let (mut buffer, mut position, mut rest) = (vec![0; READ_SIZE], 0, 0);
    loop {
        let count = file.read_at(&mut buffer, position)?;
        if count == 0 {
            return Ok(rest);
        }
        let is_zero = |page: &[u8]| page.len() == PAGE && page.iter().all(|byte| *byte == 0);
        let pages: Vec<_> = buffer[..count].chunks(PAGE).collect();
        for run in pages.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
            let length = run.iter().map(|page| page.len() as u64).sum();
            if is_zero(run[0]) {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(file, flags, position, length);
            } else {
                rest += length;
            }
            position += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn pages_of_zeros_take_no_space_and_stay_zeros() {
        let file = tempfile::tempfile().unwrap();
        let mut content = vec![0; 600 * PAGE + 7];
        content[300 * PAGE..302 * PAGE].fill(1);
        file.write_all_at(&content, 0).unwrap();
        assert_eq!(punch(&file).unwrap(), 2 * PAGE as u64 + 7);
        let mut after = vec![1; content.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        assert!(after == content && file.metadata().unwrap().blocks() * 512 <= 8 * PAGE as u64);
    }
}
