//! What the server of the site stores: a line of JSON, and then a body as it is.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use unifaas_actors::{
    inbox::{
        Callback, CallbackState, DeadReason, InvocationId, Record, RecordedResponse, State, StoredRequest, UnixMillis,
    },
    site::{Call, KeyReservation},
    spec::AsyncSpec,
};

/// A call as it is stored. Its key has the id.
#[derive(Debug, Serialize, Deserialize)]
struct CallRow {
    function: String,
    #[serde(flatten)]
    state: StateRow,
    epoch: u32,
    attempts: u32,
    accepted: u64,
    deadline: u64,
    key: Option<String>,
    holder: u64,
    untouched: u32,
    response: Option<RecordedResponse>,
    /// Whether a body of the response follows.
    has_body: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackRow>,
    /// In milliseconds. An earlier version writes none.
    #[serde(default)]
    keep: Option<u64>,
    #[serde(default)]
    is_letter_kept: bool,
}

/// Where the result goes.
#[derive(Debug, Serialize, Deserialize)]
struct CallbackRow {
    url: String,
    attempts: u32,
    state: CallbackState,
}

/// Times are milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum StateRow {
    Queued { due: u64 },
    Running,
    Done { ended: u64, status: u16 },
    Dead { ended: u64, reason: DeadReason, status: Option<u16> },
}

/// A reserved key as it is stored. Its key has the function and the key.
#[derive(Debug, Serialize, Deserialize)]
struct KeyRow {
    id: String,
    fingerprint: Vec<u8>,
}

/// Returns a call as it is stored. A body that makes it larger than `limit` is left out.
pub fn encode_call(call: &Call, limit: usize) -> Bytes {
    let body = call.response.as_ref().and_then(|response| response.body.as_ref());
    let encoded = join(&row_of(call, body.is_some()), body.map_or(&[], |body| body));
    if encoded.len() <= limit { encoded } else { join(&row_of(call, false), &[]) }
}

fn row_of(call: &Call, has_body: bool) -> CallRow {
    let Record { ref function, ref state, epoch, attempts, accepted, deadline, ref key, ref callback, .. } =
        call.record;
    CallRow {
        function: function.to_string(),
        state: match *state {
            State::Queued { due } => StateRow::Queued { due: due.0 },
            State::Running => StateRow::Running,
            State::Done { ended, status } => StateRow::Done { ended: ended.0, status },
            State::Dead { ended, reason, status } => StateRow::Dead { ended: ended.0, reason, status },
        },
        epoch,
        attempts,
        accepted: accepted.0,
        deadline: deadline.0,
        key: key.as_ref().map(ToString::to_string),
        holder: call.holder,
        untouched: call.untouched,
        response: call.response.clone(),
        has_body,
        callback: callback.as_ref().map(|callback| CallbackRow {
            url: callback.url.to_string(),
            attempts: callback.attempts,
            state: callback.state,
        }),
        keep: Some(u64::try_from(call.keep.as_millis()).unwrap_or(u64::MAX)),
        is_letter_kept: call.is_letter_kept,
    }
}

/// Does the opposite of [`encode_call`].
pub fn decode_call(id: InvocationId, stored: &Bytes) -> Option<Call> {
    let (row, body) = split::<CallRow>(stored)?;
    let state = match row.state {
        StateRow::Queued { due } => State::Queued { due: UnixMillis(due) },
        StateRow::Running => State::Running,
        StateRow::Done { ended, status } => State::Done { ended: UnixMillis(ended), status },
        StateRow::Dead { ended, reason, status } => State::Dead { ended: UnixMillis(ended), reason, status },
    };
    let record = Record {
        seq: 0,
        id,
        function: row.function.into(),
        state,
        epoch: row.epoch,
        attempts: row.attempts,
        accepted: UnixMillis(row.accepted),
        deadline: UnixMillis(row.deadline),
        key: row.key.map(Into::into),
        callback: row.callback.map(|CallbackRow { url, attempts, state }| Callback {
            url: url.into(),
            attempts,
            state,
        }),
    };
    let response = row.response.map(|response| RecordedResponse { body: row.has_body.then_some(body), ..response });
    let keep = row.keep.map_or_else(|| AsyncSpec::default().keep_dead, Duration::from_millis);
    let CallRow { holder, untouched, is_letter_kept, .. } = row;
    Some(Call { record, holder, untouched, response, keep, is_letter_kept })
}

