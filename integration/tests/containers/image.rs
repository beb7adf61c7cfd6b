//! What an image says of itself: its command, its signal, its user, its ports, its health check.

use futures::join;
use integration::{AT_ONCE, Function, IMAGE, SOON, eventually};

use crate::{BOOT_TIMEOUT, shared};

/// Returns a function with an image, and no command.
fn of_image(name: &str, image: &str, top: &str, keys: &str) -> Function {
    Function::verbatim(name, &format!("{top}\n[container]\nimage = \"{image}\"\n{keys}\n"))
}

/// The command of an image that serves without a callback.
const SERVES: &str = "CMD [\"/testfn\", \"none\", \"--callbacks\", \"0\"]";

#[tokio::test]
async fn image_without_entry_point_needs_readiness_or_command() {
    let Some(engine) = shared() else { return };
    engine.derive("unifaas/command-only", &["ENTRYPOINT []", SERVES]);
    let daemon = engine
        .setup()
        .function(of_image("default", "unifaas/command-only", "", ""))
        .function(of_image("guarded", "unifaas/command-only", "", "runtime = \"runsc\""))
        .function(of_image("under-init", "unifaas/command-only", "", "init = true"))
        .function(of_image("by-port", "unifaas/command-only", "readiness = \"tcp\"", ""))
        .start()
        .await;
    for function in ["default", "guarded"] {
        let problem = daemon.get(&format!("/invoke/{function}/")).await.problem(502, "start_failed");
        let said = problem["detail"].as_str().unwrap();
        let expected = "image \"unifaas/command-only\" has no entry point, so the callback URL was executed as its program: \
                        set `readiness = \"tcp\"` to run the command of the image, or give a `command` in [container]";
        assert!(said.starts_with(expected), "{said}");
        engine.none_left(function).await;
    }
    // The engine's init finds out only inside.
    let problem = daemon.get("/invoke/under-init/").await.problem(502, "boot_failed").to_string();
    assert!(problem.contains("exited with status 127"), "{problem}");
    assert!(problem.contains("the argument of its entry point was the callback URL"), "{problem}");
    daemon.get("/invoke/by-port/pid").await.ok();
}

#[tokio::test]
async fn stop_signal_of_image_is_sent() {
    let Some(engine) = shared() else { return };
    engine.derive("unifaas/quits", &["STOPSIGNAL SIGQUIT"]);
    let command = "command = [\"%callback\", \"--ignore-sigterm\"]\ninit = true";
    let daemon = engine
        .daemon(of_image("quits", "unifaas/quits", "keepalive = 0.2\nkeep-paused = 0\nstop-grace = 30", command))
        .await;
    daemon.get("/invoke/quits/pid").await.ok();
    // SIGTERM would take until the end of the grace.
    let left = async || engine.containers("unifaas-quits-").await.len();
    eventually(SOON, "it has ended", left, |left| *left == 0).await;
}

#[tokio::test]
async fn user_of_image_is_kept_unless_configured() {
    let Some(engine) = shared() else { return };
    engine.derive("unifaas/user", &["USER 1234:5678"]);
    let daemon = engine
        .setup()
        .function(of_image("usual", "unifaas/user", "", ""))
        .function(of_image("other", "unifaas/user", "", "user = \"4321\""))
        .start()
        .await;
    assert_eq!(daemon.get("/invoke/usual/uid").await.ok().text(), "1234");
    assert_eq!(daemon.get("/invoke/other/uid").await.ok().text(), "4321");
}

#[tokio::test]
async fn exposed_port_is_reported_if_no_other_is_seen() {
    let Some(engine) = shared() else { return };
    engine.derive("unifaas/exposes", &["EXPOSE 9000", "EXPOSE 53/udp"]);
    let keys = "command = [\"none\", \"--callbacks\", \"0\", \"--boot-delay\", \"60000\"]";
    let timeout = format!("boot-timeout = {BOOT_TIMEOUT}");
    let daemon = engine
        .setup()
        .function(of_image("by-port", "unifaas/exposes", &format!("readiness = \"tcp\"\n{timeout}"), keys))
        .function(of_image("by-callback", "unifaas/exposes", &timeout, keys))
        .start()
        .await;
    let (by_port, by_callback) = join!(daemon.get("/invoke/by-port/"), daemon.get("/invoke/by-callback/"));
    let said = by_port.problem(504, "boot_timed_out").to_string();
    assert!(said.contains("its image exposes 9000: set `port = 9000` if it listens there"), "{said}");
    let said = by_callback.problem(504, "boot_timed_out")["detail"].to_string();
    assert!(said.contains("it never called back") && said.contains("`port = 9000`"), "{said}");
}

#[tokio::test]
async fn failing_health_check_is_reported_and_ends_nothing() {
    let Some(engine) = shared() else { return };
    let check = "HEALTHCHECK --interval=1s --retries=1 CMD [\"/testfn\", \"none\", \"--exit-at-boot\", \"1\"]";
    engine.derive("unifaas/unwell", &[check]);
    let daemon = engine.daemon(of_image("unwell", "unifaas/unwell", "", "")).await;
    let first = daemon.get("/invoke/unwell/env?name=HOSTNAME").await.ok().text();
    let output = async || daemon.instances("unwell").await[0]["output"].to_string();
    let is_reported = |output: &String| output.contains("the HEALTHCHECK of the image fails");
    eventually(SOON, "it is reported", output, is_reported).await;
    let is_logged = |log: &String| log.contains("the health check of the image fails");
    eventually(AT_ONCE, "it is logged", async || daemon.log(), is_logged).await;
    assert_eq!(daemon.get("/invoke/unwell/env?name=HOSTNAME").await.ok().text(), first);
}

#[tokio::test]
async fn python_in_containers_prints_at_once() {
    let Some(engine) = shared() else { return };
    let daemon = engine
        .setup()
        .function(of_image("usual", IMAGE, "", ""))
        .function(of_image("buffered", IMAGE, "env = { PYTHONUNBUFFERED = \"\" }", ""))
        .start()
        .await;
    assert_eq!(daemon.get("/invoke/usual/env?name=PYTHONUNBUFFERED").await.ok().text(), "1");
    assert_eq!(daemon.get("/invoke/buffered/env?name=PYTHONUNBUFFERED").await.ok().text(), "");
}
