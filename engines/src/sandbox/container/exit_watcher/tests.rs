//! Which events report exits and pauses, and what is logged.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use slog::{Discard, Drain, Level, Never, OwnedKVList, Record, o};

use super::*;

fn watcher() -> Rc<ExitWatcher> {
    watcher_with_log(Logger::root(Discard, o!()))
}

fn watcher_with_log(log: Logger) -> Rc<ExitWatcher> {
    ExitWatcher::new(Rc::new(Engine::at("unix:///nowhere/docker.sock".to_owned())), log)
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Drain for Warnings {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        self.0.fetch_add(usize::from(record.level() == Level::Warning), Ordering::Relaxed);
        Ok(())
    }
}

fn event(action: &str, id: &str, attributes: &str) -> EventMessage {
    let text =
        format!(r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}}}}}}}"#);
    serde_json::from_str(&text).unwrap()
}

/// Returns the exit of container `c` that these events report, after all of them.
async fn told(events: &[EventMessage]) -> Option<ContainerExit> {
    let events = events.to_vec();
    let local = task::LocalSet::new();
    let told = local.run_until(async move {
        let watcher = watcher();
        let mut told = watcher.exit_of("c", OutputLog::default(), Logger::root(Discard, o!()));
        for event in events {
            assert_eq!(watcher.apply(event), None);
        }
        let out_of_memory = *told.out_of_memory.borrow();
        match told.exit.try_recv().ok() {
            Some(ContainerExit::Died { code, .. }) => Some(ContainerExit::Died { code, out_of_memory }),
            exit => exit,
        }
    });
    told.await
}

#[tokio::test]
async fn reports_exit_code_of_death() {
    let end = told(&[event("die", "other", r#""exitCode":"1""#), event("die", "c", r#""exitCode":"137""#)]).await;
    assert_eq!(end, Some(ContainerExit::Died { code: Some(137), out_of_memory: false }));
}

#[tokio::test]
async fn reports_out_of_memory_before_and_after_the_death() {
    assert_eq!(told(&[event("oom", "c", "")]).await, None);
    let (oom, died) = (event("oom", "c", ""), event("die", "c", r#""exitCode":"137""#));
    for events in [[oom.clone(), died.clone()], [died.clone(), oom]] {
        assert_eq!(told(&events).await, Some(ContainerExit::Died { code: Some(137), out_of_memory: true }));
    }
    assert_eq!(
        told(&[died, event("oom", "other", "")]).await,
        Some(ContainerExit::Died { code: Some(137), out_of_memory: false })
    );
}

#[tokio::test]
async fn reports_removal_without_death_and_each_exit_once() {
    assert_eq!(told(&[event("destroy", "c", "")]).await, Some(ContainerExit::Removed));
    let end = told(&[event("die", "c", r#""exitCode":"0""#), event("destroy", "c", "")]).await;
    assert_eq!(end, Some(ContainerExit::Died { code: Some(0), out_of_memory: false }));
    assert_eq!(told(&[event("start", "c", ""), event("exec_die", "c", r#""exitCode":"1""#)]).await, None);
}

#[tokio::test(start_paused = true)]
async fn absent_engine_ends_no_container_and_is_logged_once() {
    task::LocalSet::new()
        .run_until(async {
            let warnings = Warnings::default();
            let watcher = watcher_with_log(Logger::root(warnings.clone(), o!()));
            let mut told = watcher.exit_of("c", OutputLog::default(), Logger::root(Discard, o!()));
            time::sleep(Duration::from_secs(60)).await;
            assert!(told.exit.try_recv().is_err() && watcher.running.get());
            assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
            drop(told);
            time::sleep(Duration::from_secs(60)).await;
            assert!(!watcher.running.get(), "no exit is waited for");
        })
        .await;
}

#[tokio::test]
async fn inspects_container_after_disconnect() {
    let disconnected = |action: &str, id: &str| -> EventMessage {
        let text = format!(
            r#"{{"Type":"network","Action":"{action}","Actor":{{"ID":"n","Attributes":{{"container":"{id}"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let looks = async {
        let watcher = watcher();
        let _told = watcher.exit_of("c", OutputLog::default(), Logger::root(Discard, o!()));
        let events = [("disconnect", "c"), ("connect", "c"), ("disconnect", "other")];
        events.map(|(action, id)| watcher.apply(disconnected(action, id)))
    };
    assert_eq!(task::LocalSet::new().run_until(looks).await, [Some("c".to_owned()), None, None]);
}
