//! Scales: linear and logarithmic ones with round ticks, and categories.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Ratio of the largest to the smallest value from which on a scale is logarithmic.
const MIN_LOG_RATIO: f64 = 20.0;
/// Room beside the outermost values, relative to the range.
const MARGIN: f64 = 0.04;

/// A scale.
#[derive(Debug, Clone, PartialEq)]
pub enum Axis {
    /// Equal distances are equal differences.
    Linear { low: f64, high: f64 },
    /// Equal distances are equal ratios.
    Log { low: f64, high: f64 },
    /// Places 0, 1, 2 …, the first one on top, with a name each.
    Categories(Vec<String>),
}

impl Axis {
    /// Returns a scale for positive values: logarithmic if they differ much, else linear from 0.
    pub fn fitting(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = extremes(values);
        if low > 0.0 && high / low >= MIN_LOG_RATIO {
            let factor = (high / low).powf(MARGIN);
            return Self::Log { low: low / factor, high: high * factor };
        }
        let margin = (high - low.min(0.0)).max(1e-9) * MARGIN;
        let low = if low < 0.0 { low - margin } else { 0.0 };
        Self::Linear { low, high: high + margin }
    }

    fn ends(&self) -> (f64, f64) {
        match self {
            Self::Linear { low, high } | Self::Log { low, high } => (*low, *high),
            Self::Categories(names) => (-0.5, names.len() as f64 - 0.5),
        }
    }

    /// Returns where a value lies, from 0 to 1 within the scale.
    fn position(&self, value: f64) -> f64 {
        match self {
            Self::Linear { low, high } => (value - low) / (high - low),
            Self::Log { low, high } => (value.max(*low) / low).ln() / (high / low).ln(),
            Self::Categories(names) => 1.0 - (value + 0.5) / names.len() as f64,
        }
    }

    fn ticks(&self, most: usize) -> Vec<f64> {
        let (low, high) = self.ends();
        match self {
            Self::Linear { .. } => {
                let step = round_step((high - low) / most.max(2) as f64);
                let first = (low / step).ceil() as i64;
                let last = (high / step).floor() as i64;
                (first..=last).map(|tick| tick as f64 * step).collect()
            }
            Self::Log { .. } => {
                let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let all = |factors: &[f64]| -> Vec<f64> {
                    let ticks = decades
                        .clone()
                        .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)));
                    ticks.filter(|tick| (low..=high).contains(tick)).collect()
                };
                let fine = all(&[1.0, 2.0, 5.0]);
                if fine.len() <= most { fine } else { all(&[1.0]) }
            }
            Self::Categories(names) => (0..names.len()).map(|place| place as f64).collect(),
        }
    }

    /// Returns the text of a tick.
    pub fn label(&self, value: f64) -> String {
        match self {
            Self::Linear { .. } | Self::Log { .. } => short(value),
            Self::Categories(names) => names.get(value as usize).cloned().unwrap_or_default(),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let position = self.position(*value).clamp(0.0, 1.0);
        from + (f64::from(to - from) * position).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Lines between the ticks would only be noise.
        self.ticks(hint.bold_points())
    }

    fn range(&self) -> Range<f64> {
        let (low, high) = self.ends();
        low..high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

/// Returns the smallest and the largest finite value, which are never equal.
fn extremes(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let low = finite.clone().fold(f64::INFINITY, f64::min);
    let high = finite.fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return (0.0, 1.0);
    }
    if low == high { (low, if low == 0.0 { 1.0 } else { low + low.abs() * 0.5 }) } else { (low, high) }
}

/// Returns the next larger of 1, 2, 5, 10 and so on.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * decade >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * decade
}

/// Returns a number without digits that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_fit_their_values() {
        let near = Axis::fitting([30.0, 40.0].into_iter());
        assert!(matches!(near, Axis::Linear { low: 0.0, high } if high > 40.0), "{near:?}");
        let far = Axis::fitting([2.0, 900.0].into_iter());
        assert!(matches!(far, Axis::Log { low, high } if low < 2.0 && low > 0.0 && high > 900.0), "{far:?}");
        assert_eq!(far.ticks(10), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(far.ticks(5), [10.0, 100.0, 1000.0]);
        let negative = Axis::fitting([-1.0, 2.0].into_iter());
        assert!(matches!(negative, Axis::Linear { low, .. } if low < -1.0), "{negative:?}");
    }

    #[test]
    fn degenerate_values_have_a_scale() {
        for values in [vec![], vec![0.0], vec![5.0], vec![-3.0], vec![f64::NAN, 1.0]] {
            let axis = Axis::fitting(values.iter().copied());
            let (low, high) = axis.ends();
            assert!(low < high && low.is_finite() && high.is_finite(), "{values:?}: {axis:?}");
            assert!((2..20).contains(&axis.ticks(8).len()), "{values:?}: {:?}", axis.ticks(8));
        }
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis::Linear { low: 0.0, high: 0.31 };
        assert_eq!(
            axis.ticks(8).iter().map(|tick| short(*tick)).collect::<Vec<_>>(),
            ["0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3"]
        );
        assert_eq!(Axis::Categories(vec!["a".to_owned(), "b".to_owned()]).ticks(1), [0.0, 1.0]);
    }

    #[test]
    fn categories_begin_on_top() {
        let axis = Axis::Categories(["a", "b"].map(str::to_owned).into());
        // Pixels of a vertical axis grow downwards, so the end of the range is the top.
        assert_eq!((axis.map(&0.0, (100, 0)), axis.map(&1.0, (100, 0))), (25, 75));
    }
}
