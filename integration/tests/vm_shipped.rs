//! The shipped functions in virtual machines, and a daemon without the privilege for them.

use integration::{
    Function, linux, shipped,
    vm::{self, Kind, Vm, isolated, setup, without_net_admin},
};

#[test]
fn shipped_unikernel_functions_answer() {
    isolated(|| async {
        let daemon = setup().option("--registry", shipped("registry")).start().await;
        for function in ["hello-firecracker", "hello-microvm", "hello-qemu"] {
            let text = daemon.get(&format!("/invoke/{function}/")).await.ok().text();
            assert!(text.starts_with("Hello from the unikernel at 10.100."), "{function}: {text}");
        }
    });
}

#[test]
fn linux_boots_and_answers() {
    isolated(|| async {
        if let Some(missing) = linux::obstacle() {
            return vm::skip(&missing);
        }
        let daemon = setup().option("--registry", shipped("registry")).start().await;
        let text = daemon.get("/invoke/linux-qemu/").await.ok().text();
        assert!(text.to_lowercase().contains("hello"), "{text}");
        let again = daemon.post("/invoke/linux-qemu/a/path", "a body").await.ok();
        assert!(again.took < integration::ms(500), "{:?}", again.took);
    });
}

#[test]
fn missing_privilege_refuses_only_vms() {
    isolated(|| async {
        without_net_admin();
        let setup = setup().function(Vm::new("f", Kind::Microvm).into()).function(Function::new("process"));
        let user = Vm::new("user", Kind::Microvm).vm("network", "\"user\"");
        let daemon = setup.function(user.into()).start().await;
        let problem = daemon.get("/invoke/f/").await.problem(502, "start_failed").to_string();
        assert!(problem.contains("CAP_NET_ADMIN"), "{problem}");
        daemon.get("/invoke/process/pid").await.ok();
        daemon.get("/invoke/user/").await.ok();
    });
}
