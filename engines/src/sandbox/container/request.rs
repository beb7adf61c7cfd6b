//! The request that creates a container, with everything in it. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use unifaas_actors::{
    sandbox::LaunchOrder,
    spec::{ContainerSpec, FunctionSpec, Readiness, has_placeholder, substitute},
};

use crate::sandbox::UNBUFFERED;

/// The label with the identity of the state directory.
pub const DAEMON_LABEL: &str = "unifaas.daemon";
/// The label with the id of the daemon's run.
pub const RUN_LABEL: &str = "unifaas.run";
const INSTANCE_LABEL: &str = "unifaas.instance";
const FUNCTION_LABEL: &str = "unifaas.function";

/// The capabilities of a web server that starts as root: it listens below 1024, gives its files and workers to another
/// user, and signals those workers. All others are dropped.
const CAPABILITIES: [&str; 5] = ["CHOWN", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
/// The address on which a function listens in its own network.
const ANY_ADDRESS: &str = "0.0.0.0";
const BYTES_PER_MIB: u64 = 1 << 20;
const NANOS_PER_CPU: f64 = 1e9;

/// Returns the name of an instance's container.
pub fn name(order: &LaunchOrder) -> String {
    format!("unifaas-{}-{}", order.spec.name, order.instance)
}

/// The owner of containers, in their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The identity of the state directory.
    pub daemon: String,
    /// The id of this run of its daemon.
    pub run_id: String,
}

/// Returns the body of the request. `callback` is the callback listener as seen from the container, if it is reached there.
pub fn body(
    order: &LaunchOrder,
    container: &ContainerSpec,
    callback: Option<SocketAddr>,
    owner: &Owner,
) -> ContainerCreateBody {
    let values = InstanceValues {
        port: order.spec.port.to_string(),
        callback: callback.map(|callback| format!("http://{callback}/ready/{}", order.token.reveal())),
    };
    let labels = [
        (DAEMON_LABEL, owner.daemon.clone()),
        (RUN_LABEL, owner.run_id.clone()),
        (INSTANCE_LABEL, order.instance.to_string()),
        (FUNCTION_LABEL, order.spec.name.clone()),
    ];
    ContainerCreateBody {
        image: Some(container.image.clone()),
        cmd: command(container, &order.spec.readiness, &values),
        env: Some(environment(order, &values)),
        user: container.user.clone(),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        host_config: Some(host_config(container)),
        ..Default::default()
    }
}

/// The values that an instance gets in its command and environment.
struct InstanceValues {
    port: String,
    callback: Option<String>,
}

/// Returns the command, or `None` for the image's own.
fn command(container: &ContainerSpec, readiness: &Readiness, values: &InstanceValues) -> Option<Vec<String>> {
    let value = |word: &str| match word {
        "callback" => values.callback.as_deref(),
        "ip" => Some(ANY_ADDRESS),
        "port" => Some(values.port.as_str()),
        _ => None,
    };
    match (&container.command, readiness) {
        (Some(words), _) => Some(words.iter().map(|word| substitute(word, value)).collect()),
        (None, Readiness::Callback) => values.callback.clone().map(|callback| vec![callback]),
        (None, _) => None,
    }
}

/// Returns whether the callback URL is the container's only argument, in place of those of its image.
pub fn is_callback_the_command(spec: &FunctionSpec, container: &ContainerSpec) -> bool {
    container.command.is_none() && spec.readiness == Readiness::Callback
}

/// Returns whether a container has to be given a callback URL.
pub fn needs_callback(spec: &FunctionSpec, container: &ContainerSpec) -> bool {
    let mut words = container.command.iter().flatten();
    spec.readiness == Readiness::Callback || words.any(|word| has_placeholder(word, "callback"))
}

fn environment(order: &LaunchOrder, values: &InstanceValues) -> Vec<String> {
    let instance = order.instance.to_string();
    let ours = [
        ("PORT", values.port.as_str()),
        ("HOST", ANY_ADDRESS),
        ("FUNCTION_NAME", &order.spec.name),
        ("INSTANCE_ID", &instance),
        UNBUFFERED,
    ];
    let ours = ours.into_iter().chain(values.callback.iter().map(|url| ("CALLBACK_URL", url.as_str())));
    let given = order.spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let ours = ours.filter(|(name, _)| !order.spec.env.contains_key(*name));
    ours.chain(given).map(|(name, value)| format!("{name}={value}")).collect()
}

