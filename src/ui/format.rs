//! How numbers, durations and times are written on pages.

use maud::{Markup, html};
use unifaas_actors::WallTime;

pub use crate::thousands::thousands as count;

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

/// Returns a count that may be a fraction, with about two digits: `0`, `0.4`, `1`, `12`, `1,204`.
pub fn rate(number: f64) -> String {
    match number {
        n if n < 0.05 => "0".to_owned(),
        n if n < 9.95 && (n - n.round()).abs() >= 0.05 => format!("{n:.1}"),
        n => count(n.round() as u64),
    }
}

/// Returns a duration with the unit that suits it: `0.4 ms`, `86 ms`, `3.12 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let two = |large: f64, large_unit, small_unit, factor: f64| {
        let (whole, rest) = ((seconds / large).floor(), (seconds % large / (large / factor)).floor());
        if rest == 0.0 { format!("{whole} {large_unit}") } else { format!("{whole} {large_unit} {rest} {small_unit}") }
    };
    match seconds {
        s if s < 0.00005 => "0 ms".to_owned(),
        s if s < 0.00995 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < MINUTE => format!("{s:.0} s"),
        s if s < HOUR => two(MINUTE, "min", "s", 60.0),
        s if s < DAY => two(HOUR, "h", "min", 60.0),
        _ => two(DAY, "d", "h", 24.0),
    }
}

/// Returns how long something has been going on, in whole seconds.
pub fn age(seconds: f64) -> String {
    if seconds < MINUTE { format!("{} s", seconds.max(0.0).floor()) } else { duration(seconds) }
}

/// Returns an amount of memory that is given in MiB.
pub fn mebibytes(mib: f64) -> String {
    match mib {
        m if m < 9.95 && m.fract() != 0.0 => format!("{m:.1} MiB"),
        m if m < 1024.0 => format!("{m:.0} MiB"),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}

/// Returns a share in percent.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p <= 0.0 => "0 %".to_owned(),
        p if p < 0.95 => "< 1 %".to_owned(),
        p => format!("{p:.0} %"),
    }
}

/// Returns a time of day, with the whole time for scripts and on hover.
pub fn time(at: WallTime) -> Markup {
    let whole = at.to_string();
    html! { time datetime=(whole) title=(whole) { (whole.get(11..19).unwrap_or(&whole)) } }
}

/// Returns a time that may be days away, with its day.
pub fn day_and_time(at: WallTime) -> Markup {
    let whole = at.to_string();
    let shown = whole.get(..19).unwrap_or(&whole).replace('T', " ");
    html! { time datetime=(whole) title=(whole) { (shown) } }
}

/// Returns a singular or plural with its number.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), text);
        }
        for (number, text) in [(0.0, "0"), (0.4, "0.4"), (1.0, "1"), (9.94, "9.9"), (9.96, "10"), (1_203.6, "1,204")] {
            assert_eq!(rate(number), text);
        }
    }

    #[test]
    fn durations_have_a_suitable_unit() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.0004, "0.4 ms"),
            (0.0864, "86 ms"),
            (0.9996, "1.00 s"),
            (3.12, "3.12 s"),
            (59.4, "59 s"),
            (250.0, "4 min 10 s"),
            (7200.0, "2 h"),
            (7500.0, "2 h 5 min"),
            (273_600.0, "3 d 4 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((age(0.9).as_str(), age(61.0).as_str()), ("0 s", "1 min 1 s"));
    }

    #[test]
    fn memory_and_shares_are_rounded() {
        assert_eq!((mebibytes(0.5).as_str(), mebibytes(118.0).as_str()), ("0.5 MiB", "118 MiB"));
        assert_eq!(mebibytes(9318.4), "9.1 GiB");
        assert_eq!((percent(0.0).as_str(), percent(0.001).as_str(), percent(0.98).as_str()), ("0 %", "< 1 %", "98 %"));
    }
}
