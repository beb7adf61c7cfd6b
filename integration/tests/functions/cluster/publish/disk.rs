//! A full disk: what cannot be kept is refused, or fetched later, and nothing of it is left.

use integration::fill_disk;

use super::*;

/// Returns what is below `state/functions` of a node, sorted.
fn files(daemon: &Daemon, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(daemon.inside("state/functions").join(directory)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn full_disk_is_named_and_the_version_before_is_served() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root mounts a small disk");
        return;
    }
    let Some((_home, server)) = server().await else { return };
    let a = node(&server, "a", []).await;
    let b = settings(&server, "b", Setup::default()).on_a_small_disk("8m").start().await;
    knows(&a, 1, 0).await;
    knows(&b, 1, 0).await;
    follows(&[&a, &b]).await;
    let ran = publish(&a, &version(&a.home, Function::new("f"), 1), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "f", 1).await;
    let before = files(&b, "f");

    let ballast = b.inside("state/ballast");
    fill_disk(&ballast, 600 << 10);
    let says_why = |text: &str| text.contains("state/functions") && text.contains("No space left on device");
    let ran = publish(&a, &version(&a.home, Function::new("f"), 2), &["--copies", "2", "--wait", "2s"]).await;
    assert!(ran.status != Some(0) && ran.err.contains("not yet: b"), "{ran:?}");
    let problem = async || published(&b, "f").await["problem"].as_str().unwrap_or_default().to_owned();
    eventually(SOON, "the problem", problem, |problem| says_why(problem)).await;
    let logged = async || b.log().lines().filter(|line| line.contains("No space left on device")).count();
    eventually(SOON, "the log has it", logged, |lines| *lines > 0).await;
    let other = version(&a.home, Function::new("g"), 3);
    let ran = publish(&b, &other, &[]).await;
    assert!(ran.status != Some(0) && says_why(&ran.err), "{ran:?}");
    serve(&[&b], "f", 1).await;
    eventually(SOON, "nothing is left", async || files(&b, ".staging"), Vec::is_empty).await;
    assert_eq!((files(&b, "f"), files(&b, "g")), (before, Vec::new()));

    // Enough for the file of 1 MiB once.
    fs::remove_file(&ballast).unwrap();
    fill_disk(&ballast, 1400 << 10);
    serve(&[&b], "f", 2).await;
    fs::remove_file(&ballast).unwrap();
    let ran = publish(&b, &other, &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "g", 3).await;
    assert_eq!(logged().await, 1, "in the log once, however often it was tried");
}
