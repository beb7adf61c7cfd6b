//! The life cycle of virtual machines, under each VMM.

use bytes::Bytes;
use futures::{future::join_all, stream};
use integration::{
    AT_ONCE, Daemon, SOON, eventually, ms, number, processes, request, streamed,
    vm::{self, KINDS, Kind, Vm, daemon, isolated, setup, taps, traces},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

async fn pid(daemon: &Daemon) -> u32 {
    u32::try_from(number(&daemon.instances("f").await[0], "pid")).unwrap()
}

async fn until_no_instance_is_left(daemon: &Daemon) {
    daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
}

/// Runs a test for each VMM in turn, in the same namespace.
fn under_each<F: Future<Output = ()>>(test: impl Fn(Kind) -> F + Send + 'static) {
    isolated(move || async move {
        for kind in KINDS {
            test(kind).await;
            assert_eq!(traces(), Vec::<String>::new(), "{kind:?} left something behind");
        }
    });
}

#[test]
fn vm_serves_requests() {
    under_each(async |kind| {
        let mut daemon = daemon(Vm::new("f", kind)).await;
        let reply = daemon.get("/invoke/f/hello").await.ok();
        assert!(reply.text().starts_with("Hello from the unikernel at 10.100."), "{}", reply.text());
        let body = "x".repeat(100_000);
        assert_eq!(daemon.post("/invoke/f/echo", &body).await.ok().text(), body);
        assert_eq!(daemon.get("/invoke/f/nothing").await.status, 404);
        let function = daemon.function("f").await;
        assert_eq!(number(&function, "instances_started"), 1);
        let instance = &function["instances"][0];
        assert!(instance["resources"].to_string().contains("tap faas"), "{instance}");
        assert!(instance["output"].to_string().contains("unikernel: ready"), "{instance}");
        daemon.end().await;
    });
}

#[test]
fn output_of_crashed_vm_is_found_by_id() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind)).await;
        daemon.get("/invoke/f/hello").await.ok();
        // The guest prints it after the answer to its callback, which a request can overtake.
        let greets = |function: &Value| function["instances"][0]["output"].to_string().contains("unikernel: ready");
        daemon.settled("f", "its instance has printed that it is ready", greets).await;
        let failed = daemon.post("/invoke/f/crash", "").await.problem(502, "instance_failed");
        let page = daemon.ended_instance(failed["instance"].as_str().unwrap()).await;
        assert_eq!((&page["cause"], number(&page, "served")), (&"exited".into(), 2));
        let lines = page["output"].as_array().unwrap();
        let greeting = lines.iter().find(|line| line["text"].as_str().unwrap().contains("unikernel: ready"));
        assert_eq!(greeting.map(|line| &line["stream"]), Some(&"console".into()), "{page}");
        let last = lines.last().unwrap();
        assert_eq!(
            (&last["stream"], last["text"].as_str().unwrap().split(':').next()),
            (&"platform".into(), Some("ended"))
        );
        drop(daemon);
    });
}

#[test]
fn start_of_a_vm_has_all_phases_in_order() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind)).await;
        daemon.get("/invoke/f/hello").await.ok();
        let boot = daemon.boots("f").await.remove(0);
        let expected = match kind {
            Kind::Firecracker => "firecracker",
            Kind::Microvm => "microvm",
            Kind::Qemu => "qemu",
        };
        assert_eq!((&boot["kind"], &boot["result"]), (&expected.into(), &"ready".into()));
        let end = |phase: &str| boot["phases"][phase].as_u64().unwrap_or_else(|| panic!("no {phase} in {boot}"));
        let ends = ["admitted", "resources", "created", "started", "first_output", "ready", "first_byte"].map(end);
        assert!(ends.is_sorted(), "{boot}");
        let function = daemon.function("f").await;
        let boot_us = function["boot_seconds"]["sum"].as_f64().unwrap() * 1e6;
        assert!(((end("ready") - end("admitted")) as f64 - boot_us).abs() < 1000.0, "{boot_us}: {boot}");
        drop(daemon);
    });
}

#[test]
fn single_use_vm_serves_one_request() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind).set("single-use", true)).await;
        for _ in 0..3 {
            daemon.get("/invoke/f/").await.ok();
        }
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 3);
        until_no_instance_is_left(&daemon).await;
        drop(daemon);
    });
}

#[test]
fn waiting_requests_share_boot() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind).set("concurrent-requests", 8)).await;
        for reply in join_all((0..8).map(|_| daemon.get("/invoke/f/hello"))).await {
            reply.ok();
        }
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
    });
}

