//! The documentation: its commands run, in order, and its links lead somewhere.

use std::{
    collections::HashSet,
    env, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use integration::{Engine, Home, SOON, cli::golden, eventually, processes, shipped, unifaas};
use nix::sys::signal::Signal;

/// Where every user finds programs, before the rest of the PATH.
const PUBLIC_PATH: &str = "/usr/bin:/bin";

/// A command of a document, and what it must print.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

/// Returns the blocks of commands in a document.
fn blocks(document: &str) -> Vec<Vec<Step>> {
    let mut blocks = Vec::new();
    for block in document.split("```console\n").skip(1) {
        let mut steps: Vec<Step> = Vec::new();
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
                None => steps.last_mut().expect("output follows a command").output.push(line.to_owned()),
            }
        }
        blocks.push(steps);
    }
    blocks
}

/// Runs the commands of documents where this machine can.
struct Reader {
    home: std::sync::Arc<Home>,
    listen: SocketAddr,
    engine: Option<String>,
    daemon: Option<Child>,
}

impl Reader {
    /// Prepares a directory that is empty but for `links` to the repository.
    fn new(links: &[&str], engine: Option<String>) -> Self {
        let home = Home::new();
        let directory = home.path("reader");
        fs::create_dir(&directory).unwrap();
        for link in links {
            let place = directory.join(link);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            symlink(shipped(link).canonicalize().unwrap(), place).unwrap();
        }
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { home, listen, engine, daemon: None }
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-ec", &command.replace("localhost:8123", &self.listen.to_string())]);
        let program = unifaas();
        let path = env::var("PATH").unwrap_or_default();
        let path = format!("{}:{PUBLIC_PATH}:{path}", program.parent().unwrap().display());
        shell.current_dir(self.home.path("reader")).env("PATH", path).stdin(Stdio::null());
        shell.env("UNIFAAS_CONFIG", "/dev/null").env("UNIFAAS_LISTEN", self.listen.to_string());
        shell.env("UNIFAAS_CALLBACK_LISTEN", "0.0.0.0:0").env("UNIFAAS_STATE_DIR", self.home.path("state"));
        shell
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .env_remove("UNIFAAS_URL")
            .env("CARGO_NET_OFFLINE", "true");
        if let Some(engine) = &self.engine {
            shell.env("DOCKER_HOST", engine);
        }
        shell
    }

    /// Returns why a block cannot run here.
    fn obstacle(&self, block: &[Step]) -> Option<&'static str> {
        let has = |word: &str| block.iter().any(|step| step.command.contains(word));
        let is_there = |program: &str| {
            let found = self.shell(&format!("command -v {program}")).stdout(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        match () {
            () if has("docker ") && self.engine.is_none() => Some("no container engine"),
            () if has("--template node") && !is_there("/usr/bin/node") => Some("no node that every user can run"),
            () if has("--template python") && !is_there("/usr/bin/python3") => {
                Some("no python3 that every user can run")
            }
            () if has("unikernel") && !is_there("qemu-system-x86_64") => Some("no QEMU"),
            () => None,
        }
    }

    async fn run(&mut self, document: &str) {
        let text = fs::read_to_string(shipped(document)).unwrap();
        let blocks = blocks(&text);
        assert!(!blocks.is_empty(), "{document} has commands");
        for block in blocks {
            match self.obstacle(&block) {
                Some(why) => eprintln!("skipped: {why}: {block:?}"),
                None => {
                    for step in &block {
                        self.step(document, step).await;
                    }
                }
            }
        }
    }

    async fn step(&mut self, document: &str, step: &Step) {
        let command = step.command.as_str();
        // The program is there. The kernel may be: to build it takes a minute.
        let is_built = command.ends_with("unikernel/build.sh") && shipped("examples/unikernel/unikernel.elf").exists();
        if command.starts_with("cargo install") || is_built {
            return;
        }
        if let Some(command) = command.strip_suffix(" &") {
            let log = fs::File::create(self.home.path("log")).unwrap();
            let mut shell = self.shell(&format!("exec {command}"));
            self.daemon = Some(shell.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
            let connects = async || TcpStream::connect(self.listen).is_ok();
            eventually(SOON, "the daemon serves", connects, |connects| *connects).await;
            return;
        }
        // What goes on is ended.
        let goes_on = command.contains(" -f ");
        let mut shell = self.shell(&if goes_on { format!("timeout 2 {command}") } else { command.to_owned() });
        let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let expected = if goes_on { 124 } else { 0 };
        let log = || fs::read_to_string(self.home.path("log")).unwrap_or_default();
        assert_eq!(output.status.code(), Some(expected), "{document}: {command}: {out}\n{err}\n{}", log());
        assert!(!goes_on || !out.is_empty(), "{document}: {command} prints nothing");
        for line in &step.output {
            assert!(golden(&out).contains(&golden(line)[0]), "{document}: {command} does not print {line:?}: {out}");
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            processes::signal(daemon.id(), Signal::SIGTERM);
            let _ = daemon.wait();
        }
    }
}

#[tokio::test]
async fn commands_of_the_readme_run() {
    Reader::new(&["registry/hello"], None).run("README.md").await;
}

#[tokio::test]
async fn commands_of_the_first_steps_run() {
    // The engine is in a network of its own, which this thread enters.
    let engine = Engine::shared(env!("CARGO_BIN_EXE_testfn")).map(Engine::host);
    Reader::new(&["examples"], engine).run("docs/start.md").await;
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(shipped("docs")).unwrap().map(|entry| entry.unwrap().path());
    let others =
        ["README.md", "packaging/README.md", "examples/unikernel/README.md", "examples/linux-microvm/README.md"];
    docs.filter(|path| path.extension().is_some_and(|it| it == "md")).chain(others.map(shipped)).collect()
}

/// Returns the anchors of a document, as GitHub makes them of its headings.
fn anchors(text: &str) -> HashSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn links_resolve() {
    let mut broken = Vec::new();
    let mut count = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { document.clone() } else { document.parent().unwrap_or(Path::new("")).join(file) };
            let is_there = target.exists();
            let has_anchor = || fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor));
            if !is_there || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(count > 30 && broken.is_empty(), "{broken:#?}");
}
