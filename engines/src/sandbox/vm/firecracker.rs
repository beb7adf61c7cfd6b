//! The configuration file of Firecracker, and the arguments of Firecracker and its jailer. Pure.

use std::path::Path;

use serde::Serialize;
use unifaas_actors::spec::VmSpec;

/// Firecracker's configuration file. No `Debug`: the guest's command line has a secret.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    boot_source: BootSource,
    /// Firecracker refuses a file without this key, even if there are no drives.
    drives: Vec<Drive>,
    machine_config: MachineConfig,
    network_interfaces: Vec<NetworkInterface>,
}

#[derive(Serialize)]
struct BootSource {
    kernel_image_path: String,
    boot_args: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_path: Option<String>,
}

#[derive(Debug, Serialize)]
struct Drive {
    drive_id: &'static str,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
}

#[derive(Debug, Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
}

#[derive(Debug, Serialize)]
struct NetworkInterface {
    iface_id: &'static str,
    host_dev_name: String,
    guest_mac: String,
}

/// The files of a VM, by the paths that its VMM opens.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    pub kernel: &'a Path,
    pub initrd: Option<&'a Path>,
    /// The root disk, and whether it is read-only.
    pub disk: Option<(&'a Path, bool)>,
}

impl Config {
    pub fn new(vm: &VmSpec, cmdline: String, files: Files<'_>, tap: &str, mac: String) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Self {
            boot_source: BootSource {
                kernel_image_path: text(files.kernel),
                boot_args: cmdline,
                initrd_path: files.initrd.map(text),
            },
            drives: files
                .disk
                .into_iter()
                .map(|(path, is_read_only)| Drive {
                    drive_id: "rootfs",
                    path_on_host: text(path),
                    is_root_device: true,
                    is_read_only,
                })
                .collect(),
            machine_config: MachineConfig { vcpu_count: vm.cpus, mem_size_mib: vm.memory },
            network_interfaces: vec![NetworkInterface {
                iface_id: INTERFACE,
                host_dev_name: tap.to_owned(),
                guest_mac: mac,
            }],
        }
    }
}

/// Logs errors only: Firecracker's log and the guest's console are both its standard output.
const LOG_LEVEL: [&str; 2] = ["--level", "Error"];

/// The id of the network interface.
pub const INTERFACE: &str = "eth0";
/// The socket of the API, in Firecracker's working directory.
pub const API_SOCKET: &str = "api";

/// How Firecracker begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// It boots what the configuration file says.
    Boot(&'a Path),
    /// The same, and it serves its API.
    BootWithApi(&'a Path),
    /// It serves its API, and waits for a guest.
    Api,
}

impl Start<'_> {
    fn arguments(self) -> Vec<String> {
        let config = |path: &Path| ["--config-file".to_owned(), path.to_string_lossy().into_owned()];
        let api = ["--api-sock", API_SOCKET].map(str::to_owned);
        let own = match self {
            Self::Boot(path) => [&["--no-api".to_owned()], &config(path)[..]].concat(),
            Self::BootWithApi(path) => [&api[..], &config(path)[..]].concat(),
            Self::Api => api.to_vec(),
        };
        own.into_iter().chain(LOG_LEVEL.map(str::to_owned)).collect()
    }
}

/// Returns the arguments of Firecracker.
pub fn arguments(id: &str, start: Start<'_>) -> Vec<String> {
    ["--id", id].map(str::to_owned).into_iter().chain(start.arguments()).collect()
}

/// The jail of one Firecracker process.
#[derive(Debug, Clone, Copy)]
pub struct Jail<'a> {
    /// Firecracker's executable.
    pub program: &'a Path,
    /// The directory below which the jailer makes `<name of the program>/<id>/root`.
    pub base: &'a Path,
    pub uid: u32,
    pub gid: u32,
}

