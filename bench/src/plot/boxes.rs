//! Boxes with every value beside them: quartiles, median, and a mark for each round.

use plotters::{
    element::{Circle, PathElement, Rectangle},
    style::{Color as _, RGBColor, ShapeStyle},
};

use super::{
    axis::Axis,
    canvas::{Texts, document, fitted, frame, tint},
    style::{INK, look},
};
use crate::stats::{quantile, sorted};

/// A row of boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxRow {
    /// The contestant.
    pub name: String,
    /// Its values, in the order of the rounds.
    pub values: Vec<f64>,
    /// The interval of the median.
    pub interval: Option<(f64, f64)>,
    /// Whether the processor is emulated: such rows are hatched.
    pub is_emulated: bool,
    /// Rows of the same group have the same colour.
    pub group: usize,
}

const ROW: u32 = 44;
const FRAME: u32 = 120;
const LEFT: u32 = 250;
/// Half the height of a box, relative to its row.
const HALF: f64 = 0.26;
/// Distance of the marks from the middle of the row.
const MARKS: f64 = 0.38;
/// Lines of a hatching across the plot.
const HATCHES: u32 = 60;

/// Draws a row for each contestant.
pub fn boxes(texts: &Texts, rows: &[BoxRow]) -> String {
    let height = FRAME + ROW * rows.len() as u32;
    document(texts, height, |area| {
        let (names, left) = fitted(rows.iter().map(|row| row.name.as_str()), 8, LEFT);
        let all = rows.iter().flat_map(|row| row.values.iter().copied());
        let x = Axis::fitting(all);
        let ends = plotters::coord::ranged1d::Ranged::range(&x);
        let mut chart = frame(area, texts, left, (x, Axis::Categories(names)))?;
        for (place, row) in rows.iter().enumerate() {
            let (y, colour) = (place as f64, look(row.group).colour);
            let sorted = sorted(row.values.clone());
            let at = |q| quantile(&sorted, q);
            let (Some(low), Some(middle), Some(high)) = (at(0.25), at(0.5), at(0.75)) else { continue };
            let box_of = |style: ShapeStyle| Rectangle::new([(low, y - HALF), (high, y + HALF)], style);
            chart.draw_series([box_of(tint(colour, 0.25))])?;
            if row.is_emulated {
                chart.draw_series(hatches(&ends, low, high, y, colour))?;
            }
            chart.draw_series([box_of(colour.stroke_width(1))])?;
            if let Some((from, to)) = row.interval {
                let style = INK.stroke_width(1);
                chart.draw_series([
                    PathElement::new([(from, y), (to, y)], style),
                    PathElement::new([(from, y - 0.1), (from, y + 0.1)], style),
                    PathElement::new([(to, y - 0.1), (to, y + 0.1)], style),
                ])?;
            }
            chart.draw_series([PathElement::new([(middle, y - HALF), (middle, y + HALF)], INK.stroke_width(3))])?;
            chart.draw_series(
                row.values.iter().map(|value| Circle::new((*value, y + MARKS), 2, colour.mix(0.7).filled())),
            )?;
        }
        Ok(())
    })
}

/// Returns the lines of a hatched box.
fn hatches(
    ends: &std::ops::Range<f64>,
    low: f64,
    high: f64,
    y: f64,
    colour: RGBColor,
) -> impl Iterator<Item = PathElement<(f64, f64)>> {
    let step = (ends.end - ends.start) / f64::from(HATCHES);
    let places = (0..HATCHES * 2).map(move |line| low + f64::from(line) * step);
    places
        .take_while(move |x| *x < high)
        .map(move |x| PathElement::new([(x, y + HALF), ((x + step).min(high), y - HALF)], colour.stroke_width(1)))
}
