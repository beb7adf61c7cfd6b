//! The format, and the names in the documentation.

use std::{collections::BTreeSet, path::Path};

use integration::{Daemon, Function, Setup, openmetrics_parser, shipped};

/// Returns the names in the first column of the documentation's table of metrics.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(shipped("docs/observability.md")).unwrap();
    let section =
        text.split("\n## ").find(|section| section.starts_with("Metrics\n")).expect("a section about metrics");
    let first_cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    first_cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

#[tokio::test]
async fn each_metric_is_documented_and_no_other() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/").await.ok();
    assert_eq!(daemon.metrics().await.names(), documented());
}

#[tokio::test]
async fn strict_parser_reads_every_sample() {
    let Some(parser) = openmetrics_parser(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    let broken = Function::verbatim("broken", "nonsense = [");
    let setup = Setup::default().function(Function::new("f")).function(broken).option("--admin-listen", "127.0.0.1:0");
    let daemon = setup.start().await;
    assert!(parser.samples(&daemon.metrics().await.text).await > 0, "nothing was used");
    daemon.get("/invoke/f/").await.ok();
    daemon.get("/invoke/broken/").await.problem(500, "function_misconfigured");
    daemon.get("/invoke/f/exit?code=3").await.problem(502, "instance_failed");
    let metrics =
        daemon.measured("the instance has ended", |metrics| metrics.sum("unifaas_instances_ended") > 0.0).await;
    assert_eq!(
        parser.samples(&metrics.text).await,
        metrics.series(),
        "as many as there are lines, so none is repeated"
    );
    assert!(metrics.value(r#"unifaas_connections{listener="admin"}"#).is_some_and(|open| open >= 1.0));
}

#[tokio::test]
async fn metrics_are_shown_like_other_admin_pages() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut proxied = integration::request("GET", "/metrics", integration::empty());
    proxied.headers_mut().insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
    assert_eq!(daemon.send(proxied).await.unwrap().status, 404);
    let head = daemon.send(integration::request("HEAD", "/metrics", integration::empty())).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(daemon.post("/metrics", "").await.status, 404);
}
