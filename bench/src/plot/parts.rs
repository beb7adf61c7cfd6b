//! Stacked parts: where the time of a request goes.

use plotters::{element::Rectangle, style::Color as _};

use super::{
    axis::Axis,
    canvas::{Texts, document, fitted, frame, legend, tint},
    style::{INK, Look, Marker, look},
};

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct PartsRow {
    /// The contestant.
    pub name: String,
    /// Its parts, in the order of the names.
    pub parts: Vec<f64>,
}

const ROW: u32 = 40;
const FRAME: u32 = 120;
const LEFT: u32 = 250;
const LEGEND: i32 = 130;
const HALF: f64 = 0.32;
/// The least height, so that the legend has room.
const MIN_HEIGHT: u32 = 250;

/// Draws a bar for each contestant.
pub fn parts(texts: &Texts, names: &[&str], rows: &[PartsRow]) -> String {
    let height = (FRAME + ROW * rows.len() as u32).max(MIN_HEIGHT);
    document(texts, height, |root| {
        let (area, aside) = root.split_horizontally(960 - LEGEND);
        let totals = rows.iter().map(|row| row.parts.iter().sum::<f64>());
        let high = totals.fold(0.0, f64::max).max(1e-6) * 1.04;
        let (labels, left) = fitted(rows.iter().map(|row| row.name.as_str()), 8, LEFT);
        let axes = (Axis::Linear { low: 0.0, high }, Axis::Categories(labels));
        let mut chart = frame(&area, texts, left, axes)?;
        for (place, row) in rows.iter().enumerate() {
            let y = place as f64;
            let mut from = 0.0;
            for (part, length) in row.parts.iter().enumerate() {
                let corners = [(from, y - HALF), (from + length, y + HALF)];
                chart.draw_series([Rectangle::new(corners, tint(look(part).colour, 0.85))])?;
                // A line around each keeps parts apart in black and white.
                chart.draw_series([Rectangle::new(corners, INK.stroke_width(1))])?;
                from += length;
            }
        }
        let entries: Vec<_> = names.iter().enumerate().map(|(part, name)| ((*name).to_owned(), swatch(part))).collect();
        legend(&aside, (4, 60), &entries)
    })
}

/// The key of a part is a square on a solid line.
fn swatch(part: usize) -> Look {
    Look { dash: (1, 0), marker: Marker::Square, ..look(part) }
}
