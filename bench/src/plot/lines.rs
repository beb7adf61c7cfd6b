//! Lines with bands: a metric over a number, such as the size of a burst.

use plotters::{element::Polygon, style::Color as _};

use super::{
    axis::Axis,
    canvas::{Texts, document, fitted, frame, legend, mark, stroke, tint},
    style::look,
};

/// A point with its band.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinePoint {
    /// The number.
    pub x: f64,
    /// The metric.
    pub y: f64,
    /// The interval, or the range of the rounds.
    pub band: Option<(f64, f64)>,
}

/// A contestant.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points, by growing numbers.
    pub points: Vec<LinePoint>,
}

const HEIGHT: u32 = 520;
const LEFT: u32 = 72;
const LEGEND: u32 = 230;
/// Points from which on markers would hide the line.
const MAX_MARKED: usize = 30;

/// Draws a line for each contestant.
pub fn lines(texts: &Texts, all: &[Line]) -> String {
    document(texts, HEIGHT, |root| {
        let (names, width) = fitted(all.iter().map(|line| line.name.as_str()), 56, LEGEND);
        let (area, aside) = root.split_horizontally(960 - width as i32);
        let xs = all.iter().flat_map(|line| line.points.iter().map(|point| point.x));
        let ys = all.iter().flat_map(|line| {
            line.points.iter().flat_map(|point| {
                let (low, high) = point.band.unwrap_or((point.y, point.y));
                [low, point.y, high]
            })
        });
        let mut chart = frame(&area, texts, LEFT, (Axis::fitting(xs), Axis::fitting(ys)))?;
        for (place, line) in all.iter().enumerate() {
            let banded = line.points.iter().filter_map(|point| Some((point.x, point.band?)));
            let upper = banded.clone().map(|(x, (_, high))| (x, high));
            let lower: Vec<_> = banded.map(|(x, (low, _))| (x, low)).collect();
            let outline: Vec<_> = upper.chain(lower.into_iter().rev()).collect();
            if outline.len() > 2 {
                chart.draw_series([Polygon::new(outline, tint(look(place).colour, 0.15))])?;
            }
        }
        for (place, line) in all.iter().enumerate() {
            let (points, look) = (line.points.iter().map(|point| (point.x, point.y)), look(place));
            stroke(&mut chart, &points.clone().collect::<Vec<_>>(), &look, 2)?;
            for point in points.filter(|_| line.points.len() <= MAX_MARKED) {
                mark(&chart, point, look.marker, 4, look.colour.filled())?;
            }
        }
        let entries: Vec<_> = names.into_iter().enumerate().map(|(place, name)| (name, look(place))).collect();
        legend(&aside, (6, 60), &entries)
    })
}
