//! What both kinds of heads, and chunked bodies, are written with.

/// Adds one header line, whose value is all `parts` in a row.
pub fn put_header<'a>(out: &mut Vec<u8>, name: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// Adds a header line with a number.
pub fn put_number(out: &mut Vec<u8>, name: &[u8], number: u64) {
    put_header(out, name, [itoa::Buffer::new().format(number).as_bytes()]);
}

/// Announces a chunk of `length` bytes; `\r\n` follows the chunk itself. A length of zero ends the body.
pub fn put_chunk_line(out: &mut Vec<u8>, length: usize) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[length >> (4 * digit) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_announced_in_hexadecimal() {
        for length in [0, 1, 9, 15, 16, 255, 256, 0x1234_abcd, usize::MAX] {
            let mut out = Vec::new();
            put_chunk_line(&mut out, length);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{length:x}\r\n"));
        }
    }
}
