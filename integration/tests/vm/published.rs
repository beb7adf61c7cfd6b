//! A virtual machine that is published: its kernel is one of the files, and a node that never had them answers.

use std::{fs, path::Path};

use integration::{
    Connection, Daemon, Function, Home, SOON,
    brokers::Broker,
    empty, eventually, request,
    vm::{Kind, Vm, isolated, setup, unikernel},
};
use serde_json::Value;

async fn published(daemon: &Daemon) -> Value {
    let mut pages = Connection::open(daemon.listen).await.expect("the pages");
    let page = pages.send(request("GET", "/debug/cluster", empty())).await.expect("an answer").ok().json();
    page["published"].clone()
}

#[test]
fn published_kernel_boots_on_the_node_with_the_labels_that_never_had_it() {
    isolated(async || {
        let home = Home::new();
        let Some(server) = Broker::nats(&home, "").await else { return };
        let node = |name: &str| {
            let setup = setup().option("--cluster", server.url("nats")).option("--peer-listen", "127.0.0.1:0");
            setup.option("--node-name", name)
        };
        let a = node("a").start().await;
        let b = node("b").option("--node-label", "vm=yes").start().await;
        for daemon in [&a, &b] {
            let trouble = async || published(daemon).await["trouble"].clone();
            eventually(SOON, "the catalogue is followed", trouble, Value::is_null).await;
        }
        let vm = Vm::new("f", Kind::Microvm).kernel(Path::new("unikernel.elf"));
        let function: Function = vm.set("cluster", "{ nodes = [\"vm=yes\"] }").into();
        let root = home.path("published");
        function.write(&root, &home);
        let directory = root.join("f");
        fs::copy(unikernel(), directory.join("unikernel.elf")).unwrap();
        let ran = a.cli(&["publish", &directory.display().to_string(), "--copies", "2"]).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        fs::remove_dir_all(&directory).unwrap();

        let state = async |daemon| published(daemon).await["functions"]["f"].clone();
        eventually(SOON, "b serves it", async || state(&b).await, |it| it["state"] == "current").await;
        let reply = b.get("/invoke/f/hello").await.ok();
        assert!(reply.text().starts_with("Hello from the unikernel at 10.100."), "{}", reply.text());
        assert_eq!(reply.header("x-unifaas-node").as_deref(), Some("b"));
        // The other node holds the files, and has not the label.
        let held = state(&a).await;
        assert_eq!((&held["serves"], &held["versions"][0]["is_held"]), (&Value::Null, &true.into()), "{held}");
        assert!(held["problem"].as_str().is_some_and(|why| why.contains("[cluster] nodes")), "{held}");
        let forwarded = async || a.get("/invoke/f/hello").await;
        let by_b = |reply: &integration::Reply| reply.status == 200;
        let reply = eventually(SOON, "a has b answer", forwarded, by_b).await;
        assert_eq!(reply.header("x-unifaas-node").as_deref(), Some("b"));
    });
}
