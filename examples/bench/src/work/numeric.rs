//! Integers, floating point and memory bandwidth. Each result is checked by another way to it.

use std::{f64::consts::TAU, hint::black_box};

use crate::Problem;

/// Returns the Fibonacci number `n` modulo 2^64, by `n` additions.
pub fn fib(n: u64) -> Result<u64, Problem> {
    let (mut this, mut next) = (0_u64, 1_u64);
    for _ in 0..n {
        // Without the barrier, the compiler may find a shorter way.
        (this, next) = (next, black_box(this.wrapping_add(next)));
    }
    let expected = fib_by_doubling(n).0;
    if this == expected { Ok(this) } else { Err(Problem::Wrong(format!("fib is {this}, not {expected}"))) }
}

/// Returns the Fibonacci numbers `n` and `n + 1`, by doubling.
fn fib_by_doubling(n: u64) -> (u64, u64) {
    if n == 0 {
        return (0, 1);
    }
    let (this, next) = fib_by_doubling(n / 2);
    let even = this.wrapping_mul(next.wrapping_mul(2).wrapping_sub(this));
    let odd = this.wrapping_mul(this).wrapping_add(next.wrapping_mul(next));
    if n.is_multiple_of(2) { (even, odd) } else { (odd, even.wrapping_add(odd)) }
}

/// Transforms a cosine of `n` samples, and returns its spectral line. `n` is a power of two.
pub fn fft(n: u64) -> Result<usize, Problem> {
    let size = n as usize;
    if !size.is_power_of_two() || size < 8 {
        return Err(Problem::Usage("n must be a power of two, 8 or more".to_owned()));
    }
    let line = size / 8 + 1;
    let mut real: Vec<f64> = (0..size).map(|at| (TAU * ((at * line) % size) as f64 / size as f64).cos()).collect();
    let mut imaginary = vec![0.0; size];
    transform(&mut real, &mut imaginary);
    // The energy of a cosine lies in two lines, half of it in each.
    let energy = |at: usize| (real[at].powi(2) + imaginary[at].powi(2)).sqrt();
    let (half, tolerance) = (size as f64 / 2.0, size as f64 * 1e-9);
    let is_right = |at: usize| {
        let expected = if at == line || at == size - line { half } else { 0.0 };
        (energy(at) - expected).abs() <= tolerance
    };
    match (0..size).find(|at| !is_right(*at)) {
        None => Ok(line),
        Some(at) => Err(Problem::Wrong(format!("line {at} of the spectrum is {}", energy(at)))),
    }
}

/// The transform of Cooley and Tukey, in place.
fn transform(real: &mut [f64], imaginary: &mut [f64]) {
    let size = real.len();
    let unused = usize::BITS - size.trailing_zeros();
    for at in 0..size {
        let other = at.reverse_bits() >> unused;
        if at < other {
            real.swap(at, other);
            imaginary.swap(at, other);
        }
    }
    let twiddles: Vec<(f64, f64)> =
        (0..size / 2).map(|at| -TAU * at as f64 / size as f64).map(|angle| (angle.cos(), angle.sin())).collect();
    let mut length = 2;
    while length <= size {
        let (half, step) = (length / 2, size / length);
        for start in (0..size).step_by(length) {
            for offset in 0..half {
                let (cos, sin) = twiddles[offset * step];
                let (low, high) = (start + offset, start + offset + half);
                let (re, im) = (real[high] * cos - imaginary[high] * sin, real[high] * sin + imaginary[high] * cos);
                (real[high], imaginary[high]) = (real[low] - re, imaginary[low] - im);
                (real[low], imaginary[low]) = (real[low] + re, imaginary[low] + im);
            }
        }
        length *= 2;
    }
}

/// Multiplies two matrices of `n` by `n`, and returns the sum of the product's first row.
pub fn matrix(n: u64) -> Result<f64, Problem> {
    let n = n as usize;
    let fill = |factor: usize| -> Vec<f64> { (0..n * n).map(|at| ((at * factor) % 17) as f64 - 8.0).collect() };
    let (left, right) = (fill(7), fill(11));
    let mut product = vec![0.0; n * n];
    for (row, out) in left.chunks(n.max(1)).zip(product.chunks_mut(n.max(1))) {
        for (factor, line) in row.iter().zip(right.chunks(n)) {
            out.iter_mut().zip(line).for_each(|(sum, value)| *sum += factor * value);
        }
    }
    // Freivalds: the product times a vector is the left matrix times (the right one times the vector). All are integers that
    // a float holds exactly.
    let vector: Vec<f64> = (0..n).map(|at| (at % 3) as f64 - 1.0).collect();
    let times = |matrix: &[f64], vector: &[f64]| -> Vec<f64> {
        matrix.chunks(n.max(1)).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
    };
    if times(&product, &vector) != times(&left, &times(&right, &vector)) {
        return Err(Problem::Wrong("the product of the matrices is wrong".to_owned()));
    }
    Ok(product.iter().take(n).sum())
}