#[test]
fn keepalive_counts_from_the_last_byte() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind).ends_after(0.4)).await;
        let pieces = stream::unfold(0, async |piece| {
            tokio::time::sleep(ms(200)).await;
            (piece < 5).then(|| (Bytes::from("piece\n"), piece + 1))
        });
        let reply = daemon.send(request("POST", "/invoke/f/echo", streamed(pieces))).await.unwrap().ok();
        assert_eq!(reply.text(), "piece\n".repeat(5));
        assert!(reply.took > ms(1000), "{:?}", reply.took);
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
        until_no_instance_is_left(&daemon).await;
    });
}

#[test]
fn killed_vm_is_replaced() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind)).await;
        daemon.get("/invoke/f/").await.ok();
        processes::signal(pid(&daemon).await, Signal::SIGKILL);
        let killed = Instant::now();
        daemon.settled("f", "noticed", |function| !function["instances"].to_string().contains("idle")).await;
        assert!(killed.elapsed() < AT_ONCE, "{kind:?}: noticed after {:?}", killed.elapsed());
        until_no_instance_is_left(&daemon).await;
        daemon.get("/invoke/f/").await.ok();
        daemon.logged("killed by signal 9").await;
    });
}

#[test]
fn killed_vm_fails_its_requests_at_once() {
    under_each(async |kind| {
        let mut daemon = daemon(Vm::new("f", kind).set("concurrent-requests", 2)).await;
        daemon.get("/invoke/f/").await.ok();
        let endless = || {
            let (mut pieces, body) = futures::channel::mpsc::unbounded();
            pieces.start_send(Bytes::from("a")).unwrap();
            (pieces, streamed(body))
        };
        let ((_more, pending_body), (_even_more, echoed)) = (endless(), endless());
        let (_connection, response) = daemon.start(request("POST", "/invoke/f/echo", echoed)).await;
        let mut answer = integration::Pieces::of(response);
        assert_eq!(answer.next().await.unwrap().unwrap(), "a");
        let connection = &mut daemon.connect().await;
        let (reply, killed) = futures::join!(connection.send(request("POST", "/invoke/f/", pending_body)), async {
            daemon.settled("f", "two under way", |function| number(&function["instances"][0], "in_flight") == 2).await;
            processes::signal(pid(&daemon).await, Signal::SIGKILL);
            Instant::now()
        });
        let problem = reply.unwrap().problem(502, "instance_failed").to_string();
        assert!(problem.contains("ended before it answered: killed by signal 9"), "{problem}");
        assert!(answer.next().await.unwrap().is_err(), "half an answer looks like a whole one");
        assert!(killed.elapsed() < AT_ONCE, "{kind:?}: {:?}", killed.elapsed());
        daemon.get("/invoke/f/").await.ok();
        daemon.end().await;
    });
}

#[test]
fn crashed_guest_is_reported_and_replaced() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind)).await;
        daemon.get("/invoke/f/").await.ok();
        let reply = daemon.get("/invoke/f/crash").await;
        reply.problem(502, "instance_failed");
        until_no_instance_is_left(&daemon).await;
        daemon.get("/invoke/f/").await.ok();
        daemon.logged("the guest has reset itself").await;
    });
}

#[test]
fn missing_callback_is_504() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind).silent().set("boot-timeout", 3)).await;
        let reply = daemon.get("/invoke/f/").await;
        reply.problem(504, "boot_timed_out");
        until_no_instance_is_left(&daemon).await;
    });
}

#[test]
fn exit_while_booting_is_502_with_last_output() {
    under_each(async |kind| {
        let daemon = daemon(Vm::new("f", kind).cmdline("unused=%callback")).await;
        let problem = daemon.get("/invoke/f/").await.problem(502, "boot_failed").to_string();
        assert!(problem.contains("ip= is missing"), "{kind:?}: {problem}");
    });
}

#[test]
fn vmm_error_is_in_response() {
    isolated(|| async {
        let daemon = daemon(Vm::new("f", Kind::Qemu).hypervisor("args", "[\"-no-such-option\"]")).await;
        let problem = daemon.get("/invoke/f/").await.problem(502, "boot_failed").to_string();
        assert!(problem.contains("QEMU exited with status 1") && problem.contains("no-such-option"), "{problem}");
    });
}

#[test]
fn drain_finishes_requests() {
    under_each(async |kind| {
        let mut daemon = daemon(Vm::new("f", kind)).await;
        daemon.get("/invoke/f/").await.ok();
        let pieces = stream::unfold(0, async |piece| {
            tokio::time::sleep(ms(100)).await;
            (piece < 5).then(|| (Bytes::from("piece\n"), piece + 1))
        });
        let (_connection, response) = daemon.start(request("POST", "/invoke/f/echo", streamed(pieces))).await;
        daemon.signal(Signal::SIGTERM);
        let body = integration::Pieces::of(response);
        let text = text_of(body).await;
        assert_eq!(text, "piece\n".repeat(5));
        assert_eq!(daemon.ended().await.status.code(), Some(0));
    });
}

