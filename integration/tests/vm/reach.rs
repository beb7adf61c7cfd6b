//! Virtual machines that are not where they are expected, or say nothing. The unikernel listens on port 8080.

use integration::{
    AT_ONCE, Daemon, ms, number,
    vm::{KINDS, Kind, Vm, daemon, isolated},
};

/// Invokes `f`, which cannot be reached. Returns the detail of the failure, which took one start.
async fn failure(daemon: &Daemon, status: u16, code: &str) -> String {
    let problem = daemon.get("/invoke/f/").await.problem(status, code);
    assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
    problem["detail"].as_str().unwrap().to_owned()
}

#[test]
fn callback_without_listener_is_one_failed_start() {
    isolated(async || {
        for kind in KINDS {
            let mut daemon = daemon(Vm::new("f", kind).set("port", 9090)).await;
            let said = failure(&daemon, 502, "boot_failed").await;
            assert!(said.starts_with("the instance called back, but refused connections to 10.100."), "{said}");
            let advice = ":9090; it has to listen on this address, and `port` chooses another port";
            assert!(said.ends_with(advice), "{said}");
            daemon.end().await;
        }
    });
}

#[test]
fn guest_behind_forwarded_port_is_reached() {
    isolated(async || {
        let daemon = daemon(Vm::new("f", Kind::Microvm).vm("network", "\"user\"")).await;
        for _ in 0..3 {
            daemon.get("/invoke/f/hello").await.ok();
        }
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
    });
}

/// The unikernel resolves one address a second, and its first one is that of its callback.
#[test]
fn first_response_over_a_user_mode_network_waits_for_no_address() {
    isolated(async || {
        let daemon = daemon(Vm::new("f", Kind::Microvm).vm("network", "\"user\"").set("single-use", true)).await;
        let mut fastest = f64::INFINITY;
        for _ in 0..3 {
            let timing = daemon.get("/invoke/f/hello").await.ok().header("server-timing").unwrap();
            let upstream = timing.split(", ").find_map(|part| part.strip_prefix("upstream;dur=")).unwrap();
            fastest = fastest.min(upstream.parse().unwrap());
        }
        assert!(fastest < 800.0, "the fastest of three first responses took {fastest} ms");
    });
}

#[test]
fn boot_timeout_says_what_was_seen() {
    isolated(async || {
        let silent = |port: u16| Vm::new("f", Kind::Microvm).silent().set("boot-timeout", 5).set("port", port);
        let advice = "if it needs no callback, set `readiness = \"tcp\"`";
        let open = daemon(silent(8080)).await;
        let said = failure(&open, 504, "boot_timed_out").await;
        assert!(said.contains("it never called back, but it accepts connections to 10.100."), "{said}");
        assert!(said.ends_with(&format!(":8080; {advice}")), "{said}");
        drop(open);
        let elsewhere = daemon(silent(9090)).await;
        let reply = elsewhere.get("/invoke/f/").await;
        assert!(reply.took < ms(5000) + AT_ONCE, "{:?}", reply.took);
        assert!(reply.text().contains("it never called back; if it needs no callback"), "{}", reply.text());
        drop(elsewhere);
        let by_port = daemon(silent(9090).set("readiness", "\"tcp\"")).await;
        let said = failure(&by_port, 504, "boot_timed_out").await;
        assert!(said.contains("it refused connections to 10.100.") && said.contains(":9090;"), "{said}");
    });
}
