//! Pulling of images, only with `pull = "missing"`.

use std::{fs, path::Path, process::Command, rc::Rc};

use integration::{Engine, Function};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::shared;

/// An image registry that serves the function under test.
struct Registry {
    /// One file per blob, named by its digest.
    blobs: TempDir,
    manifest: String,
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Registry {
    fn with_testfn(engine: &Engine) -> Self {
        let saved = TempDir::new().unwrap();
        let save = "docker --host \"$1\" save unifaas/testfn | tar -C \"$2\" -x";
        let at = saved.path().to_string_lossy();
        let status = Command::new("bash").args(["-o", "pipefail", "-c", save, "save", &engine.host(), &at]).status();
        assert!(status.unwrap().success(), "the image cannot be saved");
        let index: Value =
            serde_json::from_str(&fs::read_to_string(saved.path().join("manifest.json")).unwrap()).unwrap();

        let blobs = TempDir::new().unwrap();
        let blob = |path: &Value, kind: &str| {
            let path = saved.path().join(path.as_str().unwrap());
            let digest = digest(&path);
            let size = fs::copy(&path, blobs.path().join(&digest)).unwrap();
            json!({ "mediaType": kind, "size": size, "digest": format!("sha256:{digest}") })
        };
        let layers = index[0]["Layers"].as_array().unwrap().iter();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob(&index[0]["Config"], "application/vnd.docker.container.image.v1+json"),
            "layers": layers.map(|layer| blob(layer, "application/vnd.docker.image.rootfs.diff.tar")).collect::<Vec<_>>(),
        });
        Self { blobs, manifest: manifest.to_string() }
    }

    async fn serve(self: Rc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let registry = self.clone();
            tokio::task::spawn_local(async move { registry.answer(stream).await });
        }
    }

    async fn answer(&self, mut stream: TcpStream) {
        let mut head = [0; 8192];
        let length = stream.read(&mut head).await.unwrap_or_default();
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (kind, body) = match path.rsplit_once('/') {
            Some((_, "")) => ("text/plain", Vec::new()),
            Some((parent, _)) if parent.ends_with("/manifests") => (MANIFEST, self.manifest.clone().into_bytes()),
            Some((_, name)) => {
                let digest = name.trim_start_matches("sha256:");
                ("application/octet-stream", fs::read(self.blobs.path().join(digest)).expect("a blob of the image"))
            }
            None => return,
        };
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let body = if method == "HEAD" { &[][..] } else { &body };
        // The engine may close before the end.
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    }
}

fn digest(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn missing_image_is_pulled_only_if_configured() {
    let Some(engine) = shared() else { return };
    let registry = Rc::new(Registry::with_testfn(engine));
    let test = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // An engine trusts registries on loopback without TLS.
        let image = format!("{}/some/function:1", listener.local_addr().unwrap());
        tokio::task::spawn_local(registry.serve(listener));
        let container = format!("[container]\nimage = \"{image}\"\n");
        let daemon = engine
            .setup()
            .function(Function::verbatim("never", &container))
            .function(Function::verbatim("fetched", &format!("{container}pull = \"missing\"\n")))
            .start()
            .await;
        let problem = daemon.get("/invoke/never/pid").await.problem(502, "start_failed").to_string();
        assert!(problem.contains("not in the local engine"), "{problem}");
        daemon.get("/invoke/fetched/pid").await.ok();
        daemon.get("/invoke/never/pid").await.ok();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn pull_failure_quotes_engine() {
    let Some(engine) = shared() else { return };
    // No registry listens there.
    let text = "[container]\nimage = \"127.0.0.1:1/no/such-image:1\"\npull = \"missing\"";
    let daemon = engine.daemon(Function::verbatim("unreachable", text)).await;
    let problem = daemon.get("/invoke/unreachable/").await.problem(502, "start_failed").to_string();
    assert!(problem.contains("127.0.0.1:1/no/such-image:1") && problem.contains("could not be pulled"), "{problem}");
    assert!(problem.contains("connection refused"), "{problem}");
}
