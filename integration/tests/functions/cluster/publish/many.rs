//! More published functions than a heartbeat has room for.

use futures::future::join_all;

use super::*;

const FUNCTIONS: usize = 40;
/// Commands at once.
const AT_ONCE: usize = 4;

#[tokio::test]
async fn versions_of_many_functions_are_known_to_all_nodes() {
    let Some((home, _server, a, b)) = two().await else { return };
    let names: Vec<_> = (0..FUNCTIONS).map(|index| format!("f{index}")).collect();
    let root = home.path("published");
    for names in names.chunks(AT_ONCE) {
        let ran = names.iter().map(async |name| {
            Function::new(name).env("VERSION", "1").write(&root, &home);
            publish(&a, &root.join(name), &["--copies", "2"]).await
        });
        for ran in join_all(ran).await {
            assert_eq!(ran.status, Some(0), "{ran:?}");
        }
    }
    for (daemon, served_by) in [(&a, "a, b"), (&b, "b, a")] {
        let listed = async || daemon.cli(&["versions"]).await.out;
        let is_complete = |out: &String| out.lines().filter(|line| line.contains(served_by)).count() == FUNCTIONS;
        eventually(2 * SOON, format!("{FUNCTIONS} functions are served by {served_by}"), listed, is_complete).await;
    }
    let ps = b.cli(&["ps"]).await.out;
    assert!(
        ps.lines().next().is_some_and(|heading| heading.contains(" KIND ") && heading.contains(" VERSION ")),
        "{ps}"
    );
    let digits = published(&b, "f0").await["serves"].as_str().unwrap()[..12].to_owned();
    let is_shown = |line: &str| line.starts_with("f0 ") && line.contains(&digits);
    assert!(ps.lines().any(is_shown), "{digits}: {ps}");
}
