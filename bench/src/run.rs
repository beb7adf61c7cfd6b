//! A run, from its arguments to its files and its exit status.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{runtime, time::sleep};

use crate::{
    clock, compare,
    daemon::Place,
    error::BenchError,
    experiments::{self, Session},
    host::{Machine, Noise, NoiseMeter, throttled},
    interrupt::Interrupt,
    list, lock,
    options::{BenchArgs, BenchCommand, CompareArgs, Experiment, PageCache, RunArgs},
    plan::{Plan, Schedule},
    progress::Progress,
    registry::{self, Source},
    remote, report,
    results::{Results, SCHEMA},
    summary::FunctionInfo,
    trace,
};

/// What the daemon's program knows.
#[derive(Debug)]
pub struct Host {
    /// This program.
    pub program: PathBuf,
    /// Its version.
    pub version: String,
    /// Where `serve` keeps its state by default.
    pub state: PathBuf,
    /// Returns whether there is KVM that runs guests on the processor.
    pub has_kvm: fn() -> bool,
}

/// Something has failed; the rest is written.
const FAILED: u8 = 1;
/// Wrong arguments, or nothing can be measured.
const USAGE: u8 = 2;
/// The second of two folders is worse.
const REGRESSION: u8 = 3;
/// Ended by a signal.
const INTERRUPTED: u8 = 130;
/// The looks for a quiet machine.
const QUIET_WINDOW: Duration = Duration::from_secs(1);

/// Runs `unifaas bench`.
pub fn run(arguments: &BenchArgs, host: &Host) -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&BenchError::System("the runtime", error)),
    };
    let result = runtime.block_on(async {
        match &arguments.command {
            Some(BenchCommand::Report { results }) => report_again(results),
            Some(BenchCommand::Compare(arguments)) => compared(arguments),
            Some(BenchCommand::Trace(command)) => trace::run(command).map(|()| ExitCode::SUCCESS),
            Some(BenchCommand::List(arguments)) => list::list(arguments, host).await,
            None => measure(&arguments.run, host).await,
        }
    });
    match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &BenchError) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "unifaas bench: {error}");
    ExitCode::from(match error {
        BenchError::Usage(_) => USAGE,
        BenchError::Interrupted => INTERRUPTED,
        _ => FAILED,
    })
}

/// Evaluates the samples of a folder again, and writes everything but the samples.
fn report_again(out: &Path) -> Result<ExitCode, BenchError> {
    let mut results = Results::read(out)?;
    report::write(out, &mut results)?;
    print(&format!("{}\n", out.join("report.html").display()));
    Ok(ExitCode::SUCCESS)
}

/// Compares two folders.
fn compared(arguments: &CompareArgs) -> Result<ExitCode, BenchError> {
    let found = compare::compare(&arguments.before, &arguments.after, arguments.threshold, arguments.force)?;
    print(&found.text());
    Ok(if found.has_regression() { ExitCode::from(REGRESSION) } else { ExitCode::SUCCESS })
}

pub fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Reads the functions that the arguments choose.
pub async fn sources(
    arguments: &RunArgs,
    host: &Host,
    place: Option<Place>,
) -> Result<(Vec<Source>, Vec<registry::Damaged>), BenchError> {
    let (sources, damaged) = match (place, &arguments.registry) {
        (Some(place), _) => remote::sources(place, &arguments.functions).await?,
        (None, Some(registry)) => registry::read(registry, &arguments.functions, (host.has_kvm)())?,
        (None, None) => return Err(BenchError::Usage("expected --registry DIR or --daemon URL".to_owned())),
    };
    if sources.is_empty() && damaged.is_empty() {
        let chosen = if arguments.functions.is_empty() { "" } else { " of these names" };
        return Err(BenchError::Usage(format!("there are no functions{chosen}")));
    }
    Ok((sources, damaged))
}

/// Returns the lock of the state directory of the measured daemons, if there are any.
///
/// # Errors
/// When another run has it.
pub fn take_lock(arguments: &RunArgs, host: &Host, place: Option<Place>) -> Result<Option<File>, BenchError> {
    place.is_none().then(|| lock::take(&state(arguments, host))).transpose()
}

/// Returns the state directory of the measured daemons.
fn state(arguments: &RunArgs, host: &Host) -> PathBuf {
    let beside = || {
        let mut name = host.state.clone().into_os_string();
        name.push("-bench");
        name.into()
    };
    arguments.state_dir.clone().unwrap_or_else(beside)
}

/// Creates the folder of the results.
fn folder(arguments: &RunArgs) -> Result<PathBuf, BenchError> {
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let usual = || PathBuf::from(format!("bench-{}", date.trim_end_matches('Z').replace([':', 'T'], "-")));
    let out = arguments.out.clone().unwrap_or_else(usual);
    let failed = |error| BenchError::Write(out.clone(), error);
    fs::create_dir_all(&out).map_err(failed)?;
    if fs::read_dir(&out).map_err(failed)?.next().is_some() {
        return Err(BenchError::Usage(format!("{} is not empty", out.display())));
    }
    for part in ["samples", "registry"] {
        fs::create_dir(out.join(part)).map_err(failed)?;
    }
    out.canonicalize().map_err(failed)
}

