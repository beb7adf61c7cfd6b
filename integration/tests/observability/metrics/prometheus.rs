//! Debian's Prometheus scrapes the daemon.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use integration::{Connection, Function, Home, Setup, empty, eventually, request, shipped, tools};
use serde_json::Value;
use tokio::process::{Child, Command};

/// A Prometheus that scrapes one daemon several times a second. It ends when dropped.
struct Prometheus {
    listen: SocketAddr,
    _process: Child,
}

impl Prometheus {
    /// `None`: it is not installed.
    async fn scraping(target: SocketAddr, home: &Path) -> Option<Self> {
        let program = tools::program("prometheus")?;
        let config = home.join("prometheus.yml");
        let rules = shipped("packaging/prometheus/unifaas.rules.yml").canonicalize().unwrap();
        let text = format!(
            "global: {{ scrape_interval: 250ms, evaluation_interval: 250ms }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: unifaas, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        fs::write(&config, text).unwrap();
        let log = home.join("prometheus.log");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", home.join("prometheus").display()));
        command.arg("--web.listen-address=127.0.0.1:0");
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).kill_on_drop(true);
        let process = command.spawn().expect("prometheus can be run");
        let address = |text: &str| {
            let lines = text.lines().filter(|line| line.contains("\"Listening on\""));
            lines.filter_map(|line| line.split("address=").nth(1)?.trim().parse().ok()).next()
        };
        let text = async || fs::read_to_string(&log).unwrap_or_default();
        let text = eventually(Duration::from_secs(60), "it listens", text, |text| address(text).is_some()).await;
        Some(Self { listen: address(&text)?, _process: process })
    }

    /// Returns the rules, once each has been evaluated.
    async fn alerts(&self) -> Vec<Value> {
        let rules = async || {
            let mut connection = Connection::open(self.listen).await.expect("it serves");
            let reply = connection.send(request("GET", "/api/v1/rules", empty())).await.expect("an answer").ok();
            reply.json()["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default()
        };
        let evaluated = |rules: &Vec<Value>| rules.iter().all(|rule| rule["health"] != "unknown");
        eventually(Duration::from_secs(60), "the rules are evaluated", rules, evaluated).await
    }

    /// Returns the result of a query, a list.
    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let Ok(mut connection) = Connection::open(self.listen).await else { return Vec::new() };
        let path = format!("/api/v1/query?query={encoded}");
        let Ok(reply) = connection.send(request("GET", &path, empty())).await else { return Vec::new() };
        if reply.status != 200 {
            assert_eq!(reply.status, 503, "it starts: {query}: {}", reply.text());
            return Vec::new();
        }
        reply.json()["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a query has a result, and returns the value of the first.
    async fn value(&self, query: &str) -> String {
        let found = eventually(
            Duration::from_secs(60),
            format!("{query} has a result"),
            async || self.query(query).await,
            |found| !found.is_empty(),
        );
        found.await[0]["value"][1].as_str().unwrap_or_default().to_owned()
    }
}

/// Returns the queries of the Grafana dashboard, with its variables set to everything.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(shipped("packaging/grafana/unifaas.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let query = |target: &Value| {
        let mut query = target["expr"].as_str().unwrap().to_owned();
        for (variable, value) in [("$__rate_interval", "1m"), ("$job", ".*"), ("$instance", ".*"), ("$function", ".*")]
        {
            query = query.replace(variable, value);
        }
        query
    };
    targets.map(query).collect()
}

#[tokio::test]
async fn prometheus_scrapes_the_daemon_and_answers_every_query_of_the_dashboard() {
    let home = Home::new();
    let daemon = Setup::default().function(Function::new("f").ends_after(0.2)).start().await;
    let Some(prometheus) = Prometheus::scraping(daemon.listen, &home.path("")).await else { return };
    assert_eq!(prometheus.value("up").await, "1");
    daemon.get("/invoke/f/").await.ok();
    assert_eq!(prometheus.value(r#"unifaas_requests_total{function="f"} == 1"#).await, "1");
    assert_eq!(prometheus.value(r#"count(unifaas_request_duration_seconds_bucket{function="f"})"#).await, "15");
    daemon.measured("an instance has ended", |metrics| metrics.sum("unifaas_instances_ended_total") == 1.0).await;
    daemon.get("/invoke/f/").await.ok();
    let queries = dashboard_queries();
    assert!(queries.len() > 20, "{}", queries.len());
    for query in queries {
        assert!(!query.contains('$'), "{query}");
        // A rate needs two scrapes.
        prometheus.value(&query).await;
    }
    let alerts = prometheus.alerts().await;
    assert_eq!(alerts.len(), 8, "{alerts:?}");
    for alert in alerts {
        assert_eq!(alert["health"], "ok", "{alert}");
    }
}

#[tokio::test]
async fn alerts_are_raised_when_they_should_be() {
    let Some(promtool) = tools::program("promtool") else { return };
    let rules = shipped("packaging/prometheus/unifaas.rules.yml");
    tools::run(&promtool, ["check", "rules", rules.to_str().unwrap()]).await;
    let home = Home::new();
    let tests = include_str!("rules_test.yml").replace("RULES", rules.canonicalize().unwrap().to_str().unwrap());
    fs::write(home.path("tests.yml"), tests).unwrap();
    tools::run(&promtool, ["test", "rules", home.path("tests.yml").to_str().unwrap()]).await;
}
