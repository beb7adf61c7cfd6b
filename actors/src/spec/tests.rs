//! Tests from a text or a directory to a checked spec or its problems.

mod broken;
mod broken_sandbox;
mod disk;
mod garbage;
mod good;
mod guests;
mod host;
mod secrets;
mod triggers;

use std::path::Path;

use super::{FunctionSpec, SpecError};

/// Every key of a file, except for those of the two other kinds of sandbox.
const FULL_PROCESS: &str = r#"
concurrent-requests = 4
single-use = false
keepalive = 1.5
keep-paused = 90.5
prewarm = true
min-instances = 1
max-instances = 3
timeout = 7
boot-timeout = 2.5
stop-grace = 0
queue = 12
queue-timeout = 0.25
max-body = 1.5
readiness = { http = "/healthz?full=1" }
[env]
GREETING = "hello"
EMPTY = ""
[async]
allow = true
concurrency = 2
queue = 20
attempts = 5
backoff = 0.5
backoff-max = 60
max-age = 100
retry-on = ["4xx", "503"]
max-body = 2
max-response = 0.5
keep = 10
keep-dead = 20
durability = "site"
[[cron]]
at = "30 2 * * MON-FRI"
zone = "europe/berlin"
path = "/nightly?full=1"
method = "PUT"
body = "{}"
missed = "all"
missed-within = 7200
scope = "cluster"
[[cron]]
at = "*/5 * * * * *"
[[nats]]
subject = "orders.*.new"
queue = "workers"
path = "/order"
[[nats]]
subject = "events.>"
stream = "EVENTS"
[[mqtt]]
topic = "home/+/temperature/#"
qos = 2
path = "/temperature"
[cluster]
forward = false
nodes = ["gpu", "zone=a"]
[process]
command = ["./f", "%callback", "%unknown", "100%"]
memory = 64
cpus = 1.5
pids-limit = 20
file-size = 5
user = "nobody"
"#;

const FULL_CONTAINER: &str = r#"
port = 80
readiness = "tcp"
[container]
image = "registry.local:5000/team/hello:1.2"
command = ["--url", "%callback"]
memory = 256
cpus = 0.5
runtime = "runsc"
network = "faas"
user = "1000:1000"
capabilities = ["SYS_PTRACE", "cap_net_raw"]
no-new-privileges = false
pids-limit = 64
file-size = 7
read-only = true
init = true
log-size = 2
pull = "missing"
[env]
GREETING = "hello"
"#;

const FULL_MICROVM: &str = r#"
port = 9000
readiness = "callback"
[vm]
kernel = "kernel.img"
image = "./disk//root.img"
initrd = "/boot/initrd"
memory = 512
cpus = 2
cmdline = "console=ttyS0"
network = "user"
egress = true
snapshot = { prepare = "/before", restored = "/after", settle = 0.5 }
[vm.hypervisor]
type = "microvm"
disk-type = "block"
accel = "tcg"
args = ["-device", "", "virtio-rng-device"]
read-only = true
pic = false
pit = true
rtc = false
acpi = true
auto-kernel-cmdline = false
"#;

const FULL_QEMU: &str = r#"
[vm]
kernel = "k"
hypervisor = { type = "qemu", machine = "q35" }
"#;

const FULL_FIRECRACKER: &str = r#"
[vm]
kernel = "k"
image = "i"
hypervisor = { type = "firecracker", copy-rootfs = true, read-only = false, jailer = true }
"#;

fn parse(text: &str) -> Result<FunctionSpec, SpecError> {
    FunctionSpec::parse("hello", Path::new("/registry/hello"), text)
}

fn good(text: &str) -> FunctionSpec {
    parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}
