//! Statistics against published values.

use super::*;

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected} ± {tolerance}");
}

#[test]
fn quantiles_are_those_of_type_7() {
    let ten: Vec<f64> = (1..=10).map(f64::from).collect();
    // R: quantile(1:10, c(0, .25, .5, .9, 1)).
    for (q, expected) in [(0.0, 1.0), (0.25, 3.25), (0.5, 5.5), (0.9, 9.1), (1.0, 10.0)] {
        close(quantile(&ten, q).unwrap(), expected, 1e-12);
    }
    assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 0.99)), (None, Some(7.0)));
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
}

#[test]
fn tail_quantiles_need_samples_beyond_them() {
    assert!(is_supported(100, 0.95) && !is_supported(99, 0.95));
    assert!(is_supported(500, 0.99) && !is_supported(499, 0.99));
    let hundred = Location::of((0..100).map(f64::from).collect()).unwrap();
    assert_eq!((hundred.p95, hundred.p99), (Some(94.05), None));
}

#[test]
fn outliers_are_counted_and_stay() {
    let mut values: Vec<f64> = (0..20).map(f64::from).collect();
    values.push(1000.0);
    let location = Location::of(values).unwrap();
    assert_eq!((location.outliers, location.max, location.count), (1, 1000.0, 21));
    assert_eq!(Location::of(Vec::new()), None);
}

#[test]
fn wilson_intervals_are_those_of_newcombe() {
    // Newcombe (1998), Table I, method 3.
    for (successes, trials, low, high) in
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    {
        let (from, to) = wilson(successes, trials).unwrap();
        close(from, low, 5e-5);
        close(to, high, 5e-5);
    }
    assert_eq!(wilson(0, 0), None);
}

#[test]
fn theil_sen_is_that_of_helsel_and_hirsch() {
    // Statistical Methods in Water Resources, chapter 10: an outlier does not move the line.
    let points: Vec<_> = (1..).map(f64::from).zip([1.0, 2.0, 3.0, 4.0, 5.0, 16.0, 7.0]).collect();
    assert_eq!(theil_sen(&points), Some((1.0, 0.0)));
    assert_eq!(theil_sen(&[(1.0, 2.0), (1.0, 3.0)]), None);
}

#[test]
fn dkw_band_is_that_of_the_tables() {
    close(dkw_epsilon(100), 0.1358, 5e-5);
    close(dkw_epsilon(1000), 0.0429, 5e-5);
}

#[test]
fn order_statistics_have_the_published_coverage() {
    // Conover, Practical Nonparametric Statistics: which order statistics cover the median with at least 95 %.
    for (count, from, coverage) in [(6, 1, 0.9688), (10, 2, 0.9785), (15, 4, 0.9648), (19, 5, 0.9808)] {
        let values: Vec<f64> = (1..=count).map(f64::from).collect();
        let interval = median_interval(&values, 0.95, &mut generator(1, "unused")).unwrap();
        assert_eq!((interval.low, interval.high), (f64::from(from), f64::from(count + 1 - from)), "{count}");
        assert_eq!(interval.method, Method::OrderStatistics);
        close(interval.confidence, coverage, 5e-5);
    }
    assert_eq!(median_interval(&[1.0; 5], 0.95, &mut generator(1, "unused")), None, "below six rounds");
}

#[test]
fn equal_seeds_give_equal_intervals() {
    let values: Vec<f64> = (0..40).map(|n| f64::from(n * 7919 % 101)).collect();
    let interval = |seed, purpose| median_interval(&values, 0.95, &mut generator(seed, purpose)).unwrap();
    assert_eq!(interval(5, "cold"), interval(5, "cold"));
    assert_eq!(interval(5, "cold").method, Method::Bootstrap);
    assert_ne!(generator(5, "cold"), generator(5, "warm"));
    assert_ne!(generator(5, "cold"), generator(6, "cold"));
}

#[test]
fn autocorrelation_tells_drift_from_alternation() {
    let rising: Vec<f64> = (0..50).map(f64::from).collect();
    let alternating: Vec<f64> = (0..50).map(|n| f64::from(n % 2)).collect();
    assert!(autocorrelation(&rising).unwrap() > 0.8);
    assert!(autocorrelation(&alternating).unwrap() < -0.8);
    assert_eq!(autocorrelation(&[1.0; 50]), None);
}

#[test]
fn findings_respect_the_resolution() {
    let pairs = |ratio: f64| -> Vec<(f64, f64)> {
        (0..50).map(|n| 1.0 + f64::from(n * 37 % 50) / 500.0).map(|base| (base * ratio, base)).collect()
    };
    let find = |ratio, resolution| compare(&pairs(ratio), 3, resolution, &mut generator(1, "ratio")).unwrap().finding;
    assert_eq!(find(2.0, Some(0.03)), Finding::Slower);
    assert_eq!(find(0.5, Some(0.03)), Finding::Faster);
    assert_eq!(find(1.01, Some(0.02)), Finding::Equal);
    assert_eq!(find(1.05, Some(0.10)), Finding::NotResolved);
    assert_eq!(find(2.0, None), Finding::NotResolved, "without a control");
    let few = compare(&pairs(2.0)[..5], 1, Some(0.03), &mut generator(1, "ratio")).unwrap();
    assert_eq!((few.finding, few.ratio), (Finding::TooFewRounds, 2.0));
    assert_eq!(compare(&[], 1, None, &mut generator(1, "ratio")), None);
}
