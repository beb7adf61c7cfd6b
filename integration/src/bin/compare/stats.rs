//! Statistics of samples.

use std::time::Duration;

/// Returns the median; of an even number, the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Returns the minimum.
pub fn fastest(samples: &[f64]) -> Option<f64> {
    samples.iter().copied().min_by(f64::total_cmp)
}

/// Returns the range in percent of the median. Contestants that differ by less cannot be distinguished.
pub fn spread(samples: &[f64]) -> Option<f64> {
    let (least, most) = (fastest(samples)?, samples.iter().copied().max_by(f64::total_cmp)?);
    median(samples).filter(|median| *median > 0.0).map(|median| (most - least) / median * 100.0)
}

/// Returns `this` divided by `to`, if both exist.
pub fn ratio(this: Option<f64>, to: Option<f64>) -> Option<f64> {
    this.zip(to).filter(|(_, to)| *to != 0.0).map(|(this, to)| this / to)
}

/// Returns `this` minus `to`, if both exist.
pub fn added(this: Option<f64>, to: Option<f64>) -> Option<f64> {
    this.zip(to).map(|(this, to)| this - to)
}

/// Returns a duration in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Reads a time as wrk and h2load print it: `1.08ms`, `124.00us`, `1.20s`, `1.00m`. In microseconds.
pub fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn outlier_changes_spread_only() {
        let samples = [10.0, 11.0, 9.0, 10.0, 30.0];
        assert_eq!(median(&samples), Some(10.0));
        assert_eq!(spread(&samples), Some(210.0));
        assert_eq!(fastest(&samples), Some(9.0));
        assert_eq!((spread(&[]), spread(&[0.0, 0.0])), (None, None));
    }

    #[test]
    fn missing_samples_give_none() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), Some(1.5));
        assert_eq!(ratio(Some(3.0), None), None);
        assert_eq!(ratio(Some(3.0), Some(0.0)), None);
        assert_eq!(added(Some(3.0), Some(2.0)), Some(1.0));
        assert_eq!(added(None, Some(2.0)), None);
    }

    #[test]
    fn units_of_time_are_told_apart() {
        let pairs = [("124.00us", 124.0), ("1.50ms", 1500.0), ("2.00s", 2e6), ("1.00m", 6e7)];
        for (text, expected) in pairs {
            assert_eq!(microseconds(text), Some(expected), "{text}");
        }
        assert_eq!(microseconds("1.00h"), None);
        assert_eq!(microseconds("12"), None);
    }
}
