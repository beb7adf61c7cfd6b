//! The lines of a head, as they came.

use std::ops::Range;

/// Header fields in the order in which they were sent. Kept and filled again, so that a usual head allocates nothing.
#[derive(Debug, Default)]
pub struct Fields {
    /// The whole head.
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// Where in the head a name and its value are.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: Span,
    value: Span,
}

/// A part of a head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` is in `whole`, of which it must be a part. An empty one may be from anywhere.
    pub fn of(part: &[u8], whole: &[u8]) -> Self {
        if part.is_empty() {
            return Self::default();
        }
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        // A head is no larger than `MAX_HEAD`.
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Fields {
    /// Takes these lines over, which were found in `head`.
    pub fn fill(&mut self, head: &[u8], lines: &[httparse::Header<'_>]) {
        self.text.clear();
        self.text.extend_from_slice(head);
        self.lines.clear();
        self.lines.extend(
            lines
                .iter()
                .map(|line| Line { name: Span::of(line.name.as_bytes(), head), value: Span::of(line.value, head) }),
        );
    }

    /// A part of the head.
    pub fn part(&self, span: Span) -> &[u8] {
        self.text.get(span.range()).unwrap_or_default()
    }

    /// Names and values, as they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.part(line.name), self.part(line.value)))
    }

    /// The values of the lines of that name, whatever its case.
    pub fn all<'a>(&'a self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first line of that name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The elements of a list that may be spread over several lines of that name.
    pub fn list<'a>(&'a self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        self.all(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// Whether that list has that element, whatever the case of both.
    pub fn lists(&self, name: &[u8], element: &[u8]) -> bool {
        self.list(name).any(|this| this.eq_ignore_ascii_case(element))
    }
}

/// The length that `Content-Length` declares. `None`: it is no length. All lines must say the same.
pub fn content_length(fields: &Fields) -> Option<Option<u64>> {
    let mut length = None;
    for value in fields.all(b"content-length") {
        let this = digits(value.trim_ascii())?;
        if length.is_some_and(|length| length != this) {
            return None;
        }
        length = Some(this);
    }
    Some(length)
}

/// A number of decimal digits and nothing else.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
impl Fields {
    /// Of a head that is nothing but these lines.
    pub fn of(lines: &[(&str, &str)]) -> Self {
        let mut text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        text.push_str("\r\n");
        let mut parsed = [httparse::EMPTY_HEADER; 32];
        let httparse::Status::Complete((_, parsed)) = httparse::parse_headers(text.as_bytes(), &mut parsed).unwrap()
        else {
            panic!("{text}")
        };
        let mut fields = Self::default();
        fields.fill(text.as_bytes(), parsed);
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_whatever_their_case_and_kept_as_they_were_sent() {
        let fields = Fields::of(&[("X-One", "a, b"), ("Host", "h"), ("x-one", "C ,, d"), ("x-empty", "")]);
        assert_eq!(fields.get(b"x-ONE"), Some(&b"a, b"[..]));
        assert_eq!(fields.all(b"x-one").collect::<Vec<_>>(), [b"a, b", &b"C ,, d"[..]]);
        assert_eq!(fields.list(b"x-one").collect::<Vec<_>>(), [&b"a"[..], b"b", b"C", b"", b"d"]);
        assert!(fields.lists(b"X-One", b"c") && !fields.lists(b"x-one", b"a, b"));
        assert_eq!((fields.get(b"x-empty"), fields.get(b"x-none")), (Some(&b""[..]), None));
        let names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"X-One"[..], b"Host", b"x-one", b"x-empty"]);
    }

    #[test]
    fn a_length_is_digits_and_one_number() {
        let length = |values: &[&str]| {
            let lines: Vec<_> = values.iter().map(|value| ("Content-Length", *value)).collect();
            content_length(&Fields::of(&lines))
        };
        assert_eq!(length(&[]), Some(None));
        assert_eq!(length(&["0"]), Some(Some(0)));
        assert_eq!(length(&["18446744073709551615"]), Some(Some(u64::MAX)));
        assert_eq!(length(&["5", "5"]), Some(Some(5)));
        for wrong in
            ["", "+5", "-5", "5a", "0x5", "5 5", "5, 5", "5,", "18446744073709551616", "99999999999999999999999"]
        {
            assert_eq!(length(&[wrong]), None, "{wrong:?}");
        }
        assert_eq!(length(&["5", "6"]), None);
    }
}
