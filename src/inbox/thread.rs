//! The thread that owns the database: it opens it, groups commands, purges, and writes checkpoints.
//!
//! It starts with the first command, or at once if there is a database already. While another daemon has the database, as
//! during an upgrade, commands wait for a moment and are then refused.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use slog::{Logger, error, info, warn};
use tokio::time::{Instant, sleep, timeout_at};
use unifaas_actors::inbox::{
    Command, CommandSender, EnqueueRefusal, MAX_GROUP, Store as _, StoreClosed, StoreError, StoreFact, StoreWriter,
    UnixMillis,
};

use super::{
    reset::{ResetError, begin_anew, set_aside},
    sqlite::{OpenError, SqliteStore},
    stats::InboxStats,
};
use crate::worker::{Requests, Worker};

/// Between two rounds of housekeeping, while something changes and while nothing does.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
const IDLE_HOUSEKEEPING: Duration = Duration::from_secs(30);
/// Records that are removed in one transaction, so that commands do not wait for long.
const PURGED_AT_ONCE: usize = 500;
/// How long commands wait for a database that another daemon has, and between two attempts to open it.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
const OPEN_RETRY: Duration = Duration::from_millis(50);

/// The answer to commands while the database is replaced.
const RESETTING: &str = "the inbox is being reset";

/// Where facts go.
pub type Report = Arc<dyn Fn(StoreFact) + Send + Sync>;

/// What the store's thread needs.
#[derive(Clone)]
pub struct StoreConfig {
    /// The database's file.
    pub path: PathBuf,
    /// Bytes that it may use.
    pub limit: u64,
    pub log: Logger,
}

/// The store's thread, from its first command on.
pub struct StoreThread {
    config: StoreConfig,
    stats: Arc<InboxStats>,
    state: Mutex<ThreadState>,
}

enum ThreadState {
    /// Facts go nowhere yet.
    New,
    NotStarted(Report),
    Running(Worker<Command>, Report),
    Closed(&'static str),
}

impl StoreThread {
    /// Makes a store that takes no commands yet.
    pub fn new(config: StoreConfig, stats: Arc<InboxStats>) -> Arc<Self> {
        Arc::new(Self { config, stats, state: Mutex::new(ThreadState::New) })
    }

    /// Takes commands from now on. The thread starts with the first one, or now if the database exists.
    pub fn start(&self, report: Report) {
        *self.state() = ThreadState::NotStarted(report);
        self.open_existing();
    }

    /// Starts the thread if there is a database.
    pub fn open_existing(&self) {
        if self.config.path.exists() {
            // A thread that cannot be started is tried again with the first command.
            let _ = self.with_worker(|_| ());
        }
    }

    /// Ends the thread after all commands so far, and closes the database. Blocks until then. `why` is the answer to all
    /// further commands.
    pub fn close(&self, why: &'static str) {
        let ended = std::mem::replace(&mut *self.state(), ThreadState::Closed(why));
        drop(ended);
    }

    /// Sets a damaged database aside and begins a new one. Returns the name of the damaged one. Blocks until then.
    ///
    /// # Errors
    /// It is not damaged, or files cannot be changed.
    pub fn reset(&self) -> Result<String, ResetError> {
        if !self.stats.is_damaged() {
            return Err(ResetError::NotDamaged);
        }
        let running = std::mem::replace(&mut *self.state(), ThreadState::Closed(RESETTING));
        let (worker, report) = match running {
            ThreadState::Running(worker, report) => (worker, report),
            other => {
                *self.state() = other;
                return Err(ResetError::Ending);
            }
        };
        // Ends the thread, which closes the database.
        drop(worker);
        let now = UnixMillis::now();
        let reset = set_aside(&self.config.path, now).map_err(ResetError::Rename).and_then(|aside| {
            begin_anew(&self.config.path, self.config.limit, now)?;
            Ok(aside)
        });
        let mut state = self.state();
        if !matches!(*state, ThreadState::Closed(RESETTING)) {
            return Err(ResetError::Ending);
        }
        *state = ThreadState::NotStarted(report);
        drop(state);
        self.stats.set_damaged(false);
        self.open_existing();
        reset
    }

