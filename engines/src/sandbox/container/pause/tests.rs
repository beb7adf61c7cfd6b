//! What the engine is asked for. The other ways are tested with real containers.

use futures::FutureExt;
use tokio::task::LocalSet;

use super::{
    super::mock_engine::{OLD, mock_engine},
    *,
};

const DONE: &str = "204 ";
const REFUSED: &str = r#"500 {"message":"Container c is not paused"}"#;
const RUNS: &str = r#"200 {"State":{"Status":"running","Paused":false}}"#;
const IS_PAUSED: &str = r#"200 {"State":{"Status":"paused","Paused":true}}"#;
const PAUSE: &str = "POST pause";
const UNPAUSE: &str = "POST unpause";
const INSPECT: &str = "GET json";

/// Calls `act` with the pauser of a container whose processes are not of this host, at an engine with these answers.
/// Returns what the engine was asked for.
async fn asked(answers: &'static [&'static str], act: impl AsyncFnOnce(&Pauser)) -> Vec<String> {
    let asked = async {
        let (_directory, engine, asked) = mock_engine(answers);
        let pauser = Pauser::new(Rc::new(engine), "c".to_owned(), None, None);
        act(&pauser).await;
        let asked = asked.borrow();
        let asked = asked.iter().filter_map(|line| line.split_once(" HTTP")?.0.split_once("/containers/c/"));
        asked.map(|(method, call)| format!("{} {call}", method.split(' ').next().unwrap())).collect()
    };
    LocalSet::new().run_until(asked).await
}

#[tokio::test]
async fn engine_pauses_what_is_not_of_this_host() {
    let calls = asked(&[OLD, DONE], async |pauser| {
        let mut events = pauser.external_pauses().unwrap();
        for _ in 0..2 {
            pauser.pause().await.unwrap();
            pauser.engine_has(true);
            pauser.thaw();
            assert!(pauser.is_paused());
            pauser.resume().await.unwrap();
            pauser.engine_has(false);
            assert!(!pauser.is_paused());
        }
        pauser.resume().await.unwrap();
        assert_eq!(events.next().now_or_never(), None, "it was no other program");
    });
    assert_eq!(calls.await, [PAUSE, UNPAUSE, PAUSE, UNPAUSE]);
}

#[tokio::test]
async fn pause_by_another_program_is_reported_and_undone() {
    let calls = asked(&[OLD, DONE], async |pauser| {
        let mut events = pauser.external_pauses().unwrap();
        for _ in 0..2 {
            pauser.engine_has(true);
            pauser.engine_has(true);
            assert_eq!(events.next().now_or_never(), Some(Some(())));
            assert_eq!(events.next().now_or_never(), None, "it was reported twice");
            pauser.pause().await.unwrap();
            pauser.resume().await.unwrap();
        }
        pauser.engine_has(true);
        pauser.engine_has(false);
        pauser.resume().await.unwrap();
    });
    assert_eq!(calls.await, [UNPAUSE, UNPAUSE]);
}

#[tokio::test]
async fn refusal_to_resume_counts_if_the_container_is_paused() {
    let calls = asked(&[OLD, DONE, REFUSED, RUNS], async |pauser| {
        pauser.pause().await.unwrap();
        pauser.resume().await.unwrap();
        assert!(!pauser.is_paused());
    });
    assert_eq!(calls.await, [PAUSE, UNPAUSE, INSPECT]);
    let calls = asked(&[OLD, DONE, REFUSED, IS_PAUSED, DONE], async |pauser| {
        pauser.pause().await.unwrap();
        pauser.resume().await.unwrap_err();
        pauser.resume().await.unwrap();
    });
    assert_eq!(calls.await, [PAUSE, UNPAUSE, INSPECT, UNPAUSE]);
}

#[tokio::test]
async fn pause_that_fails_is_undone() {
    const NO: &str = r#"500 {"message":"no freezer"}"#;
    let calls = asked(&[OLD, NO, NO, DONE], async |pauser| {
        let error = pauser.pause().await.unwrap_err();
        assert!(error.to_string().contains("no freezer") && !pauser.is_paused(), "{error}");
    });
    assert_eq!(calls.await, [PAUSE, PAUSE, UNPAUSE]);
}

#[tokio::test]
async fn memory_is_known_while_nothing_else_can_resume_the_container() {
    let directory = tempfile::tempdir().unwrap();
    let used = directory.path().join("memory.current");
    std::fs::write(&used, "4096\n").unwrap();
    let usage = MemoryUsage::new(used.clone(), used, 0);
    let check = async {
        let (_directory, engine, _) = mock_engine(&[OLD, DONE]);
        let engine = Rc::new(engine);
        let pauser = |usage| Pauser::new(engine.clone(), "c".to_owned(), None, usage);
        let counted = pauser(Some(usage));
        assert_eq!(counted.footprint(), None, "it runs");
        counted.pause().await.unwrap();
        assert_eq!(counted.footprint(), Some(4096));
        counted.resume().await.unwrap();
        counted.engine_has(true);
        assert_eq!(counted.footprint(), None, "another program has paused it");
        let elsewhere = pauser(None);
        elsewhere.pause().await.unwrap();
        assert_eq!(elsewhere.footprint(), None);
    };
    LocalSet::new().run_until(check).await;
}

#[tokio::test]
async fn nothing_that_ends_is_paused() {
    let calls = asked(&[OLD, DONE], async |pauser| {
        pauser.end();
        pauser.pause().await.unwrap();
    });
    assert_eq!(calls.await, [""; 0]);
}

#[tokio::test]
async fn leftover_is_resumed_if_the_engine_has_paused_it() {
    for (found, calls) in [(IS_PAUSED, &[INSPECT, UNPAUSE][..]), (RUNS, &[INSPECT])] {
        let answers: &'static [&'static str] = Box::leak(Box::new([OLD, found, DONE]));
        let asked = asked(answers, async |pauser| resume_leftover(&pauser.engine, "c").await);
        assert_eq!(asked.await, calls);
    }
}