fn host_config(container: &ContainerSpec) -> HostConfig {
    let memory = i64::try_from(container.memory * BYTES_PER_MIB).unwrap_or(i64::MAX);
    let capabilities = CAPABILITIES.iter().map(ToString::to_string).chain(container.capabilities.iter().cloned());
    let log_options = [("max-size", format!("{}m", container.log_size)), ("max-file", "1".to_owned())];
    HostConfig {
        memory: Some(memory),
        // The sum of memory and swap: no swap.
        memory_swap: Some(memory),
        nano_cpus: container.cpus.map(|cpus| (cpus * NANOS_PER_CPU) as i64),
        pids_limit: Some(container.pids_limit.into()),
        ulimits: container.file_size.map(|size| vec![file_limit(size)]),
        runtime: container.runtime.clone(),
        network_mode: container.network.clone(),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(capabilities.collect()),
        security_opt: container.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: container.read_only.then_some(true),
        init: container.init.then_some(true),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                log_options.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<HashMap<_, _>>(),
            ),
        }),
        ..Default::default()
    }
}

fn file_limit(mib: u32) -> ResourcesUlimits {
    let bytes = i64::from(mib) << 20;
    ResourcesUlimits { name: Some("fsize".to_owned()), soft: Some(bytes), hard: Some(bytes) }
}

