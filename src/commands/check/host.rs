//! `check --host`: whether this host has what the functions need.

use std::{collections::BTreeMap, env};

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use unifaas_actors::spec::{DEFAULT_PATH, FunctionSpec, Hypervisor, Pull, SandboxSpec, VmNetwork};

use super::engine::Engine;
use crate::{
    commands::terminal::{Cell, Style, Table, text},
    config::Configuration,
    host::privileges::Privileges,
    sandbox::{self, Credentials, FIRECRACKER, JAILER, Program, QEMU},
};

/// One thing that functions may need.
#[derive(Debug)]
pub struct HostCheck {
    what: String,
    /// What there is, or why there is none.
    found: Result<String, String>,
    needed_by: Vec<String>,
}

impl HostCheck {
    /// Whether a function needs what is not there.
    pub fn is_problem(&self) -> bool {
        self.found.is_err() && !self.needed_by.is_empty()
    }

    pub fn to_json(&self) -> Value {
        let (found, why) = (self.found.as_ref().ok(), self.found.as_ref().err());
        json!({ "what": self.what, "found": found, "missing": why, "needed_by": self.needed_by })
    }
}

/// Returns the checks as a table.
pub fn table(checks: &[HostCheck]) -> Table {
    let mut table = Table::new(&[text("HOST"), text("STATE"), text("NEEDED BY"), text("DETAIL")]);
    for check in checks {
        let (state, style, detail) = match (&check.found, check.is_problem()) {
            (Ok(found), _) => ("ok", Some(Style::Good), found),
            (Err(why), true) => ("missing", Some(Style::Bad), why),
            (Err(why), false) => ("missing", None, why),
        };
        let mut needed_by = check.needed_by.join(", ");
        if check.needed_by.is_empty() {
            needed_by.push('-');
        } else if check.needed_by.len() > 3 {
            needed_by = format!("{}, … ({})", check.needed_by[..2].join(", "), check.needed_by.len());
        }
        table.row(vec![
            check.what.as_str().into(),
            Cell::from(state).in_style(style),
            needed_by.into(),
            detail.lines().next().unwrap_or_default().into(),
        ]);
    }
    table
}

/// What a function may need of the host, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// The budget allows an instance with this memory, in MiB.
    Memory(u64),
    /// The daemon may run processes as this user.
    User(String),
    Engine,
    Image(String),
    Runtime(String),
    Network(String),
    Qemu,
    Firecracker,
    Jailer,
    Kvm,
    Nft,
    NetAdmin,
}

/// Checks the host for these functions, and for what functions of each kind need.
pub async fn check(functions: &[&FunctionSpec], configuration: &Configuration) -> Vec<HostCheck> {
    let always = [Need::Memory(0), Need::Engine, Need::Qemu, Need::Firecracker, Need::Kvm, Need::Nft, Need::NetAdmin];
    let mut needs: BTreeMap<Need, Vec<String>> = always.map(|need| (need, Vec::new())).into();
    for function in functions {
        for need in Need::of(function) {
            needs.entry(need).or_default().push(function.name.clone());
        }
    }
    let engine = Engine::from_environment();
    let mut checks = Vec::new();
    for (need, needed_by) in needs {
        let found = need.find(&engine, configuration).await;
        checks.push(HostCheck { what: need.name(), found, needed_by });
    }
    checks
}

impl Need {
    fn of(function: &FunctionSpec) -> Vec<Self> {
        let mut needs = vec![Self::Memory(function.memory())];
        match &function.sandbox {
            SandboxSpec::Process(process) => needs.extend(process.user.clone().map(Self::User)),
            SandboxSpec::Container(container) => {
                needs.push(Self::Engine);
                needs.extend((container.pull == Pull::Never).then(|| Self::Image(container.image.clone())));
                needs.extend(container.runtime.clone().map(Self::Runtime));
                needs.extend(container.network.clone().map(Self::Network));
            }
            SandboxSpec::Vm(vm) => {
                match vm.hypervisor {
                    Hypervisor::Firecracker { jailer, .. } => {
                        needs.extend([Self::Firecracker, Self::Kvm]);
                        needs.extend(jailer.then_some(Self::Jailer));
                    }
                    Hypervisor::Qemu { .. } | Hypervisor::Microvm { .. } => needs.push(Self::Qemu),
                }
                if vm.network == VmNetwork::Tap {
                    needs.extend([Self::Nft, Self::NetAdmin]);
                }
            }
        }
        needs
    }

