//! A head read in the plainest way there is, and far more strictly than any peer would: what the daemon sends must pass.

/// A head that the daemon has written.
#[derive(Debug)]
pub struct Plain<'a> {
    /// The words of the first line.
    pub first: Vec<&'a [u8]>,
    /// Names and values.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Plain<'a> {
    /// Reads a head that ends where `wire` ends.
    pub fn read(wire: &'a [u8]) -> Self {
        let shown = wire.escape_ascii();
        let text = wire.strip_suffix(b"\r\n\r\n").unwrap_or_else(|| panic!("no end: {shown}"));
        let mut lines = split(text, b"\r\n").into_iter();
        let first = lines.next().unwrap_or_default();
        assert!(!first.contains(&b'\n') && !first.contains(&b'\r') && !first.contains(&0), "{shown}");
        let first = first.split(|byte| *byte == b' ').collect();
        let fields = lines.map(|line| {
            assert!(!line.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)), "{shown}");
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or_else(|| panic!("no colon: {shown}"));
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            assert!(!name.is_empty() && name.iter().all(|byte| is_of_token(*byte)), "{shown}");
            (name, value)
        });
        let head = Self { first, fields: fields.collect() };
        head.check_framing(wire);
        head
    }

    /// The values of the lines of that name.
    pub fn all(&self, name: &str) -> Vec<&'a [u8]> {
        let named = self.fields.iter().filter(|(this, _)| this.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| *value).collect()
    }

    /// The body ends in one way only.
    fn check_framing(&self, wire: &[u8]) {
        let (lengths, codings) = (self.all("content-length"), self.all("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "{}", wire.escape_ascii());
        assert!(lengths.iter().all(|length| !length.is_empty() && length.iter().all(u8::is_ascii_digit)));
        assert!(codings.iter().all(|coding| *coding == b"chunked"));
    }
}

/// The elements of the lists in these values, in lower case.
pub fn elements(values: &[&[u8]]) -> Vec<Vec<u8>> {
    let elements = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
    elements.map(|element| element.trim_ascii().to_ascii_lowercase()).collect()
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn split<'a>(text: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut from) = (Vec::new(), 0);
    while let Some(at) = text[from..].windows(separator.len()).position(|window| window == separator) {
        parts.push(&text[from..from + at]);
        from += at + separator.len();
    }
    parts.push(&text[from..]);
    parts
}
