//! What is counted, seen from outside.

use std::time::Duration;

use futures::join;
use integration::{
    Answer, Daemon, Function, Load, Metrics, Outcome, Setup, Workload, cgroups_are_usable, ms, processes, within,
};
use nix::sys::signal::Signal;

/// Returns the number of a function's samples of a histogram, and their sum.
fn histogram(metrics: &Metrics, name: &str, labels: &str) -> (f64, f64) {
    let value = |suffix: &str| metrics.value(&format!("{name}_{suffix}{{{labels}}}")).unwrap_or_default();
    (value("count"), value("sum"))
}

#[tokio::test]
async fn requests_are_counted_with_their_status_bytes_and_times() {
    let daemon = Daemon::with(Function::new("f").flag("--boot-delay").flag("200")).await;
    daemon.post("/invoke/f/received", "12345").await.ok();
    assert_eq!(daemon.get("/invoke/f/status/404").await.status, 404);
    assert_eq!(daemon.get("/invoke/f/status/500").await.status, 500);
    daemon.get("/invoke/f/sleep?ms=300").await.ok();
    daemon.get("/invoke/f/bytes?n=100000").await.ok();
    let metrics = daemon.metrics().await;
    let value = |sample: &str| metrics.value(sample).unwrap_or_else(|| panic!("no {sample} in\n{}", metrics.text));
    assert_eq!(value(r#"unifaas_requests_total{function="f",outcome="ok"}"#), 5.0);
    assert_eq!(metrics.sum("unifaas_requests_total"), 5.0, "zeros are left out");
    for (class, count) in [("2xx", 3.0), ("4xx", 1.0), ("5xx", 1.0)] {
        assert_eq!(value(&format!(r#"unifaas_responses_total{{function="f",class="{class}"}}"#)), count);
    }
    assert_eq!(value(r#"unifaas_request_bytes_total{function="f"}"#), 5.0);
    assert!(value(r#"unifaas_response_bytes_total{function="f"}"#) >= 100_000.0);
    let (count, sum) = histogram(&metrics, "unifaas_request_duration_seconds", r#"function="f""#);
    assert!(count == 5.0 && sum >= 0.5, "{count} requests in {sum} s, among them a boot and a sleep");
    let buckets = metrics.of(r#"unifaas_request_duration_seconds_bucket{le="0.1"#).map(|(_, count)| count);
    assert!(buckets.sum::<f64>() <= 3.0, "two took longer than 100 ms");
    assert_eq!(value(r#"unifaas_request_duration_seconds_bucket{le="+Inf",function="f"}"#), 5.0);
    assert_eq!(value(r#"unifaas_cold_requests_total{function="f"}"#), 1.0);
    let (boots, took) = histogram(&metrics, "unifaas_boot_duration_seconds", r#"function="f""#);
    assert!(boots == 1.0 && took >= 0.2, "{took}");
    let (waits, waited) = histogram(&metrics, "unifaas_request_wait_seconds", r#"function="f",for="boot""#);
    assert!(waits == 1.0 && (0.2..=took + 0.001).contains(&waited), "{waited} of {took}");
    let (ready, _) = histogram(&metrics, "unifaas_boot_phase_seconds", r#"kind="process",phase="ready""#);
    assert_eq!(ready, 1.0);
    // A busy daemon notices late that the program was executed, so the delay may be in another phase.
    let phases = metrics.sum("unifaas_boot_phase_seconds_sum");
    assert!(phases >= 0.2, "{phases}");
    assert_eq!(value("unifaas_draining"), 0.0);
    assert!(metrics.of("unifaas_build_info{version=").all(|(_, value)| value == 1.0));
    assert!(value("process_open_fds") > 10.0 && value("process_max_fds") > value("process_open_fds"));
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_virtual_memory_bytes") > 1e6);
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
        - value("process_start_time_seconds");
    assert!((-2.0..600.0).contains(&age), "{age}");
}

#[tokio::test]
async fn present_figures_show_what_is_going_on() {
    let function = Function::new("f").set("max-instances", 1).process("memory", 64);
    let daemon = Setup::default().function(function).option("--memory-budget", "512").start().await;
    let watch = async {
        let busy = |metrics: &Metrics| {
            let one = |name: &str| metrics.value(&format!(r#"unifaas_{name}{{function="f"}}"#)) == Some(1.0);
            one("requests_in_flight") && one("queue_length")
        };
        daemon.measured("one is served and one waits", busy).await
    };
    let requests = async { join!(daemon.get("/invoke/f/sleep?ms=1500"), daemon.get("/invoke/f/sleep?ms=1500")) };
    let (metrics, _) = join!(watch, requests);
    for (sample, expected) in [
        (r#"unifaas_function_state{function="f",state="serving"}"#, 1.0),
        (r#"unifaas_function_state{function="f",state="failing"}"#, 0.0),
        (r#"unifaas_function_memory_bytes{function="f",what="declared"}"#, 67_108_864.0),
        ("unifaas_memory_budget_bytes", 536_870_912.0),
        ("unifaas_memory_taken_bytes", 67_108_864.0),
        ("unifaas_functions_waiting", 0.0),
        (r#"unifaas_connections_limit{listener="front"}"#, 4096.0),
        ("unifaas_log_lines_lost_total", 0.0),
    ] {
        assert_eq!(metrics.value(sample), Some(expected), "{sample}");
    }
    let instances = metrics.sum(r#"unifaas_instances{function="f""#);
    let starting = metrics.sum("unifaas_starts_in_progress");
    assert!(instances == 1.0 && starting <= 1.0, "{instances} {starting}");
    assert!(metrics.value(r#"unifaas_connections{listener="front"}"#).is_some_and(|open| open >= 2.0));
    let after = daemon.metrics().await;
    assert_eq!(after.value(r#"unifaas_instances{function="f",state="idle"}"#), Some(1.0));
    assert_eq!(after.value(r#"unifaas_requests_in_flight{function="f"}"#), Some(0.0));
}

#[tokio::test]
async fn waits_for_a_slot_a_boot_and_the_host_are_told_apart() {
    let small = |name: &str| Function::new(name).process("memory", 64);
    let functions = [small("busy").set("max-instances", 1), small("other"), small("late").set("queue-timeout", 0.3)];
    let setup = functions.into_iter().fold(Setup::default(), Setup::function).option("--memory-budget", "64");
    let daemon = setup.start().await;
    daemon.get("/invoke/busy/").await.ok();
    let second = async {
        daemon.until("busy", "busy", 1).await;
        join!(daemon.get("/invoke/busy/"), daemon.get("/invoke/other/"), daemon.get("/invoke/late/"))
    };
    let (_, (slot, host, late)) = join!(daemon.get("/invoke/busy/sleep?ms=1000"), second);
    slot.ok();
    host.ok();
    late.problem(503, "host_saturated");
    let metrics = daemon.metrics().await;
    let waits = |function: &str, reason: &str| {
        histogram(&metrics, "unifaas_request_wait_seconds", &format!(r#"function="{function}",for="{reason}""#))
    };
    assert!(waits("busy", "slot").1 >= 0.5, "{metrics:?}");
    assert_eq!((waits("busy", "host").0, waits("other", "slot").0), (0.0, 0.0));
    let (count, sum) = waits("other", "host");
    assert!(count == 1.0 && sum >= 0.5, "{sum}");
    assert_eq!(waits("other", "boot").0, 1.0);
    assert!(waits("late", "host").1 >= 0.29 && waits("late", "slot").0 == 0.0, "{:?}", waits("late", "host"));
}

#[tokio::test]
async fn ends_have_causes_and_states_have_functions() {
    let hungry = Function::new("hungry").process("memory", 64);
    let broken = Function::new("broken").flag("--exit-at-boot").flag("3");
    let single = Function::new("single").set("single-use", true);
    let wrong = Function::verbatim("wrong", "nonsense = [");
    let functions = [Function::new("f"), hungry, broken, single, wrong];
    let daemon = functions.into_iter().fold(Setup::default(), Setup::function).start().await;
    daemon.get("/invoke/f/exit?code=3").await.problem(502, "instance_failed");
    daemon.get("/invoke/single/").await.ok();
    for _ in 0..3 {
        assert_eq!(daemon.get("/invoke/broken/").await.status / 100, 5);
    }
    daemon.get("/invoke/wrong/").await.problem(500, "function_misconfigured");
    let ended = |metrics: &Metrics, function: &str, cause: &str| {
        let sample = format!(r#"unifaas_instances_ended_total{{function="{function}",cause="{cause}"}}"#);
        metrics.value(&sample).unwrap_or_default()
    };
    let all = |metrics: &Metrics| {
        ended(metrics, "f", "exited") >= 1.0
            && ended(metrics, "single", "single_use") == 1.0
            && ended(metrics, "broken", "boot_failed") >= 1.0
            && metrics.value(r#"unifaas_function_state{function="broken",state="failing"}"#) == Some(1.0)
    };
    let metrics = daemon.measured("all have ended", all).await;
    assert_eq!(metrics.value(r#"unifaas_function_state{function="wrong",state="misconfigured"}"#), Some(1.0));
    assert_eq!(
        metrics.value(r#"unifaas_requests_total{function="wrong",outcome="function_misconfigured"}"#),
        Some(1.0)
    );
    assert!(metrics.value(r#"unifaas_instances_started_total{function="f"}"#) >= Some(1.0));
    if cgroups_are_usable().await {
        daemon.get("/invoke/hungry/").await.ok();
        let used = daemon.metrics().await.value(r#"unifaas_function_memory_bytes{function="hungry",what="used"}"#);
        assert!(used.is_some_and(|used| used > 0.0 && used < 64e6 * 1.1), "{used:?}");
        daemon.get("/invoke/hungry/allocate?mib=500").await.problem(502, "instance_failed");
        daemon.measured("out of memory", |metrics| ended(metrics, "hungry", "out_of_memory") >= 1.0).await;
    }
}

#[tokio::test]
async fn refused_callbacks_and_lost_connections_are_counted() {
    let setup = Setup::default()
        .function(Function::new("f"))
        .option("--max-connections", "8")
        .option("--admin-listen", "127.0.0.1:0");
    let daemon = setup.start().await;
    let mut callback = integration::Connection::open(daemon.callback).await.unwrap();
    let unknown = integration::request("GET", "/ready/0123456789abcdef0123456789abcdef", integration::empty());
    let _ = callback.send(unknown).await;
    let mut kept = Vec::new();
    for _ in 0..12 {
        kept.push(daemon.connect().await);
    }
    // Which of the two depends on which worker accepts a connection.
    let lost = |metrics: &Metrics| metrics.sum(r#"unifaas_connections_refused_total{listener="front""#) >= 4.0;
    let metrics = daemon.measured("connections were evicted or refused", lost).await;
    assert_eq!(metrics.value("unifaas_callbacks_refused_total"), Some(1.0));
    assert_eq!(metrics.value(r#"unifaas_connections_limit{listener="front"}"#), Some(8.0));
}

/// Counts the requests that have reached the function `f`.
fn of_function(answers: &[Answer]) -> f64 {
    let reached = |answer: &&Answer| match &answer.outcome {
        Outcome::Function { .. } => true,
        Outcome::Platform { code, .. } => code != "no_such_function",
        Outcome::NoAnswer { .. } => panic!("each request is answered: {answer:?}"),
    };
    answers.iter().filter(|answer| answer.function == "f").filter(reached).count() as f64
}

#[tokio::test]
async fn outcomes_add_up_under_load_kills_reloads_and_removal() {
    let function = |keepalive: u32| Function::new("f").set("keepalive", keepalive).set("max-instances", 4);
    let daemon = Daemon::with(function(60)).await;
    let work = |path, clients| Workload { method: "GET", path, clients, pause: ms(1) };
    let load = Load::on(daemon.listen, &[work("/invoke/f/sleep?ms=2", 4), work("/invoke/f/status/503", 2)]);
    let mut earlier = daemon.metrics().await;
    for round in 0..6 {
        tokio::time::sleep(ms(200)).await;
        match round % 3 {
            0 => {
                let some = daemon.home.processes().into_iter().take(2);
                for pid in some {
                    processes::signal(pid, Signal::SIGKILL);
                }
            }
            1 => daemon.home.put(&function(60 + round)),
            _ => {
                daemon.home.remove("f");
                daemon.answers("/debug/functions/f", 404).await;
                daemon.home.put(&function(60 + round));
                daemon.answers("/debug/functions/f", 200).await;
            }
        }
        let metrics = daemon.metrics().await;
        metrics.check_counters(&earlier);
        earlier = metrics;
    }
    let answers = within(Duration::from_secs(60), "the load ends", load.stop()).await;
    let of_load = of_function(&answers);
    let metrics = daemon.metrics().await;
    metrics.check_counters(&earlier);
    let requests = metrics.sum(r#"unifaas_requests_total{function="f""#);
    assert_eq!(requests, of_load, "{metrics:?}");
    let durations = metrics.value(r#"unifaas_request_duration_seconds_count{function="f"}"#);
    assert_eq!(durations, Some(requests));
    let [started, ended, present] = ["started_total", "ended_total", ""]
        .map(|suffix| metrics.sum(&format!("unifaas_instances{}{suffix}{{", if suffix.is_empty() { "" } else { "_" })));
    assert!(started >= 4.0 && ended >= 2.0 && (started - ended - present).abs() <= 4.0, "{started} {ended} {present}");
}
