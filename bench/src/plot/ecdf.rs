//! Cumulative distributions, with the band that the true ones lie in.

use plotters::element::Polygon;

use super::{
    axis::Axis,
    canvas::{Texts, document, fitted, frame, legend, mark, stroke, tint},
    style::look,
};
use crate::stats::{dkw_epsilon, quantile, sorted};

/// A distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The contestant.
    pub name: String,
    /// Its samples.
    pub values: Vec<f64>,
}

const HEIGHT: u32 = 520;
const LEFT: u32 = 62;
/// Room for the legend, in pixels.
const LEGEND: u32 = 270;
/// Samples from which on a band is drawn: with fewer, it fills the plot.
const MIN_BAND: usize = 20;

/// Draws the distribution of each contestant.
pub fn ecdf(texts: &Texts, curves: &[Curve]) -> String {
    document(texts, HEIGHT, |root| {
        let (names, width) = fitted(curves.iter().map(|curve| curve.name.as_str()), 56, LEGEND);
        let (area, aside) = root.split_horizontally(960 - width as i32);
        let all = curves.iter().flat_map(|curve| curve.values.iter().copied());
        let axes = (Axis::fitting(all), Axis::Linear { low: 0.0, high: 1.0 });
        let mut chart = frame(&area, texts, LEFT, axes)?;
        let sorted: Vec<Vec<f64>> = curves.iter().map(|curve| sorted(curve.values.clone())).collect();
        for (place, values) in sorted.iter().enumerate().filter(|(_, values)| values.len() >= MIN_BAND) {
            let epsilon = dkw_epsilon(values.len());
            let edge = |shift: f64| {
                let shifted = move |(x, y): (f64, f64)| (x, (y + shift).clamp(0.0, 1.0));
                steps(values).into_iter().map(shifted)
            };
            let outline: Vec<_> = edge(epsilon).chain(edge(-epsilon).collect::<Vec<_>>().into_iter().rev()).collect();
            chart.draw_series([Polygon::new(outline, tint(look(place).colour, 0.13))])?;
        }
        for (place, values) in sorted.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
            stroke(&mut chart, &steps(values), &look(place), 2)?;
        }
        for (place, values) in sorted.iter().enumerate() {
            if let Some(median) = quantile(values, 0.5) {
                mark(
                    &chart,
                    (median, 0.5),
                    look(place).marker,
                    5,
                    plotters::style::Color::filled(&look(place).colour),
                )?;
            }
        }
        let entries: Vec<_> = names.into_iter().enumerate().map(|(place, name)| (name, look(place))).collect();
        legend(&aside, (6, 60), &entries)
    })
}

/// Returns the corners of the steps.
fn steps(sorted: &[f64]) -> Vec<(f64, f64)> {
    let count = sorted.len() as f64;
    let mut corners: Vec<(f64, f64)> = Vec::with_capacity(sorted.len() * 2);
    for (below, value) in sorted.iter().enumerate() {
        corners.push((*value, below as f64 / count));
        corners.push((*value, (below + 1) as f64 / count));
    }
    corners
}