    fn with_worker<T>(&self, act: impl FnOnce(&Worker<Command>) -> T) -> Result<T, StoreClosed> {
        let mut state = self.state();
        if let ThreadState::NotStarted(report) = &*state {
            let (config, stats) = (self.config.clone(), self.stats.clone());
            let (report, report_of_thread) = (report.clone(), report.clone());
            let thread = Thread { config, report, stats };
            let worker = Worker::on_runtime("inbox-store", async move |commands| thread.run(commands).await);
            let worker = worker.map_err(|error| StoreClosed(error.to_string()))?;
            *state = ThreadState::Running(worker, report_of_thread);
        }
        match &*state {
            ThreadState::Running(worker, _) => Ok(act(worker)),
            ThreadState::New | ThreadState::NotStarted(_) => Err(StoreClosed("the daemon starts".to_owned())),
            ThreadState::Closed(why) => Err(StoreClosed((*why).to_owned())),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ThreadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommandSender for StoreThread {
    fn send(&self, command: Command) -> Result<(), StoreClosed> {
        if !command.creates_store() && matches!(*self.state(), ThreadState::NotStarted(_)) {
            // A question does not create the database.
            command.answer_empty();
            return Ok(());
        }
        self.with_worker(|worker| worker.handle().send(command))
    }
}

/// What runs on the thread.
struct Thread {
    config: StoreConfig,
    report: Report,
    stats: Arc<InboxStats>,
}

impl Thread {
    async fn run(self, commands: Requests<Command>) {
        let _panicked = scopeguard::guard((self.stats.clone(), commands.clone()), |(stats, commands)| {
            if thread::panicking() {
                stats.set_open(false);
                stats.set_problem(Some(
                    "the thread of the inbox has failed: see the log, and restart the daemon".into(),
                ));
                // Those that wait would never be answered.
                commands.close();
                while commands.try_recv().is_ok() {}
            }
        });
        let Some(mut writer) = self.open(&commands).await else { return };
        // The log of a daemon that was killed is read at each start: it must not grow from one kill to the next.
        let written = writer.store().checkpoint();
        let (mut is_dirty, mut is_complete) = (true, written.is_ok());
        if !is_complete {
            self.log_writable(false);
        }
        self.stats.set_open(true);
        self.publish(&mut writer, written.err());
        let mut tick = Instant::now();
        loop {
            let sleep = if is_dirty || writer.has_retained() { HOUSEKEEPING } else { IDLE_HOUSEKEEPING };
            match timeout_at(tick + sleep, commands.recv()).await {
                Ok(Ok(first)) => {
                    self.run_group(&mut writer, first, &commands);
                    is_dirty = true;
                    if tick.elapsed() < HOUSEKEEPING {
                        continue;
                    }
                }
                // The queue is closed and empty.
                Ok(Err(_)) => break,
                Err(_) => {}
            }
            tick = Instant::now();
            // Tries again what could not be written.
            writer.run(Vec::new(), UnixMillis::now());
            let purged = writer.purge(UnixMillis::now(), PURGED_AT_ONCE).unwrap_or_default();
            let written = writer.store().checkpoint();
            let is_written = written.is_ok();
            if is_written != is_complete {
                is_complete = is_written;
                self.log_writable(is_written);
            }
            is_dirty = purged > 0 || !is_written;
            self.publish(&mut writer, written.err());
        }
        writer.run(Vec::new(), UnixMillis::now());
        self.stats.set_open(false);
    }

    /// Publishes what the database has, and why it takes nothing.
    fn publish(&self, writer: &mut StoreWriter<SqliteStore>, unwritten: Option<StoreError>) {
        let problem = unwritten.map(|error| format!("the inbox cannot be written: {error}"));
        let damage = writer.damage().map(ToString::to_string);
        self.stats.set_damaged(damage.is_some());
        self.stats.set_problem(damage.or(problem).or_else(|| writer.store().has_space().err()));
        let bytes = writer.store().bytes_in_use();
        self.stats.set_content(bytes, writer.dead());
    }

    fn run_group(&self, writer: &mut StoreWriter<SqliteStore>, first: Command, commands: &Requests<Command>) {
        let mut group = Vec::with_capacity(8);
        group.push(first);
        while group.len() < MAX_GROUP
            && let Ok(next) = commands.try_recv()
        {
            group.push(next);
        }
        let (count, began) = (group.len(), Instant::now());
        writer.run(group, UnixMillis::now());
        self.stats.count_group(count, began.elapsed());
    }

    fn log_writable(&self, is_written: bool) {
        let path = self.config.path.display();
        if is_written {
            info!(self.config.log, "the inbox can be written again"; "file" => %path);
        } else {
            warn!(self.config.log, "the inbox cannot be written"; "file" => %path);
        }
    }

    /// Opens the database. Returns `None` if the commands end before.
    async fn open(&self, commands: &Requests<Command>) -> Option<StoreWriter<SqliteStore>> {
        let StoreConfig { path, limit, log } = &self.config;
        let (mut patience, mut is_logged) = (Some(Instant::now() + OPEN_PATIENCE), false);
        loop {
            let (report, stats) = (self.report.clone(), self.stats.clone());
            let report = move |fact| {
                stats.count_fact(&fact);
                report(fact);
            };
            let opened = SqliteStore::open(path, *limit).and_then(|store| {
                let failed = |source| OpenError::Store { path: path.clone(), source };
                StoreWriter::open(store, UnixMillis::now(), report).map_err(failed)
            });
            let error = match opened {
                Ok(writer) => {
                    info!(log, "the inbox is open"; "file" => %path.display(), "unended" => writer.unended());
                    return Some(writer);
                }
                Err(error) => error,
            };
            let is_in_use = matches!(error, OpenError::InUse(_));
            if !is_in_use && !is_logged {
                is_logged = true;
                error!(log, "the inbox cannot be opened: asynchronous invocations are refused"; "error" => %error);
            }
            if !is_in_use || patience.is_some_and(|until| until <= Instant::now()) {
                patience = None;
            }
            let why = error.to_string();
            self.stats.set_problem(Some(why.clone()));
            self.stats.set_damaged(matches!(error, OpenError::Store { source: StoreError::Damaged(_), .. }));
            if refuse_for(commands, &why, patience.is_none(), if is_in_use { OPEN_RETRY } else { HOUSEKEEPING })
                .await
                .is_break()
            {
                return None;
            }
        }
    }
}

/// Waits, and refuses commands meanwhile if that is wanted. Breaks when there will be none.
async fn refuse_for(commands: &Requests<Command>, why: &str, refuses: bool, time: Duration) -> ControlFlow<()> {
    if !refuses {
        sleep(time).await;
        let is_over = commands.is_closed() && commands.is_empty();
        return if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    }
    let until = Instant::now() + time;
    loop {
        match timeout_at(until, commands.recv()).await {
            Ok(Ok(Command::Enqueue(_, reply))) => {
                let _ = reply.send(Err(EnqueueRefusal::Unavailable { why: why.to_owned() }));
            }
            // The dropped reply says that the store is not available.
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return ControlFlow::Break(()),
            Err(_) => return ControlFlow::Continue(()),
        }
    }
}
