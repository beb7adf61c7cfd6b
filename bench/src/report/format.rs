//! Numbers and findings in words.

use crate::stats::{Comparison, Finding, Interval};

/// Returns a number with three significant digits or more.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Returns two numbers with as many decimals as the smaller one needs.
pub fn range(low: f64, high: f64) -> String {
    format!("{}–{}", number(low), number(high))
}

/// Returns an interval.
pub fn interval(interval: Interval) -> String {
    range(interval.low, interval.high)
}

/// Returns what a comparison has found. `resolution` is that of the run.
pub fn finding(comparison: &Comparison, resolution: Option<f64>) -> String {
    let Some(interval) = comparison.interval else {
        return format!("{} times (too few rounds for an interval)", number(comparison.ratio));
    };
    let ratios = format!("{} to {} times", number(interval.low), number(interval.high));
    match comparison.finding {
        Finding::Slower | Finding::Faster => ratios,
        Finding::Equal => format!("equal ({ratios})"),
        Finding::NotResolved | Finding::TooFewRounds => {
            let limit = resolution.map_or_else(|| "unknown".to_owned(), percent);
            format!("no difference found ({ratios}; resolution {limit})")
        }
    }
}

/// Returns a share in percent.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 10.0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Method;

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.1234, 1.234, 12.34, 123.4, 1234.5, 0.0].map(number);
        assert_eq!(texts, ["0.123", "1.23", "12.3", "123", "1234", "0.000"]);
        assert_eq!((percent(0.031), percent(0.25)), ("3.1 %".to_owned(), "25 %".to_owned()));
    }

    #[test]
    fn findings_are_ranges_unless_nothing_is_resolved() {
        let interval = Some(Interval { low: 2.1, high: 2.4, confidence: 0.95, method: Method::Bootstrap });
        let of = |finding| finding_of(finding, interval);
        assert_eq!(of(Finding::Slower), "2.10 to 2.40 times");
        assert_eq!(of(Finding::NotResolved), "no difference found (2.10 to 2.40 times; resolution 3.0 %)");
        assert_eq!(finding_of(Finding::TooFewRounds, None), "2.20 times (too few rounds for an interval)");
    }

    fn finding_of(which: Finding, interval: Option<Interval>) -> String {
        finding(&Comparison { ratio: 2.2, interval, finding: which }, Some(0.03))
    }
}