impl Jail<'_> {
    /// Returns the arguments of the jailer, which passes `--id` on by itself. Paths of `start` are inside of the jail.
    pub fn arguments(&self, id: &str, start: Start<'_>) -> Vec<String> {
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        let (program, base) = (self.program.to_string_lossy(), self.base.to_string_lossy());
        let own = ["--id", id, "--exec-file", &program, "--uid", &uid, "--gid", &gid, "--chroot-base-dir", &base];
        own.into_iter().chain(["--"]).map(str::to_owned).chain(start.arguments()).collect()
    }

    /// Returns the directory that will be the root of the jailed process.
    pub fn root(&self, id: &str) -> std::path::PathBuf {
        self.base.join(self.program.file_name().unwrap_or_default()).join(id).join("root")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use unifaas_actors::spec::{FunctionSpec, SandboxSpec};

    use super::*;

    fn vm(keys: &str) -> VmSpec {
        let text = format!("[vm]\nkernel = \"vmlinux\"\nhypervisor = {{ type = \"firecracker\" }}\n{keys}");
        match FunctionSpec::parse("f", Path::new("/f"), &text).unwrap().sandbox {
            SandboxSpec::Vm(vm) => vm,
            other => panic!("{other:?}"),
        }
    }

    fn config(vm: &VmSpec, files: Files<'_>) -> serde_json::Value {
        let config = Config::new(vm, "a=b".into(), files, "faas7", "02:fa:0a:64:00:02".into());
        serde_json::to_value(config).unwrap()
    }

    #[test]
    fn unikernel_without_disk_has_empty_list_of_drives() {
        let vm = vm("");
        let files = Files { kernel: &vm.kernel, initrd: None, disk: None };
        let expected = json!({
            "boot-source": { "kernel_image_path": "/f/vmlinux", "boot_args": "a=b" },
            "drives": [],
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
            "network-interfaces": [
                { "iface_id": "eth0", "host_dev_name": "faas7", "guest_mac": "02:fa:0a:64:00:02" },
            ],
        });
        assert_eq!(config(&vm, files), expected);
    }

    #[test]
    fn linux_guest_has_root_disk_and_initrd() {
        let vm = vm("memory = 256\ncpus = 2\n");
        let disk = Some((Path::new("/run/x/rootfs"), false));
        let files = Files { kernel: &vm.kernel, initrd: Some(Path::new("/f/initrd")), disk };
        let config = config(&vm, files);
        assert_eq!(config["boot-source"]["initrd_path"], "/f/initrd");
        let drive = json!({
            "drive_id": "rootfs", "path_on_host": "/run/x/rootfs", "is_root_device": true, "is_read_only": false,
        });
        assert_eq!(config["drives"], json!([drive]));
        assert_eq!(config["machine-config"], json!({ "vcpu_count": 2, "mem_size_mib": 256 }));
    }

    #[test]
    fn firecracker_has_an_api_for_templates_and_clones_only() {
        let line = |start| arguments("i-1", start).join(" ");
        let config = Path::new("/run/x/config.json");
        assert_eq!(line(Start::Boot(config)), "--id i-1 --no-api --config-file /run/x/config.json --level Error");
        let template = line(Start::BootWithApi(Path::new("config.json")));
        assert_eq!(template, "--id i-1 --api-sock api --config-file config.json --level Error");
        assert_eq!(line(Start::Api), "--id i-1 --api-sock api --level Error");
    }

    #[test]
    fn jailer_passes_arguments_behind_two_dashes() {
        let jail = Jail { program: Path::new("/opt/fc-1.17"), base: Path::new("/run/x"), uid: 65_534, gid: 65_533 };
        let expected = "--id i-1 --exec-file /opt/fc-1.17 --uid 65534 --gid 65533 --chroot-base-dir /run/x \
                        -- --no-api --config-file config.json --level Error";
        assert_eq!(jail.arguments("i-1", Start::Boot(Path::new("config.json"))).join(" "), expected);
        assert_eq!(jail.root("i-1"), Path::new("/run/x/fc-1.17/i-1/root"));
    }
}
