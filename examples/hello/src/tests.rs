//! Tests of head parsing, and of whole conversations over bytes in memory.

use super::{request::Body, *};

fn head(text: &str) -> Vec<String> {
    text.split("\r\n").map(str::to_owned).collect()
}

/// What the server writes, and whether it found the conversation in order.
fn talk(input: &str) -> (String, bool) {
    let mut output = Vec::new();
    let outcome = converse(input.as_bytes(), &mut output, "Hello\n");
    (String::from_utf8(output).unwrap(), outcome.is_ok())
}

#[test]
fn a_plain_get_has_no_body_and_keeps_the_connection() {
    let lines = head("GET /a/b%20c?q=1 HTTP/1.1\r\nHost: localhost");
    let expected = Request {
        method: "GET",
        target: "/a/b%20c?q=1",
        keep_alive: true,
        expects_continue: false,
        body: Body::Length(0),
    };
    assert_eq!(Request::parse(&lines), Ok(expected));
}

#[test]
fn header_names_and_tokens_are_read_without_regard_to_case() {
    let lines = head("PUT / HTTP/1.1\r\nCONNECTION: TE, Close\r\ntransfer-ENCODING: Chunked\r\nexpect: 100-Continue");
    let request = Request::parse(&lines).unwrap();
    assert_eq!((request.keep_alive, request.expects_continue, request.body), (false, true, Body::Chunked));
}

#[test]
fn http_1_0_closes_the_connection() {
    assert!(!Request::parse(&head("GET / HTTP/1.0")).unwrap().keep_alive);
}

#[test]
fn a_length_said_twice_is_accepted_only_when_it_is_the_same() {
    let twice = |other: &str| head(&format!("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: {other}"));
    assert_eq!(Request::parse(&twice("5")).unwrap().body, Body::Length(5));
    assert_eq!(Request::parse(&twice("6")), Err("two different lengths"));
}

#[test]
fn a_head_that_could_be_read_in_two_ways_is_refused() {
    for text in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 again",
        "GET / HTTP/2",
        "GET / HTTP/1.1\r\nno colon",
        "GET / HTTP/1.1\r\n folded: line",
        "GET / HTTP/1.1\r\nContent-Length : 1",
        "GET / HTTP/1.1\r\n: nameless",
        "GET / HTTP/1.1\r\nContent-Length: +1",
        "GET / HTTP/1.1\r\nContent-Length:",
        "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999",
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        assert!(Request::parse(&head(text)).is_err(), "accepted: {text:?}");
    }
}

#[test]
fn requests_behind_bodies_of_either_kind_are_found() {
    let (answers, in_order) = talk(
        "POST /one HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /\
         POST /two HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n\
         \r\nGET /three HTTP/1.1\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\n\r\n",
    );
    assert!(in_order);
    let bodies: Vec<&str> = answers.split("Hello\n").skip(1).map(|part| part.lines().next().unwrap()).collect();
    assert_eq!(bodies, ["POST /one", "POST /two", "GET /three"]);
}

#[test]
fn the_answer_to_head_has_a_length_but_no_body() {
    let (answer, _) = talk("HEAD / HTTP/1.1\r\n\r\n");
    assert!(answer.contains("Content-Length: 13\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let (answer, _) = talk("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx");
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn bad_framing_is_answered_with_400_and_ends_the_connection() {
    let chunk = |chunk: &str| format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
    let endless = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_LIMIT as usize));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEAD_LIMIT as usize));
    for input in [chunk("g\r\n"), chunk("-1\r\n"), chunk("1\r\nab\r\n0\r\n\r\n"), endless, many] {
        let (answer, in_order) = talk(&input);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Connection: close\r\n"), "{answer}");
        assert!(!in_order && !answer.contains("200 OK"));
    }
}

#[test]
fn a_body_that_breaks_off_gets_no_answer() {
    for input in [
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        assert_eq!(talk(input), (String::new(), false));
    }
}