/// Returns a session that has measured nothing, and writes to no folder.
pub fn session(plan: Plan, arguments: &RunArgs, host: &Host) -> Result<Session, BenchError> {
    Ok(Session {
        plan,
        schedule: Schedule::default(),
        entrants: Vec::new(),
        out: PathBuf::new(),
        program: host.program.clone(),
        state: state(arguments, host),
        place: remote::place(arguments)?,
        files: None,
        trace: trace::Trace::default(),
        capacities: BTreeMap::new(),
        begin: clock::now(),
        interrupt: Interrupt::listen()?,
        progress: Progress::new(),
        noise: NoiseMeter::new(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        warnings: Vec::new(),
    })
}

/// Measures, and writes what there is, also if the run is cut short.
async fn measure(arguments: &RunArgs, host: &Host) -> Result<ExitCode, BenchError> {
    let place = remote::place(arguments)?;
    let (sources, damaged) = sources(arguments, host, place).await?;
    if arguments.page_cache != PageCache::Warm && !nix::unistd::geteuid().is_root() {
        return Err(BenchError::Usage("--page-cache cold and both need root".to_owned()));
    }
    let plan = Plan::of(arguments, rand::random());
    let is_replayed = plan.experiments.contains(&Experiment::Replay);
    let trace = if is_replayed { trace::chosen(plan.trace.as_ref(), plan.seed)? } else { trace::Trace::default() };
    let _lock = take_lock(arguments, host, place)?;
    let out = folder(arguments)?;
    raise_descriptor_limit();
    let mut session = Session { out: out.clone(), trace, ..session(plan, arguments, host)? };
    let mut results = Results {
        schema: SCHEMA,
        complete: false,
        command: command_line(),
        began: now(),
        ended: None,
        plan: session.plan.clone(),
        machine: Machine::inspect(&out, &host.version, (host.has_kvm)()),
        throttled: (throttled(), None),
        functions: Vec::new(),
        left_out: damaged,
        unsupported: Vec::new(),
        reductions: Vec::new(),
        calibration: None,
        warnings: Vec::new(),
        summaries: Vec::new(),
    };
    // What `report` needs if this process is killed.
    results.write(&out)?;
    session.progress.line(&format!("results go to {}", out.display()));
    let interrupt = session.interrupt.clone();
    let outcome = tokio::select! {
        outcome = perform(&mut session, &mut results, sources) => outcome,
        // The second signal does not wait for the present sample.
        () = interrupt.reached(2) => Err(BenchError::Interrupted),
    };
    session.progress.clear();
    results.complete = outcome.is_ok();
    results.ended = Some(now());
    results.throttled.1 = throttled();
    note(&mut results, &session);
    let written = report::write(&out, &mut results);
    let is_success = outcome?;
    written?;
    print(&format!("{}\n", out.join("report.html").display()));
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Takes over what a run has said and changed so far.
fn note(results: &mut Results, session: &Session) {
    results.warnings.clone_from(&session.warnings);
    results.reductions = session.schedule.reductions();
    results.plan.clone_from(&session.plan);
}

/// Does everything that a signal may cut short. Returns whether nothing has failed.
async fn perform(session: &mut Session, results: &mut Results, sources: Vec<Source>) -> Result<bool, BenchError> {
    session.files = experiments::files(session, &sources).await?;
    let found = experiments::survey(session, sources).await?;
    results.left_out.extend(found.left_out);
    results.left_out.sort();
    results.unsupported = found.unsupported;
    results.functions = found.entrants.iter().map(|entrant| info(entrant, session)).collect();
    session.entrants = found.entrants;
    for (name, reason) in &results.left_out {
        session.progress.line(&format!("left out: {name}: {reason}"));
    }
    if session.entrants.is_empty() {
        return Err(BenchError::Usage("no function can be measured".to_owned()));
    }
    session.make_schedule();
    if session.place.is_none() {
        results.calibration = Some(experiments::calibrate(session).await?);
    }
    settle(session).await?;
    results.write(&session.out)?;
    let mut is_success = true;
    for experiment in session.plan.experiments.clone() {
        let _ = session.noise.look();
        match experiments::run(session, experiment).await {
            Ok(()) => {}
            Err(BenchError::Daemon(why)) => {
                let warning = format!("{} ended early: the daemon {why}", experiment.name());
                session.progress.line(&warning);
                session.warnings.push(warning);
                is_success = false;
            }
            Err(error) => return Err(error),
        }
        note(results, session);
        results.write(&session.out)?;
    }
    Ok(is_success)
}

/// Allows as many connections as the kernel does.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer, connections fail, which is counted.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn info(entrant: &experiments::Entrant, session: &Session) -> FunctionInfo {
    let source = &entrant.source;
    let limited = session.plan.cpus.map(f64::from);
    FunctionInfo {
        name: source.name.clone(),
        sandbox: source.sandbox.clone(),
        memory: session.plan.memory.map_or_else(|| source.memory(), i64::from),
        cpus: limited.or_else(|| source.cpus()),
        path: entrant.path.clone(),
    }
}

/// Waits until nothing else uses the machine, for a limited time.
async fn settle(session: &mut Session) -> Result<(), BenchError> {
    let mut last = Noise::default();
    let _ = session.noise.look();
    for _ in 0..session.plan.settle {
        session.interrupt.check()?;
        sleep(QUIET_WINDOW).await;
        last = session.noise.look();
        if !last.is_disturbing(session.processors) {
            return Ok(());
        }
    }
    if last != Noise::default() {
        session.warnings.push(format!(
            "The machine was not quiet before the run: other processes used {:.0} % of a processor, {:.1} % were stolen.",
            100.0 * last.foreign_ms / last.window_ms,
            100.0 * last.steal_ms / last.window_ms / session.processors as f64
        ));
    }
    Ok(())
}

fn command_line() -> String {
    std::env::args().skip(1).collect::<Vec<_>>().join(" ")
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
