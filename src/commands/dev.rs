//! `unifaas dev`: serves one function, follows its output, and restarts it when a file of its directory changes.
//!
//! The daemon runs in this process, with a registry that has a link to the directory and nothing else. Another thread watches
//! the directory and is a client of the daemon like any other.

use std::{
    env, fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use scopeguard::defer;
use tokio::{runtime, sync::mpsc, time::timeout};
use unifaas_actors::spec::{self, FunctionSpec, SPEC_FILE, SandboxSpec};

use super::{
    client::{Client, Subject},
    error::CommandError,
    logs,
    terminal::{Output, words},
};
use crate::{
    cli::{
        DaemonArgs,
        client::{Dev, Logs},
    },
    config, daemon,
};

/// The address without `--listen`, if it is free.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8123);
/// Directories that programs and tools write to.
const IGNORED: [&str; 4] = ["target", "node_modules", "__pycache__", "venv"];
/// A file that vim creates to find out whether it can.
const VIM_PROBE: &str = "4913";
/// Changes end when there was none for so long. An editor or a build makes many.
const QUIET: Duration = Duration::from_millis(200);

/// Serves the function until a signal.
///
/// # Errors
/// When the directory is no function, or the daemon cannot start.
pub fn run(arguments: &Dev) -> Result<(), CommandError> {
    let given = &arguments.directory;
    let unreadable = |error| CommandError::No(format!("cannot read {}: {error}", given.display()));
    let directory = given.canonicalize().map_err(unreadable)?;
    if directory.join(SPEC_FILE).symlink_metadata().is_err() {
        let message = format!("{} has no {SPEC_FILE}; `unifaas new` writes a function", given.display());
        return Err(CommandError::No(message));
    }
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    spec::check_name(&name).map_err(|error| CommandError::Usage(error.to_string()))?;

    let place = Place::create(&directory, &name)
        .map_err(|error| CommandError::No(format!("cannot write to {}: {error}", env::temp_dir().display())))?;
    defer! { place.remove() }
    let configuration = settings(&place, free_address(arguments.listen), &directory)?;
    let follow = |front: SocketAddr| {
        let url = format!("http://{front}");
        words(&format!(
            "{name} is served at {url}/invoke/{name}/, and restarted when its files change; Ctrl-C ends it"
        ));
        let follower = Follower { name, directory, daemon: DaemonArgs { url: Some(url), json: false } };
        let thread = thread::Builder::new().name("dev".to_owned()).spawn(move || {
            if let Err(error) = follower.run() {
                words(&format!("unifaas: {error}"));
            }
        });
        if let Err(error) = thread {
            words(&format!("unifaas: changes are not noticed: {error}"));
        }
    };
    daemon::run(configuration, follow).map_err(|error| CommandError::No(error.to_string()))
}

/// Returns the settings of the daemon. Those of an installed one do not count.
fn settings(place: &Place, listen: SocketAddr, directory: &Path) -> Result<config::Configuration, CommandError> {
    let is_process = FunctionSpec::load(directory).is_ok_and(|spec| matches!(spec.sandbox, SandboxSpec::Process(_)));
    // Containers and guests are not on this host's loopback.
    let callback = if is_process { "127.0.0.1:0" } else { "0.0.0.0:0" };
    let arguments = [
        ("config", "/dev/null".to_owned()),
        ("registry", place.registry().display().to_string()),
        ("state-dir", place.0.join("state").display().to_string()),
        ("listen", listen.to_string()),
        ("callback-listen", callback.to_owned()),
        ("drain-grace", "1".to_owned()),
        ("log-level", "warn".to_owned()),
    ];
    let arguments = arguments.map(|(key, value)| format!("--{key}={value}").into());
    let parsed = config::parse(["unifaas".into(), "serve".into()].into_iter().chain(arguments).collect())?;
    let configuration =
        parsed.configuration.filter(|it| it.serve.tls_cert.is_none() && it.serve.admin_listen.is_none());
    let message = "UNIFAAS_TLS_CERT and UNIFAAS_ADMIN_LISTEN must not be set here";
    configuration.ok_or_else(|| CommandError::Usage(message.to_owned()))
}

/// Returns the address that was asked for, else the usual one, or any port if that is taken.
fn free_address(wanted: Option<SocketAddr>) -> SocketAddr {
    let is_free = || TcpListener::bind(LISTEN).is_ok();
    wanted.unwrap_or_else(|| if is_free() { LISTEN } else { SocketAddr::new(LISTEN.ip(), 0) })
}

/// The directory of the registry and the daemon's state.
struct Place(PathBuf);

impl Place {
    fn create(directory: &Path, name: &str) -> io::Result<Self> {
        let place = Self(env::temp_dir().join(format!("unifaas-dev-{}", process::id())));
        // The user of the function must be able to enter it.
        for path in [place.0.clone(), place.registry()] {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        symlink(directory, place.registry().join(name))?;
        Ok(place)
    }

    fn registry(&self) -> PathBuf {
        self.0.join("registry")
    }

    fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            words(&format!("unifaas: {} remains: {error}", self.0.display()));
        }
    }
}

