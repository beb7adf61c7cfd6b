//! `unifaas publish`: sends the files of a function to the daemon, and waits until other nodes have them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use unifaas_actors::{
    cluster::{BlobHasher, BlobId, Content, MAX_VERSION, Manifest, ManifestError},
    spec::{FunctionSpec, check_name},
};

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::string,
    terminal::{Output, thousands},
};
use crate::cli::publish::Publish;

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;
/// Nodes that are to have the files, if nothing else is said and there are as many.
const COPIES: usize = 2;
/// Between two looks at which nodes have them.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Publishes the function in a directory.
///
/// # Errors
/// It is misconfigured or cannot be read, the daemon refuses it, or not enough nodes have it in time.
pub async fn run(arguments: &Publish, output: &Output) -> Result<(), CommandError> {
    let directory = arguments.directory.canonicalize().map_err(|error| unreadable(&arguments.directory, &error))?;
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    check_name(&name).map_err(|error| CommandError::Usage(error.to_string()))?;
    FunctionSpec::check(&directory).map_err(|error| CommandError::No(error.to_string()))?;
    let (manifest, paths) = read(&directory)?;
    let (version, encoded) = (manifest.version(), manifest.encode());
    let length = encoded.len() as u64 + manifest.blobs().values().sum::<u64>();
    let query = format!("manifest={}&percent={}", encoded.len(), arguments.percent);
    let path = format!("/debug/functions/{name}/publish?{query}");
    let body = StreamBody::new(content(encoded, paths));
    let mut client = Client::new(&arguments.daemon)?;
    let done = client.upload(&path, length, body).await?;
    let nodes = wait_for_copies(&mut client, &name, version, arguments).await?;
    if arguments.daemon.json {
        let mut done = done;
        done["nodes"] = nodes.into();
        return output.line(&done.to_string());
    }
    let size = thousands(manifest.bytes().div_ceil(1024));
    output.line(&format!("{name}: version {}, {size} KiB, on {}", version.short(), nodes.join(", ")))
}

/// Waits until enough nodes have a version. Returns their names.
async fn wait_for_copies(
    client: &mut Client,
    name: &str,
    version: BlobId,
    arguments: &Publish,
) -> Result<Vec<String>, CommandError> {
    let limit = Instant::now() + arguments.wait;
    loop {
        let page = client.page("/debug/cluster", Subject::None).await?;
        let [holders, others] = holders(&page, name, version);
        let wanted = arguments.copies.unwrap_or(COPIES.min(holders.len() + others.len()));
        if holders.len() >= wanted {
            return Ok(holders);
        }
        if Instant::now() >= limit {
            let (version, count) = (version.short(), holders.len());
            let missing = if others.is_empty() { "no other node is known".to_owned() } else { others.join(", ") };
            return Err(CommandError::No(format!(
                "version {version} of {name} is published, but {count} of {wanted} nodes have it ({}), and not yet: {missing}",
                holders.join(", ")
            )));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Returns the nodes that have a version, and those that do not.
fn holders(page: &Value, name: &str, version: BlobId) -> [Vec<String>; 2] {
    let own = &page["published"]["functions"][name]["versions"];
    let is_own = own
        .as_array()
        .into_iter()
        .flatten()
        .any(|listed| listed["version"].as_str() == Some(&version.to_string()) && listed["is_held"] == true);
    let digits = version.short();
    let peers = page["peers"].as_array().into_iter().flatten().map(|peer| {
        let holds = peer["versions"][name]["holds"].as_array();
        (string(&peer["name"]), holds.is_some_and(|holds| holds.iter().any(|held| string(held) == digits)))
    });
    let mut found = [Vec::new(), Vec::new()];
    for (node, has_it) in [(string(&page["name"]), is_own)].into_iter().chain(peers) {
        found[usize::from(!has_it)].push(node.to_owned());
    }
    found
}

/// Reads which files there are. Returns the manifest, and where the content of each blob is.
fn read(directory: &Path) -> Result<(Manifest, BTreeMap<BlobId, PathBuf>), CommandError> {
    let (mut files, mut paths, mut bytes) = (BTreeMap::new(), BTreeMap::new(), 0);
    let refused =
        |error: ManifestError| CommandError::No(format!("{} cannot be published: {error}", directory.display()));
    let mut below = vec![String::new()];
    while let Some(prefix) = below.pop() {
        let place = directory.join(&prefix);
        for entry in fs::read_dir(&place).map_err(|error| unreadable(&place, &error))? {
            let entry = entry.map_err(|error| unreadable(&place, &error))?;
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
                return Err(CommandError::No(format!("{} has a name that is not UTF-8", path.display())));
            };
            let metadata = entry.metadata().map_err(|error| unreadable(&path, &error))?;
            let kind = metadata.file_type();
            let content = if kind.is_dir() {
                below.push(format!("{name}/"));
                continue;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(|error| unreadable(&path, &error))?;
                Content::Link(target.to_string_lossy().into_owned())
            } else if kind.is_file() {
                bytes += metadata.len();
                if bytes > MAX_VERSION {
                    return Err(refused(ManifestError::TooLarge(bytes)));
                }
                let (hash, size) = hash(&path).map_err(|error| unreadable(&path, &error))?;
                paths.insert(hash, path);
                Content::File { mode: metadata.permissions().mode() & 0o7777, size, hash }
            } else {
                return Err(CommandError::No(format!("{} is neither a file nor a directory", path.display())));
            };
            files.insert(name, content);
        }
    }
    Ok((Manifest::new(files).map_err(refused)?, paths))
}

fn hash(path: &Path) -> io::Result<(BlobId, u64)> {
    let (mut file, mut hasher, mut size) = (File::open(path)?, BlobHasher::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((hasher.finish(), size)),
            read => {
                hasher.update(&piece[..read]);
                size += read as u64;
            }
        }
    }
}

/// Returns the manifest, and behind it the content of each blob in their order.
fn content(
    manifest: Vec<u8>,
    paths: BTreeMap<BlobId, PathBuf>,
) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static {
    let files = stream::iter(paths.into_values().map(File::open));
    let pieces = futures::StreamExt::flat_map(files, |file| {
        stream::try_unfold(file, |file| async {
            let mut file = file?;
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece)?;
            piece.truncate(read);
            Ok((read > 0).then(|| (Frame::data(piece.into()), Ok(file))))
        })
    });
    futures::StreamExt::chain(stream::iter([Ok(Frame::data(manifest.into()))]), pieces)
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::No(format!("cannot read {}: {error}", path.display()))
}
