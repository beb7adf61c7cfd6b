//! What instances may send, and how exchanges end.

use super::*;

#[actix_rt::test]
async fn bytes_behind_response_reach_no_other_request() {
    for (method, response, body) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray", ""),
        (Method::GET, "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nstray", ""),
        (Method::GET, "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n5\r\nstray\r\n0\r\n\r\n", ""),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nstray", ""),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokstray", "ok"),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "ok",
        ),
        (Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nstray", "ok"),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nstray", ""),
    ] {
        let client = Client::of(answering(response));
        for _ in 0..20 {
            assert_eq!(client.text(method.clone()).await.as_deref(), Ok(body), "{response}");
            assert_eq!(client.idle(), 0, "{response}");
        }
    }
}

#[actix_rt::test]
async fn keeps_connection_after_complete_response() {
    for (method, response) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
        (Method::POST, "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\ntrailer: x\r\n\r\n"),
    ] {
        let client = Client::of(answering(response));
        for _ in 0..3 {
            client.text(method.clone()).await.unwrap();
            assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (1, 1), "{response}");
        }
    }
    for response in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
    ] {
        let client = Client::of(answering(response));
        client.text(Method::GET).await.unwrap();
        assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (0, 0), "{response}");
    }
}

#[actix_rt::test]
async fn malformed_responses_are_errors() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(130));
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    for (response, error) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "no clear length"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "no clear length"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "no clear length"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "no clear length",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok", "no clear length"),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n", "no clear length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", "invalid content-length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok", "invalid content-length"),
        ("HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok", "invalid HTTP header"),
        ("HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n", "invalid HTTP header"),
        ("HTTP/1.1 099 OK\r\n\r\n", "invalid HTTP status-code"),
        ("garbage\r\n\r\n", "invalid HTTP version"),
        (many.leak(), "head is too large"),
        (huge.leak(), "head is too large"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "not requested"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "chunked body is malformed"),
    ] {
        let client = Client::of(answering(response));
        let found = client.text(Method::GET).await.expect_err(response);
        assert!(found.contains(error), "{response}: {found}");
        assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (0, 0), "{response}");
    }
}

#[actix_rt::test]
async fn truncated_response_is_an_error() {
    for (response, error) in [
        ("", "before it responded"),
        ("HTTP/1.1 200", "in its response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", "in its response"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "in its response"),
    ] {
        let client = Client::of(server(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(response.as_bytes()).await.unwrap();
        }));
        let found = client.text(Method::GET).await.expect_err(response);
        assert!(found.contains(error), "{response}: {found}");
    }
    let client = Client::of(server(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall").await.unwrap();
    }));
    assert_eq!(client.text(Method::GET).await.unwrap(), "all");
}

#[actix_rt::test]
async fn ended_instance_ends_its_exchanges() {
    let silent = |response: &'static str| {
        Client::of(server(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(response.as_bytes()).await.unwrap();
            sleep(Duration::from_secs(60)).await;
        }))
    };
    for (response, heard) in [("", false), ("HTTP/1.1 200", true)] {
        let client = silent(response);
        let (sent, ()) = tokio::join!(client.send(Method::POST, None, "0"), async {
            sleep(Duration::from_millis(50)).await;
            client.endpoint.set_ended(None);
        });
        let error = sent.unwrap_err();
        assert!(
            matches!(error, AttemptError::Broken { heard: found, reused: false, .. } if found == heard),
            "{error:?}"
        );
    }
    let client = silent("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart");
    let mut answer = client.send(Method::POST, None, "0").await.unwrap();
    client.endpoint.set_ended(None);
    let error = timeout(Duration::from_secs(1), text(&mut answer.body)).await.unwrap().unwrap_err();
    assert!(error.contains("in its response"));
    assert!(matches!(client.send(Method::GET, None, "0").await.unwrap_err(), AttemptError::Connect(_)));
}

#[actix_rt::test]
async fn upgraded_connection_is_a_tunnel() {
    let client = Client::of(server(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nfirst").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        stream.write_all(&echo).await.unwrap();
        sleep(Duration::from_secs(60)).await;
    }));
    let sent = client.send_with(Method::GET, None, "0", |outgoing| outgoing.wants_upgrade = true);
    let answer = sent.await.unwrap();
    assert_eq!(answer.head.status, StatusCode::SWITCHING_PROTOCOLS);
    let mut tunnel = answer.body.into_upgraded().unwrap();
    assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (0, 1));
    tunnel.write_all(b"echo").await.unwrap();
    let mut read = [0; 9];
    tunnel.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"firstecho");
    client.endpoint.set_ended(None);
    assert_eq!(timeout(Duration::from_secs(1), tunnel.read(&mut read)).await.unwrap().unwrap(), 0);
}