/// Follows the output of the function, and restarts it.
struct Follower {
    name: String,
    directory: PathBuf,
    daemon: DaemonArgs,
}

impl Follower {
    fn run(self) -> Result<(), CommandError> {
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let client = Client::new(&self.daemon)?;
            tokio::try_join!(self.follow(), self.watch(client)).map(|_| ())
        })
    }

    async fn follow(&self) -> Result<(), CommandError> {
        let (name, daemon) = (Some(self.name.clone()), self.daemon.clone());
        logs::run(&Logs { name, follow: true, tail: None, since: None, ended: false, daemon }, &Output::new()).await
    }

    async fn watch(&self, mut client: Client) -> Result<(), CommandError> {
        let (sender, mut events) = mpsc::unbounded_channel();
        let failed =
            |error: notify::Error| CommandError::No(format!("cannot watch {}: {error}", self.directory.display()));
        let mut watcher = notify::recommended_watcher(move |event| drop(sender.send(event))).map_err(failed)?;
        watcher.watch(&self.directory, RecursiveMode::Recursive).map_err(failed)?;
        loop {
            let Some(event) = events.recv().await else { return Ok(()) };
            let mut changed = self.changed(event);
            while !changed.is_empty() {
                let Ok(Some(event)) = timeout(QUIET, events.recv()).await else { break };
                changed.extend(self.changed(event));
            }
            changed.sort();
            changed.dedup();
            if !changed.is_empty() {
                self.restart(&mut client, &changed).await;
            }
        }
    }

    /// Returns the files that an event is about, relative to the directory.
    fn changed(&self, event: notify::Result<Event>) -> Vec<PathBuf> {
        match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => Vec::new(),
            Ok(event) => {
                let relative = |path: &PathBuf| path.strip_prefix(&self.directory).ok().map(Path::to_owned);
                let named = named_files(&self.directory);
                event.paths.iter().filter_map(relative).filter(|path| is_relevant(path, &named)).collect()
            }
            Err(_) => Vec::new(),
        }
    }

    async fn restart(&self, client: &mut Client, changed: &[PathBuf]) {
        // Editors write to other files first.
        let (there, gone): (Vec<_>, Vec<_>) = changed.iter().partition(|path| self.directory.join(path).exists());
        let shown = if there.is_empty() { gone } else { there };
        let names: Vec<_> = shown.iter().map(|path| path.display().to_string()).collect();
        words(&format!("--- changed: {}", names.join(", ")));
        // A file that was missing may be there now.
        let mut done = client.act("/debug/rescan", Subject::None).await;
        // A changed function.toml replaces the instances by itself.
        if done.is_ok() && changed != [Path::new(SPEC_FILE)] {
            let path = format!("/debug/functions/{}/restart", self.name);
            done = client.act(&path, Subject::Function(&self.name)).await;
        }
        match done {
            Ok(_) => words("--- restarted"),
            Err(error) => words(&format!("unifaas: {error}")),
        }
    }
}

/// Returns the program or the files of the machine that the function names, relative to its directory. They count wherever
/// they are.
fn named_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(spec) = FunctionSpec::load(directory) else { return Vec::new() };
    let files: Vec<PathBuf> = match spec.sandbox {
        SandboxSpec::Process(process) => process.command.into_iter().map(PathBuf::from).collect(),
        SandboxSpec::Container(_) => Vec::new(),
        SandboxSpec::Vm(vm) => [Some(vm.kernel), vm.image, vm.initrd].into_iter().flatten().collect(),
    };
    let relative = |file: PathBuf| file.strip_prefix(directory).map(Path::to_owned).unwrap_or(file);
    files.into_iter().map(relative).collect()
}

/// Whether a change of a file is one of the function. Those of tools, caches and editors are not.
fn is_relevant(path: &Path, named: &[PathBuf]) -> bool {
    if named.iter().any(|file| file == path) {
        return true;
    }
    let is_foreign = |name: &str| name.starts_with(['.', '#']) || name.ends_with('~') || IGNORED.contains(&name);
    let is_empty = path.as_os_str().is_empty();
    !is_empty && !path.iter().any(|name| is_foreign(&name.to_string_lossy())) && !path.ends_with(VIM_PROBE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_tools_do_not_count() {
        let named = [PathBuf::from("target/release/function")];
        for (path, counts) in [
            ("main.py", true),
            ("src/main.rs", true),
            ("function.toml", true),
            ("target/release/function", true),
            ("target/release/deps/x", false),
            ("__pycache__/main.cpython-311.pyc", false),
            (".git/index", false),
            ("main.py~", false),
            (".main.py.swp", false),
            ("", false),
        ] {
            assert_eq!(is_relevant(Path::new(path), &named), counts, "{path}");
        }
    }
}
