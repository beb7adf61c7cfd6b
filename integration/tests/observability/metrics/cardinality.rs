//! The number of series, and how long a scrape takes.

use std::{path::Path, time::Duration};

use futures::{StreamExt, stream};
use integration::{Function, Home, Setup, is_release, ms, openmetrics_parser};

const FUNCTIONS: usize = 3_000;
/// Functions with series of their own, unless another number is set.
const NAMED: usize = 200;
const MAX_SERIES: usize = 25_000;

#[tokio::test]
async fn thousands_of_used_functions_share_a_bounded_number_of_series() {
    let home = Home::new();
    for number in 0..FUNCTIONS {
        // Their use costs no process.
        home.put(&Function::verbatim(&format!("f{number}"), "nonsense = ["));
    }
    home.put(&Function::new("last"));
    let daemon = Setup::at(&home).start().await;
    let before = daemon.metrics().await;
    assert_eq!(before.sum("unifaas_requests_total"), 0.0, "no function was used");
    assert_eq!(before.of("unifaas_requests_total").count(), 0);
    stream::iter(0..8)
        .for_each_concurrent(None, async |client| {
            let mut connection = daemon.connect().await;
            for number in (client..FUNCTIONS).step_by(8) {
                let path = format!("/invoke/f{number}/");
                let reply = connection.send(integration::request("GET", &path, integration::empty())).await.unwrap();
                reply.problem(500, "function_misconfigured");
            }
        })
        .await;
    daemon.get("/invoke/last/").await.ok();
    let metrics = daemon.metrics().await;
    println!("{} series in {:?}, {} bytes", metrics.series(), metrics.took, metrics.text.len());
    assert!(metrics.series() <= MAX_SERIES, "{}", metrics.series());
    let times: Vec<Duration> = stream::iter(0..5).then(async |_| daemon.metrics().await.took).collect().await;
    let limit = if is_release() { ms(100) } else { ms(1_000) };
    assert!(times.iter().min() <= Some(&limit), "{times:?}");
    assert_eq!(metrics.of(r#"unifaas_requests_total{function="f"#).count(), NAMED * 2, "ok, and what it was");
    let shared = metrics.value(r#"unifaas_requests_total{function="*",outcome="function_misconfigured"}"#);
    assert_eq!(shared, Some((FUNCTIONS - NAMED) as f64));
    assert_eq!(metrics.value(r#"unifaas_requests_total{function="*",outcome="ok"}"#), Some(1.0));
    assert_eq!(metrics.sum("unifaas_requests_total"), (FUNCTIONS + 1) as f64);
    let broken = metrics.value(r#"unifaas_function_state{function="*",state="misconfigured"}"#);
    assert_eq!(broken, Some((FUNCTIONS - NAMED) as f64));
    if let Some(parser) = openmetrics_parser(Path::new(env!("CARGO_TARGET_TMPDIR"))).await {
        assert_eq!(parser.samples(&metrics.text).await, metrics.series());
    }
}

#[tokio::test]
async fn removed_functions_keep_their_counts() {
    let home = Home::new();
    for name in ["a", "b", "c"] {
        home.put(&Function::new(name).ends_after(1));
    }
    let daemon = Setup::at(&home).option("--metrics-functions", "1").start().await;
    for name in ["a", "b", "c"] {
        daemon.get(&format!("/invoke/{name}/")).await.ok();
    }
    let before = daemon.metrics().await;
    for name in ["a", "b"] {
        home.remove(name);
        daemon.answers(&format!("/debug/functions/{name}"), 404).await;
        daemon.metrics().await.check_counters(&before);
    }
    home.left(1).await;
    let after = daemon.metrics().await;
    after.check_counters(&before);
    assert_eq!(after.sum("unifaas_requests_total"), 3.0);
    assert_eq!(after.of(r#"unifaas_function_state{function="a""#).count(), 0, "it has no state any more");
    for name in ["a", "b"] {
        home.put(&Function::new(name));
        daemon.answers(&format!("/debug/functions/{name}"), 200).await;
        daemon.get(&format!("/invoke/{name}/")).await.ok();
    }
    let again = daemon.metrics().await;
    again.check_counters(&after);
    assert_eq!(again.value(r#"unifaas_requests_total{function="a",outcome="ok"}"#), Some(2.0));
    assert_eq!(again.value(r#"unifaas_requests_total{function="*",outcome="ok"}"#), Some(3.0));
}
