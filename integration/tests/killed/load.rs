//! Load while daemons are killed: instances of every kind, single-use, long-lived, paused and with descendants, in a
//! changing registry.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use integration::{
    Connection, Daemon, Function, Home, contained, empty, ms, request,
    vm::{Kind, Vm},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinHandle;

/// Time between two changes of the registry.
const CHANGE: Duration = Duration::from_millis(300);
/// Paths that show that the daemon serves every kind.
const LASTING: [&str; 3] = ["/invoke/lasting/pid", "/invoke/boxed/pid", "/invoke/machine/"];
/// Paths with the number of their clients, which send one request after the other.
const BUSY: [(&str, usize); 11] = [
    ("/invoke/lasting/sleep?ms=20", 2),
    ("/invoke/once/pid", 2),
    ("/invoke/descendants/pid", 1),
    ("/invoke/boxed/pid", 1),
    ("/invoke/boxed-once/pid", 2),
    ("/invoke/machine/", 1),
    ("/invoke/machine-once/", 1),
    ("/invoke/jailed/", 1),
    ("/invoke/open/", 1),
    ("/invoke/cloned/", 1),
    ("/invoke/cloned-jailed/", 1),
];

/// Functions whose instances are restored from snapshots.
pub const CLONED: [&str; 2] = ["cloned", "cloned-jailed"];

/// Their snapshots take so long that some kills come meanwhile.
const SNAPSHOT: &str = "{ settle = 0.7 }";

/// Paths of functions whose instances are paused between the requests.
const RARE: [&str; 4] =
    ["/invoke/pausing/pid", "/invoke/boxed-pausing/pid", "/invoke/guarded-pausing/pid", "/invoke/machine-pausing/"];
/// Keys of these functions.
const PAUSING: &str = "keepalive = 0.05\nkeep-paused = 600";
/// Time between two of these requests.
const THINKING: Duration = ms(200);

/// Returns the functions. Their processes carry the token of `home`.
pub fn functions(home: &Home) -> Vec<Function> {
    let image = home.path("disk.img");
    std::fs::write(&image, vec![7; 4 << 20]).unwrap();
    let image = format!("{image:?}");
    let token = ["--token", home.token()];
    let boxed = |name, top: &str| contained(name, &token, top, "");
    let disk = |name| Vm::new(name, Kind::Firecracker).vm("image", &image).set("single-use", true);
    let own_session = |function: Function| function.flag("--descendant").flag("own-session");
    vec![
        Function::new("lasting").set("min-instances", 1).set("concurrent-requests", 4),
        own_session(Function::new("once").set("single-use", true).flag("--ignore-sigterm")),
        own_session(Function::new("descendants").ends_after(0.2)),
        boxed("boxed", "min-instances = 1"),
        boxed("boxed-once", "single-use = true\nmax-instances = 2"),
        Vm::new("machine", Kind::Microvm).set("min-instances", 1).into(),
        disk("machine-once").into(),
        disk("jailed").hypervisor("jailer", true).into(),
        Vm::new("cloned", Kind::Microvm).vm("snapshot", SNAPSHOT).set("single-use", true).into(),
        disk("cloned-jailed").hypervisor("jailer", true).vm("snapshot", SNAPSHOT).into(),
        Vm::new("open", Kind::Microvm).vm("egress", true).ends_after(0.2).into(),
        own_session(Function::new("pausing").set("keepalive", 0.05).set("keep-paused", 600)),
        boxed("boxed-pausing", PAUSING),
        contained("guarded-pausing", &token, PAUSING, "runtime = \"runsc\""),
        Vm::new("machine-pausing", Kind::Microvm).set("keepalive", 0.05).set("keep-paused", 600).into(),
    ]
}

/// Clients, and an editor of the registry.
pub struct Load(Vec<JoinHandle<()>>);

impl Load {
    pub fn on(daemon: &Daemon, home: &Arc<Home>, seed: u64) -> Self {
        let clients = BUSY.iter().flat_map(|(path, count)| std::iter::repeat_n(*path, *count));
        let clients = clients.map(|path| (path, Duration::ZERO)).chain(RARE.map(|path| (path, THINKING)));
        let mut tasks: Vec<_> =
            clients.map(|(path, thinking)| tokio::spawn(client(daemon.listen, path, thinking))).collect();
        tasks.push(tokio::spawn(editor(home.clone(), StdRng::seed_from_u64(seed))));
        Self(tasks)
    }

    pub fn stop(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Sends requests until the daemon is gone, whatever the answers are.
async fn client(daemon: SocketAddr, path: &'static str, thinking: Duration) {
    while let Ok(mut connection) = Connection::open(daemon).await {
        if let Ok(reply) = connection.send(request("GET", path, empty())).await
            && reply.status >= 500
        {
            tokio::time::sleep(ms(50)).await;
        }
        tokio::time::sleep(thinking).await;
    }
}

async fn editor(home: Arc<Home>, mut random: StdRng) {
    loop {
        tokio::time::sleep(CHANGE).await;
        let value = random.random::<u32>().to_string();
        home.put(&Function::new("lasting").set("min-instances", 1).set("concurrent-requests", 4).env("VALUE", &value));
        home.put(&Function::new("fleeting").set("min-instances", 1).env("VALUE", &value));
        tokio::time::sleep(CHANGE).await;
        home.remove("fleeting");
    }
}

/// Invokes a function of each kind.
pub async fn serves(daemon: SocketAddr) {
    for path in LASTING {
        let mut connection = Connection::open(daemon).await.expect("the daemon accepts connections");
        connection.send(request("GET", path, empty())).await.expect("an answer").ok();
    }
}
