//! `completions`, in the shells themselves; `man`; `ui`.

use std::{env, process::Command};

use integration::{
    Daemon, Function, Home, Setup,
    cli::{bare, run},
    unifaas,
};

/// Returns a shell that completes for a daemon, with the program on its PATH; `None`: it is not installed.
fn shell(daemon: &Daemon, arguments: &[&str]) -> Option<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join(arguments[0]).is_file()) {
        assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "{} is not installed", arguments[0]);
        eprintln!("skipped: no {}", arguments[0]);
        return None;
    }
    let mut command = Command::new(arguments[0]);
    let program = unifaas();
    let directories = std::iter::once(program.parent().unwrap().to_owned()).chain(env::split_paths(&path));
    command.args(&arguments[1..]).env("PATH", env::join_paths(directories).unwrap());
    command.env("UNIFAAS_URL", format!("http://{}", daemon.listen)).env("UNIFAAS_CONFIG", "/dev/null");
    Some(command)
}

async fn daemon() -> Daemon {
    Setup::default().function(Function::new("resize")).function(Function::new("report")).start().await
}

#[tokio::test]
async fn bash_completes_commands_options_and_functions() {
    let daemon = daemon().await;
    let script = "source <(unifaas completions bash)\n\
        for line in 'unifaas des' 'unifaas logs --fol' 'unifaas logs re' 'unifaas new -t pyt'; do\n\
          read -ra COMP_WORDS <<<\"$line\"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()\n\
          _clap_complete_unifaas unifaas \"${COMP_WORDS[COMP_CWORD]}\" x; echo ${COMPREPLY[@]}\n\
        done";
    let Some(command) = shell(&daemon, &["bash", "-c", script]) else { return };
    let ran = run(command).await;
    assert_eq!(ran.err, "");
    let lines: Vec<_> = ran.out.lines().map(|line| line.replace('\u{b}', " ")).collect();
    assert_eq!(lines, ["describe", "--follow", "report resize", "python"]);
}

#[tokio::test]
async fn fish_completes_functions_of_the_daemon() {
    let daemon = daemon().await;
    let script = "unifaas completions fish | source; complete -C 'unifaas invoke re'";
    let Some(command) = shell(&daemon, &["fish", "--no-config", "-c", script]) else { return };
    assert_eq!(run(command).await.ok(), "report\nresize\n");
}

#[tokio::test]
async fn zsh_loads_the_script() {
    let daemon = daemon().await;
    let script = "autoload -U compinit && compinit -D && source <(unifaas completions zsh) && \
        (( $+functions[_clap_dynamic_completer_unifaas] )) && \
        _CLAP_COMPLETE_INDEX=2 UNIFAAS_COMPLETE=zsh unifaas -- unifaas logs re";
    let Some(command) = shell(&daemon, &["zsh", "-fc", script]) else { return };
    assert_eq!(run(command).await.ok(), "report\nresize");
}

#[tokio::test]
async fn without_a_daemon_nothing_is_completed_and_nothing_is_said() {
    let mut command = bare(&["--", "unifaas", "logs", "re"]);
    command.env("UNIFAAS_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2").env("UNIFAAS_URL", "127.0.0.1:1");
    let ran = run(command).await;
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
}

#[tokio::test]
async fn manual_pages_have_no_warnings() {
    let home = Home::new();
    let directory = home.path("man");
    std::fs::create_dir(&directory).unwrap();
    run(bare(&["man", directory.to_str().unwrap()])).await.ok();
    let pages: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 10 && pages.iter().any(|page| page.ends_with("unifaas-invoke.1")), "{pages:?}");
    if Command::new("man").arg("--version").output().is_err() {
        eprintln!("skipped: no man");
        return;
    }
    for page in pages {
        let mut command = Command::new("man");
        command
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8"])
            .arg(&page)
            .env("MANWIDTH", "100")
            .env("LC_ALL", "C.UTF-8");
        let ran = run(command).await;
        assert!(ran.status == Some(0) && ran.err.is_empty() && ran.out.len() > 200, "{}: {}", page.display(), ran.err);
    }
}

#[tokio::test]
async fn ui_prints_the_address_of_the_dashboard() {
    let daemon = daemon().await;
    let mut command = daemon.command(&["ui"]);
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    assert_eq!(run(command).await.ok(), format!("http://{}/ui/\n", daemon.listen));
    run(bare(&["ui", "--url", "127.0.0.1:1"])).await.failed(3);
}