/// Returns the address of the callback listener as seen from containers behind `gateway`, or `None` if the listener,
/// which is bound to `bound`, accepts loopback connections only.
pub fn callback(bound: SocketAddr, gateway: IpAddr) -> Option<SocketAddr> {
    match bound.ip() {
        ip if ip.is_unspecified() => Some(SocketAddr::new(gateway, bound.port())),
        ip if ip.is_loopback() => None,
        _ => Some(bound),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use slog::{Discard, Logger, o};
    use tokio::time::Instant;
    use unifaas_actors::{
        BootClock, InstanceId, OutputLog, ReadyToken,
        sandbox::Purpose,
        spec::{FunctionSpec, SandboxSpec},
    };

    use super::*;

    fn request_with(callback: &str, toml: &str) -> (LaunchOrder, ContainerCreateBody) {
        let spec = FunctionSpec::parse("hello", Path::new("/registry/hello"), toml).unwrap();
        let order = LaunchOrder {
            purpose: Purpose::Serve { restore: false },
            instance: InstanceId::parse("00000000000000ab").unwrap(),
            spec: Arc::new(spec),
            token: ReadyToken::parse("0123456789abcdef0123456789abcdef").unwrap(),
            output: OutputLog::default(),
            clock: BootClock::new(Instant::now()),
            log: Logger::root(Discard, o!()),
        };
        let SandboxSpec::Container(container) = &order.spec.sandbox else { panic!("not a container") };
        let owner = Owner { daemon: "d1".to_owned(), run_id: "r1".to_owned() };
        let body = body(&order, container, callback.parse().ok(), &owner);
        (order, body)
    }

    fn request_of(toml: &str) -> (LaunchOrder, ContainerCreateBody) {
        request_with("172.20.0.1:8124", toml)
    }

    const URL: &str = "http://172.20.0.1:8124/ready/0123456789abcdef0123456789abcdef";

    #[test]
    fn prototype_spec_passes_callback_url_as_the_only_argument() {
        let (order, body) = request_of("[container]\nimage = \"i:1\"\nmemory = 256\nruntime = \"runsc\"");
        assert_eq!(name(&order), "unifaas-hello-00000000000000ab");
        assert_eq!(body.image.as_deref(), Some("i:1"));
        assert_eq!(body.cmd, Some(vec![URL.to_owned()]));
        assert_eq!((body.entrypoint, body.user), (None, None));
        let host = body.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap, host.nano_cpus), (Some(256 << 20), Some(256 << 20), None));
        assert_eq!((host.runtime.as_deref(), host.network_mode), (Some("runsc"), None));
    }

    #[test]
    fn without_callback_the_image_keeps_its_command() {
        let image = "[container]\nimage = \"i\"";
        assert_eq!(request_of(&format!("readiness = \"tcp\"\n{image}")).1.cmd, None);
        assert_eq!(request_of(&format!("readiness = {{ http = \"/\" }}\n{image}")).1.cmd, None);
    }

    #[test]
    fn replaces_placeholders_in_command() {
        let words = "command = [\"--to=%callback\", \"%ip:%port\", \"%unknown\", \"100%\"]";
        let (_, body) = request_of(&format!("port = 80\nreadiness = \"tcp\"\n[container]\nimage = \"i\"\n{words}"));
        assert_eq!(body.cmd.unwrap(), [format!("--to={URL}").as_str(), "0.0.0.0:80", "%unknown", "100%"]);
    }

    #[test]
    fn environment_of_the_spec_wins() {
        let (_, body) = request_of("port = 80\n[container]\nimage = \"i\"\n[env]\nHOST = \"::\"\nA = \"b=c\"");
        let expected = [
            "PORT=80".to_owned(),
            "FUNCTION_NAME=hello".to_owned(),
            "INSTANCE_ID=00000000000000ab".to_owned(),
            "PYTHONUNBUFFERED=1".to_owned(),
            format!("CALLBACK_URL={URL}"),
            "A=b=c".to_owned(),
            "HOST=::".to_owned(),
        ];
        assert_eq!(body.env.unwrap(), expected);
        let (_, body) = request_of("[container]\nimage = \"i\"\n[env]\nPYTHONUNBUFFERED = \"\"");
        let set = body.env.unwrap().into_iter().filter(|variable| variable.starts_with("PYTHON"));
        assert_eq!(set.collect::<Vec<_>>(), ["PYTHONUNBUFFERED="]);
    }

    #[test]
    fn without_a_callback_there_is_no_callback_url() {
        let (order, body) = request_with("", "readiness = \"tcp\"\n[container]\nimage = \"i\"\ncommand = [\"%port\"]");
        assert!(!body.env.unwrap().iter().any(|variable| variable.starts_with("CALLBACK_URL")));
        assert_eq!(body.cmd.unwrap(), ["8080"]);
        let needs = |toml: &str| {
            let (order, _) = request_with("", toml);
            let SandboxSpec::Container(container) = &order.spec.sandbox else { panic!("not a container") };
            (needs_callback(&order.spec, container), is_callback_the_command(&order.spec, container))
        };
        assert_eq!(order.spec.readiness, Readiness::Tcp);
        let (image, word) = ("[container]\nimage = \"i\"", "command = [\"--to=%callback\"]");
        assert_eq!(needs(image), (true, true));
        assert_eq!(needs(&format!("{image}\n{word}")), (true, false));
        assert_eq!(needs(&format!("readiness = \"tcp\"\n{image}\n{word}")), (true, false));
        assert_eq!(needs(&format!("readiness = \"tcp\"\n{image}")), (false, false));
    }

    #[test]
    fn labels_name_the_owner() {
        let labels = request_of("[container]\nimage = \"i\"").1.labels.unwrap();
        let expected = [
            ("unifaas.daemon", "d1"),
            ("unifaas.run", "r1"),
            ("unifaas.instance", "00000000000000ab"),
            ("unifaas.function", "hello"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn container_is_confined_unless_its_spec_says_otherwise() {
        let host = request_of("[container]\nimage = \"i\"").1.host_config.unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add.unwrap(), CAPABILITIES);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!((host.pids_limit, host.readonly_rootfs, host.init), (Some(512), None, None));
        let log = host.log_config.unwrap();
        assert_eq!((log.typ.as_deref(), log.config.unwrap()["max-size"].as_str()), (Some("json-file"), "1m"));

        assert_eq!(host.ulimits, None);

        let relaxed = "capabilities = [\"NET_RAW\"]\nno-new-privileges = false\npids-limit = 9\nread-only = true\n\
            init = true\nfile-size = 2\nlog-size = 3\ncpus = 0.5\nuser = \"7:8\"\nnetwork = \"n\"";
        let body = request_of(&format!("[container]\nimage = \"i\"\n{relaxed}")).1;
        assert_eq!(body.user.as_deref(), Some("7:8"));
        let host = body.host_config.unwrap();
        assert_eq!(host.cap_add.unwrap().last().map(String::as_str), Some("NET_RAW"));
        assert_eq!(host.security_opt, None);
        assert_eq!((host.pids_limit, host.readonly_rootfs, host.init), (Some(9), Some(true), Some(true)));
        let [limit] = &host.ulimits.unwrap()[..] else { panic!("not one limit") };
        assert_eq!((limit.name.as_deref(), limit.soft, limit.hard), (Some("fsize"), Some(2 << 20), Some(2 << 20)));
        assert_eq!((host.nano_cpus, host.network_mode.as_deref()), (Some(500_000_000), Some("n")));
        assert_eq!(host.log_config.unwrap().config.unwrap()["max-size"], "3m");
    }

    #[test]
    fn callback_listener_is_at_the_gateway_unless_bound_to_an_address() {
        let seen = |bound: &str| {
            callback(bound.parse().unwrap(), "172.20.0.1".parse().unwrap()).map(|address| address.to_string())
        };
        assert_eq!(seen("0.0.0.0:8124").as_deref(), Some("172.20.0.1:8124"));
        assert_eq!(seen("[::]:8124").as_deref(), Some("172.20.0.1:8124"));
        assert_eq!(seen("192.0.2.1:8124").as_deref(), Some("192.0.2.1:8124"));
        assert_eq!(seen("127.0.0.1:8124"), None);
        assert_eq!(seen("[::1]:8124"), None);
    }
}
