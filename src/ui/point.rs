//! What happened in a few seconds, and the small form in which it is kept.

/// What happened between two points in time. Times are in seconds, and those of requests are means.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    pub requests: f64,
    pub failed: f64,
    pub cold: f64,
    /// Requests that waited at its end.
    pub queue: f64,
    /// Instances that were ready at its end.
    pub instances: f64,
    pub mean: f64,
    pub wait: f64,
    pub boot: f64,
    /// The 50th, 95th and 99th percentiles. `None`: no request ended.
    pub quantiles: Option<[f64; 3]>,
}

/// A point as it is kept.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed)]
pub struct Packed {
    requests: u16,
    failed: u16,
    cold: u16,
    queue: u16,
    instances: u16,
    mean: u16,
    wait: u16,
    boot: u16,
    quantiles: [u8; 3],
}

impl From<Point> for Packed {
    fn from(point: Point) -> Self {
        Self {
            requests: half(point.requests),
            failed: half(point.failed),
            cold: half(point.cold),
            queue: half(point.queue),
            instances: half(point.instances),
            mean: half(point.mean),
            wait: half(point.wait),
            boot: half(point.boot),
            quantiles: point.quantiles.map_or([0; 3], |quantiles| quantiles.map(level)),
        }
    }
}

impl From<Packed> for Point {
    fn from(packed: Packed) -> Self {
        let quantiles = packed.quantiles;
        Self {
            requests: whole(packed.requests),
            failed: whole(packed.failed),
            cold: whole(packed.cold),
            queue: whole(packed.queue),
            instances: whole(packed.instances),
            mean: whole(packed.mean),
            wait: whole(packed.wait),
            boot: whole(packed.boot),
            quantiles: (quantiles != [0; 3]).then(|| quantiles.map(value)),
        }
    }
}

/// Returns a number in the format bfloat16, which has 8 bits of precision.
fn half(number: f64) -> u16 {
    let bits = (number as f32).to_bits();
    ((bits + 0x8000) >> 16) as u16
}

fn whole(half: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(half) << 16))
}

/// The shortest duration that differs from zero, in seconds, and the ratio of one level to the next.
const SHORTEST: f64 = 50e-6;
const RATIO: f64 = 1.06;

/// Returns the level of a duration; the first is 1.
fn level(seconds: f64) -> u8 {
    ((seconds.max(SHORTEST) / SHORTEST).ln() / RATIO.ln()).round().clamp(0.0, 254.0) as u8 + 1
}

fn value(level: u8) -> f64 {
    SHORTEST * RATIO.powi(i32::from(level) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_kept_with_little_loss() {
        let point = Point {
            requests: 2061.0,
            failed: 3.0,
            cold: 1.0,
            queue: 37.0,
            instances: 4.0,
            mean: 0.0123,
            wait: 0.0081,
            boot: 0.0,
            quantiles: Some([0.0004, 0.08, 90.0]),
        };
        let kept = Point::from(Packed::from(point));
        let close = |a: f64, b: f64, loss: f64| (a - b).abs() <= b.abs() * loss;
        assert!(close(kept.requests, point.requests, 0.004) && close(kept.mean, point.mean, 0.004), "{kept:?}");
        assert_eq!((kept.failed, kept.queue, kept.boot), (3.0, 37.0, 0.0));
        for (kept, value) in kept.quantiles.unwrap().into_iter().zip(point.quantiles.unwrap()) {
            assert!(close(kept, value, 0.03), "{kept} {value}");
        }
        assert_eq!(Point::from(Packed::from(Point::default())), Point::default());
    }
}
