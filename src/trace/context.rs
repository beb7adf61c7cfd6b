//! W3C trace context: the `traceparent` header. Pure.

use std::fmt;

/// The id of a trace, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// The id of a span, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub u64);

/// Where a request is in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// The span of the caller. `None`: the trace begins here.
    pub parent: Option<SpanId>,
    /// Whether its spans are exported.
    pub is_sampled: bool,
}

impl TraceId {
    pub fn random() -> Self {
        Self(rand::random::<u128>().max(1))
    }
}

impl SpanId {
    pub fn random() -> Self {
        Self(rand::random::<u64>().max(1))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl TraceContext {
    /// Makes the context of a new trace, a share of which is sampled.
    pub fn new(sample: f64) -> Self {
        Self { trace_id: TraceId::random(), parent: None, is_sampled: rand::random::<f64>() < sample }
    }

    /// Reads a `traceparent` header. `None`: it is malformed, so a new trace begins.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (version, rest) = header.split_at_checked(3)?;
        let version = hex(version.strip_suffix(b"-")?)?;
        // Version 00 has these four fields, later ones may have more.
        let (fields, more) = rest.split_at_checked(52)?;
        let is_known = if version == 0 { more.is_empty() } else { more.is_empty() || more.starts_with(b"-") };
        if version == 0xff || !is_known || fields[32] != b'-' || fields[49] != b'-' {
            return None;
        }
        let (trace, parent, flags) = (hex(&fields[..32])?, hex(&fields[33..49])?, hex(&fields[50..])?);
        let parent = u64::try_from(parent).ok()?;
        let is_valid = trace != 0 && parent != 0;
        is_valid.then_some(Self { trace_id: TraceId(trace), parent: Some(SpanId(parent)), is_sampled: flags & 1 == 1 })
    }

    /// Returns the header for what is called, whose caller is that span.
    pub fn header(&self, caller: SpanId) -> String {
        format!("00-{}-{:016x}-{:02x}", self.trace_id, caller.0, u8::from(self.is_sampled))
    }
}

/// Reads lowercase hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn valid_headers_are_continued() {
        let context = TraceContext::parse(HEADER.as_bytes()).unwrap();
        assert_eq!(context.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((context.parent, context.is_sampled), (Some(SpanId(0xb7ad_6b71_6920_3331)), true));
        assert_eq!(context.header(SpanId(0xb7ad_6b71_6920_3331)), HEADER);
        assert_eq!(context.header(SpanId(5)), "00-0af7651916cd43dd8448eb211c80319c-0000000000000005-01");
        for (suffix, sampled) in [("00", false), ("03", true), ("02", false)] {
            let header = format!("{}{suffix}", &HEADER[..HEADER.len() - 2]);
            assert_eq!(TraceContext::parse(header.as_bytes()).unwrap().is_sampled, sampled, "{header}");
        }
        let later = HEADER.replacen("00", "cc", 1);
        assert!(TraceContext::parse(later.as_bytes()).is_some());
        assert!(TraceContext::parse(format!("{later}-what-the-future-brings").as_bytes()).is_some());
    }

    #[test]
    fn malformed_headers_are_not() {
        for header in [
            "",
            "00",
            "00-",
            &HEADER[..54],
            &format!("{HEADER}-more"),
            &format!("{HEADER} "),
            &HEADER.to_uppercase(),
            &HEADER.replacen("00", "ff", 1),
            &HEADER.replacen("00", "0x", 1),
            &HEADER.replace('-', "_"),
            &HEADER.replacen("00-", "cc-", 1).replace("-01", "-01x"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-é",
        ] {
            assert_eq!(TraceContext::parse(header.as_bytes()), None, "{header}");
        }
    }

    #[test]
    fn a_share_of_new_traces_is_sampled() {
        assert!(!(0..100).any(|_| TraceContext::new(0.0).is_sampled));
        assert!((0..100).all(|_| TraceContext::new(1.0).is_sampled));
        let sampled = (0..10_000).filter(|_| TraceContext::new(0.1).is_sampled).count();
        assert!((700..1300).contains(&sampled), "{sampled}");
    }
}