/// Returns a request as it is queued.
pub fn encode_request(request: &StoredRequest) -> Bytes {
    join(request, &request.body)
}

/// Does the opposite of [`encode_request`].
pub fn decode_request(stored: &Bytes) -> Option<StoredRequest> {
    split(stored).map(|(request, body)| StoredRequest { body, ..request })
}

/// Returns a reserved key as it is stored.
pub fn encode_key(key: &KeyReservation) -> Bytes {
    join(&KeyRow { id: key.id.to_string(), fingerprint: key.fingerprint.clone() }, &[])
}

/// Does the opposite of [`encode_key`], for a key that was to be reserved.
pub fn decode_key(wanted: &KeyReservation, stored: &Bytes) -> Option<KeyReservation> {
    let (KeyRow { id, fingerprint }, _) = split(stored)?;
    Some(KeyReservation { id: InvocationId::parse(&id)?, fingerprint, ..wanted.clone() })
}

fn join(head: &impl Serialize, body: &[u8]) -> Bytes {
    // Each of these can be written as JSON.
    let mut joined = serde_json::to_vec(head).unwrap_or_default();
    joined.push(b'\n');
    joined.extend_from_slice(body);
    joined.into()
}

fn split<T: DeserializeOwned>(stored: &Bytes) -> Option<(T, Bytes)> {
    let end = stored.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&stored[..end]).ok()?, stored.slice(end + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(state: State, body: Option<Bytes>) -> Call {
        let record = Record {
            seq: 0,
            id: InvocationId(7),
            function: "f.v2".into(),
            state,
            epoch: 2,
            attempts: 1,
            accepted: UnixMillis(1),
            deadline: UnixMillis(u64::MAX),
            key: Some("k".into()),
            callback: Some(Callback { url: "https://h/x".into(), attempts: 3, state: CallbackState::Waiting }),
        };
        let headers = vec![("content-type".to_owned(), b"text/plain".to_vec())];
        let response = RecordedResponse { status: 200, headers, body };
        let keep = Duration::from_secs(90);
        Call { record, holder: u64::MAX, untouched: 3, response: Some(response), keep, is_letter_kept: true }
    }

    #[test]
    fn calls_are_read_as_they_were_written() {
        let (ended, status) = (UnixMillis(5), Some(404));
        for state in [
            State::Queued { due: UnixMillis(4) },
            State::Running,
            State::Done { ended, status: 201 },
            State::Dead { ended, reason: DeadReason::Rejected, status },
        ] {
            for body in [None, Some(Bytes::new()), Some(Bytes::from_static(b"two\nlines"))] {
                let call = call(state.clone(), body);
                assert_eq!(decode_call(InvocationId(7), &encode_call(&call, 4096)), Some(call));
            }
        }
    }

    #[test]
    fn call_without_a_callback_has_none() {
        let mut call = call(State::Running, None);
        call.record.callback = None;
        let encoded = encode_call(&call, 4096);
        assert!(!encoded.windows(8).any(|part| part == b"callback"));
        assert_eq!(decode_call(InvocationId(7), &encoded), Some(call));
    }

    #[test]
    fn body_that_is_too_large_is_left_out() {
        let large = call(State::Running, Some(vec![b'x'; 4096].into()));
        let encoded = encode_call(&large, 4096);
        assert!(encoded.len() < 1000);
        assert_eq!(decode_call(InvocationId(7), &encoded).unwrap().response.unwrap().body, None);
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let request = StoredRequest::new("PUT", "/x?y", Bytes::from_static(b"a\nb")).header("x", [0xFF, b'y']);
        assert_eq!(decode_request(&encode_request(&request)), Some(request));
        assert_eq!(decode_request(&Bytes::from_static(b"{}")), None);
    }
}
