//! Tests of head parsing, and of whole connections over bytes in memory.

use super::{request::Body, *};

fn head(text: &str) -> Vec<String> {
    text.split("\r\n").map(str::to_owned).collect()
}

/// Returns the output of the server, and whether the connection ended without an error.
fn talk(input: &str) -> (String, bool) {
    let mut output = Vec::new();
    let outcome = converse(input.as_bytes(), &mut output, &Answer::Greeting("Hello\n".to_owned()));
    (String::from_utf8(output).unwrap(), outcome.is_ok())
}

#[test]
fn get_has_no_body_and_keeps_connection() {
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
fn header_names_and_tokens_ignore_case() {
    let lines = head("PUT / HTTP/1.1\r\nCONNECTION: TE, Close\r\ntransfer-ENCODING: Chunked\r\nexpect: 100-Continue");
    let request = Request::parse(&lines).unwrap();
    assert_eq!((request.keep_alive, request.expects_continue, request.body), (false, true, Body::Chunked));
}

#[test]
fn http_1_0_closes_connection() {
    assert!(!Request::parse(&head("GET / HTTP/1.0")).unwrap().keep_alive);
}

#[test]
fn accepts_repeated_length_only_if_equal() {
    let twice = |other: &str| head(&format!("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: {other}"));
    assert_eq!(Request::parse(&twice("5")).unwrap().body, Body::Length(5));
    assert_eq!(Request::parse(&twice("6")), Err("two different lengths"));
}

#[test]
fn refuses_ambiguous_heads() {
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
fn finds_requests_after_bodies() {
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
fn response_to_head_has_length_but_no_body() {
    let (answer, _) = talk("HEAD / HTTP/1.1\r\n\r\n");
    assert!(answer.contains("Content-Length: 13\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn answers_expect_with_continue() {
    let (answer, _) = talk("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx");
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn bad_framing_is_400_and_ends_connection() {
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
fn incomplete_body_gets_no_response() {
    for input in [
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        assert_eq!(talk(input), (String::new(), false));
    }
}

#[test]
fn a_program_gets_the_request_and_its_output_is_the_answer() {
    let run = |script: &str, input: &str| {
        let program = Program::new(["sh", "-c", script].map(Into::into).into()).unwrap();
        let mut output = Vec::new();
        let outcome = converse(input.as_bytes(), &mut output, &Answer::Program(program));
        assert!(outcome.is_ok(), "{outcome:?}");
        String::from_utf8(output).unwrap()
    };
    let post = "POST /a/b?c=d HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
    let text = run("echo $REQUEST_METHOD $PATH_INFO $QUERY_STRING; cat", post);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nPOST /a/b c=d\nbody"), "{text}");
    // It need not read the body, which the next request follows.
    let text = run("exec <&-; echo $REQUEST_METHOD", &format!("{post}GET / HTTP/1.1\r\n\r\n"));
    assert!(text.contains("POST\n") && text.ends_with("GET\n"), "{text}");
    let text = run("echo part; exit 3", post);
    assert!(text.starts_with("HTTP/1.1 500 ") && text.ends_with("exit status: 3\n"), "{text}");
    let text = run("head -c 70000000 /dev/zero", post);
    assert!(text.starts_with("HTTP/1.1 500 ") && text.ends_with("the output is larger than 64 MiB\n"), "{text}");
    assert!(Program::new(Vec::new()).is_err());
}
