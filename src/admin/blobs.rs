//! `/blobs/<id>` on the listener for other nodes: the files of published versions, or the rest of one.

use std::{fs::OpenOptions, io, os::unix::fs::FileExt as _, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;
use futures::stream::try_unfold;
use unifaas_actors::cluster::BlobId;

use super::access::reject;
use crate::{
    failure::{Failure, Rejection},
    shared::Shared,
    state::file::open_regular,
};

/// Bytes that are read at once.
const PIECE: u64 = 256 * 1024;

/// Serves a blob, from the beginning of a range on. Its content is checked by the node that gets it.
pub async fn blob(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let nothing = || reject(&request, Failure::NoSuchPage);
    let functions = &shared.cluster.as_ref().ok_or_else(nothing)?.functions;
    let path = id.parse::<BlobId>().ok().and_then(|id| functions.store.find_blob(id)).ok_or_else(nothing)?;
    let opened = web::block(move || {
        let file = open_regular(&path, OpenOptions::new().read(true))?;
        let size = file.metadata()?.len();
        io::Result::Ok((file, size))
    });
    // A function may have removed it.
    let (file, size) = opened.await.ok().and_then(Result::ok).ok_or_else(nothing)?;
    let from = first_byte(&request);
    if from.is_some_and(|from| from >= size) {
        let range = (header::CONTENT_RANGE, format!("bytes */{size}"));
        return Ok(HttpResponse::RangeNotSatisfiable().insert_header(range).finish());
    }
    let mut response = HttpResponse::Ok();
    if let Some(from) = from {
        response.status(StatusCode::PARTIAL_CONTENT);
        response.insert_header((header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", size - 1)));
    }
    let (file, functions, from) = (Arc::new(file), functions.clone(), from.unwrap_or_default());
    let pieces = try_unfold(from, move |at| {
        let (file, functions) = (file.clone(), functions.clone());
        async move {
            if at >= size {
                return Ok(None);
            }
            let read = web::block(move || {
                let mut piece = vec![0; (size - at).min(PIECE) as usize];
                file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            functions.counters.count_served(piece.len());
            let next = at + piece.len() as u64;
            io::Result::Ok(Some((piece, next)))
        }
    });
    Ok(response.content_type("application/octet-stream").no_chunking(size - from).streaming(pieces))
}

/// Returns where the range of a request begins: `bytes=<first>-`, the only form that nodes use. Others are not looked at.
fn first_byte(request: &HttpRequest) -> Option<u64> {
    let range = request.headers().get(header::RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