    fn name(&self) -> String {
        match self {
            Self::Memory(0) => "memory budget".to_owned(),
            Self::Memory(mib) => format!("memory {mib} MiB"),
            Self::User(name) => format!("user {name}"),
            Self::Engine => "container engine".to_owned(),
            Self::Image(name) => format!("image {name}"),
            Self::Runtime(name) => format!("runtime {name}"),
            Self::Network(name) => format!("network {name}"),
            Self::Qemu => QEMU.name.to_owned(),
            Self::Firecracker => FIRECRACKER.name.to_owned(),
            Self::Jailer => JAILER.name.to_owned(),
            Self::Kvm => "KVM".to_owned(),
            Self::Nft => "nft".to_owned(),
            Self::NetAdmin => "CAP_NET_ADMIN".to_owned(),
        }
    }

    /// Returns what there is.
    ///
    /// # Errors
    /// Why there is nothing.
    async fn find(&self, engine: &Engine, configuration: &Configuration) -> Result<String, String> {
        let own = Privileges::own();
        match self {
            Self::Memory(mib) => memory(*mib, configuration),
            Self::User(name) => match Credentials::of(name, own) {
                Ok(_) => Ok(format!("this user ({}) may start processes as it", own.user)),
                Err(error) => Err(error.to_string()),
            },
            Self::Engine => engine.version().await,
            Self::Image(name) => engine.get(&format!("/images/{name}/json")).await?.map_or_else(
                || Err("not in the engine: build or pull it, or set `pull = \"missing\"`".to_owned()),
                |image| Ok(image["Id"].as_str().unwrap_or("there").to_owned()),
            ),
            Self::Network(name) => engine.get(&format!("/networks/{name}")).await?.map_or_else(
                || Err("the engine has no such network".to_owned()),
                |network| Ok(network["Driver"].as_str().unwrap_or("there").to_owned()),
            ),
            Self::Runtime(name) => {
                let info = engine.get("/info").await?.unwrap_or_default();
                let known: Vec<_> =
                    info["Runtimes"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                if known.contains(&name.as_str()) {
                    Ok("known to the engine".to_owned())
                } else {
                    Err(format!("the engine knows {}", known.join(", ")))
                }
            }
            Self::Qemu => program(QEMU),
            Self::Firecracker => program(FIRECRACKER),
            Self::Jailer => program(JAILER),
            Self::Kvm => match sandbox::probe_kvm() {
                Ok(()) => Ok("runs guests".to_owned()),
                Err(why) => Err(format!("{why}; QEMU emulates the processor then")),
            },
            Self::Nft => on_path("nft"),
            Self::NetAdmin if own.has(CapabilitySet::NET_ADMIN) => Ok("this user has it".to_owned()),
            Self::NetAdmin => Err("this user lacks it; a daemon that runs as root has it".to_owned()),
        }
    }
}

/// Returns the memory budget, if an instance fits into it.
fn memory(mib: u64, configuration: &Configuration) -> Result<String, String> {
    match configuration.serve.memory_budget.resolve(sandbox::memory_limit()) {
        Some(budget) if mib <= budget => Ok(format!("the budget is {budget} MiB")),
        Some(budget) => Err(format!("the budget is {budget} MiB (--memory-budget): an instance never starts")),
        None => Err("the memory of this host is not known: set --memory-budget in MiB".to_owned()),
    }
}

fn program(program: Program) -> Result<String, String> {
    program.find().map(|path| path.display().to_string()).map_err(|error| error.to_string())
}

fn on_path(name: &str) -> Result<String, String> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let found = env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    found.map_or_else(|| Err(format!("{name} is not on the PATH")), |file| Ok(file.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_kind_needs_something_else() {
        let needs = |text: &str| Need::of(&FunctionSpec::parse("f", Path::new("/r/f"), text).unwrap());
        assert_eq!(
            needs("[process]\ncommand = [\"sh\"]\nuser = \"root\"\nmemory = 7\n"),
            [Need::Memory(7), Need::User("root".into())]
        );
        assert_eq!(
            needs("[container]\nimage = \"i\"\nruntime = \"runsc\"\n"),
            [Need::Memory(128), Need::Engine, Need::Image("i".into()), Need::Runtime("runsc".into())]
        );
        assert_eq!(needs("[container]\nimage = \"i\"\npull = \"missing\"\n"), [Need::Memory(128), Need::Engine]);
    }
}