async fn text_of(mut pieces: integration::Pieces) -> String {
    let mut text = String::new();
    while let Some(piece) = pieces.next().await {
        text += &String::from_utf8_lossy(&piece.expect("a whole body"));
    }
    text
}

#[test]
fn signal_ends_vms_in_every_state() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        under_each(move |kind| async move {
            let setup = setup().option("--drain-grace", "0.5");
            let setup = setup.function(Vm::new("f", kind).into());
            let setup = setup.function(Vm::new("booting", kind).silent().into());
            let mut daemon = setup.function(Vm::new("idle", kind).set("min-instances", 2).into()).start().await;
            daemon.until("idle", "idle", 2).await;
            daemon.get("/invoke/f/").await.ok();
            let pieces = stream::unfold((), async |()| {
                tokio::time::sleep(ms(50)).await;
                Some((Bytes::from("endless\n"), ()))
            });
            let _busy = daemon.start(request("POST", "/invoke/f/echo", streamed(pieces))).await;
            let mut waiter = daemon.connect().await;
            tokio::spawn(async move { waiter.send(request("GET", "/invoke/booting/", integration::empty())).await });
            daemon.until("booting", "booting", 1).await;
            assert!(taps().len() >= 4);
            daemon.signal(signal);
            let ending = daemon.ended().await;
            assert_eq!(ending.status.code(), Some(0));
            assert!(ending.took < AT_ONCE, "{:?}", ending.took);
            let files: Vec<_> = std::fs::read_dir(daemon.home.path("state/instances")).unwrap().flatten().collect();
            assert!(files.is_empty(), "{files:?}");
        });
    }
}

#[test]
fn vms_end_with_killed_daemon_and_next_one_cleans_up() {
    under_each(async |kind| {
        let mut first = daemon(Vm::new("f", kind).set("min-instances", 2)).await;
        first.until("f", "idle", 2).await;
        let home = first.home.clone();
        first.signal(Signal::SIGKILL);
        first.ended().await;
        eventually(SOON, "the VMs have ended", async || vm::processes(), Vec::is_empty).await;
        assert!(!taps().is_empty(), "no daemon was there to remove them");
        let second = vm::prepared(integration::Setup::at(&home)).start().await;
        second.until("f", "idle", 2).await;
        second.get("/invoke/f/").await.ok();
        assert!(taps().len() <= 2 + 4, "{:?}", taps());
    });
}

/// Removes every tap without the daemon.
fn remove_taps() {
    for tap in taps() {
        vm::ip(&format!("link del {tap}"));
    }
}

#[test]
fn removed_tap_fails_request_at_once() {
    under_each(async |kind| {
        let mut daemon = daemon(Vm::new("f", kind)).await;
        daemon.get("/invoke/f/").await.ok();
        // The unikernel does not answer before the end of the request body.
        let (mut pieces, body) = futures::channel::mpsc::unbounded();
        pieces.start_send(Bytes::from("a")).unwrap();
        let connection = &mut daemon.connect().await;
        let (reply, ()) = futures::join!(connection.send(request("POST", "/invoke/f/", streamed(body))), async {
            daemon.until("f", "busy", 1).await;
            remove_taps();
        });
        let reply = reply.unwrap();
        let problem = reply.problem(502, "instance_failed").to_string();
        assert!(problem.contains("network interface faas"), "{problem}");
        assert!(reply.took < AT_ONCE, "{:?}", reply.took);
        // The removal of a prepared tap may be noticed after its use.
        daemon.answers("/invoke/f/", 200).await;
        daemon.end().await;
    });
}

#[test]
fn removed_prepared_taps_are_not_used() {
    isolated(async || {
        let vm = Vm::new("f", Kind::any()).set("single-use", true);
        let mut daemon = setup().option("--tap-pool", "3").function(vm.into()).start().await;
        daemon.get("/invoke/f/").await.ok();
        until_no_instance_is_left(&daemon).await;
        for _ in 0..3 {
            eventually(SOON, "taps are prepared", async || taps(), |taps| taps.len() >= 3).await;
            remove_taps();
            daemon.logged("a tap was removed").await;
            // Each is replaced when its removal is noticed.
            eventually(SOON, "taps are prepared again", async || taps(), |taps| taps.len() >= 3).await;
            daemon.get("/invoke/f/").await.ok();
            until_no_instance_is_left(&daemon).await;
        }
        daemon.end().await;
        assert_eq!(traces(), Vec::<String>::new());
    });
}
