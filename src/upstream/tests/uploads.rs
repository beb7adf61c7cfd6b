//! Request bodies, and when they may go.

use std::sync::Mutex;

use super::*;

#[actix_rt::test]
async fn interim_responses_and_continue_are_passed_on() {
    for asks in [true, false] {
        let client = Client::of(server(move |mut stream, _| async move {
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap();
            assert!(head[..length].ends_with(b"\r\n\r\n"));
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await.unwrap();
            if asks {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            }
            assert_eq!(stream.read(&mut head).await.unwrap(), 4);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }));
        let (mut sender, upload) = upload();
        static RECEIVED: Mutex<Vec<(StatusCode, HeaderMap)>> = Mutex::new(Vec::new());
        let began = Instant::now();
        let pump = async {
            assert!(sender.continue_requested().await);
            sender.send("body".into()).await.unwrap();
            sender.finish();
        };
        let sent = client.send_with(Method::POST, Some(upload), "4", |outgoing| {
            outgoing.wants_continue = true;
            outgoing.interim = Some(&|status, headers| RECEIVED.lock().unwrap().push((status, headers.clone())));
        });
        let (answer, ()) = tokio::join!(sent, pump);
        assert_eq!(answer.unwrap().head.status, 200);
        let received = std::mem::take(&mut *RECEIVED.lock().unwrap());
        assert_eq!(received.len(), 1, "{received:?}");
        assert_eq!((received[0].0.as_u16(), &received[0].1["link"]), (103, &"x".parse().unwrap()));
        assert_eq!(asks, began.elapsed() < CONTINUE_TIMEOUT);
    }
    let client = Client::of(answering("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"));
    let (mut sender, upload) = upload();
    let sent = client.send_with(Method::POST, Some(upload), "", |outgoing| outgoing.wants_continue = true);
    let (answer, asked) = tokio::join!(sent, sender.continue_requested());
    assert_eq!((answer.unwrap().head.status.as_u16(), asked), (413, false));
}

#[actix_rt::test]
async fn bodies_stream_both_ways() {
    const LENGTH: usize = 8 << 20;
    let client = Client::of(server(|mut stream, _| async move {
        let mut request = [0; 1024];
        let head = loop {
            let length = stream.peek(&mut request).await.unwrap();
            if let Some(head) = request[..length].windows(4).position(|end| end == b"\r\n\r\n") {
                break head + 4;
            }
        };
        stream.read_exact(&mut request[..head]).await.unwrap();
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
    }));
    let (mut sender, upload) = upload();
    let pump = async {
        for _ in 0..LENGTH >> 16 {
            sender.send(vec![b'x'; 1 << 16].into()).await.unwrap();
        }
        sender.finish();
    };
    let pull = async {
        let mut answer = client.send(Method::POST, Some(upload), &LENGTH.to_string()).await.unwrap();
        assert_eq!(answer.body.size(), Some(LENGTH as u64));
        let (mut length, mut chunks) = (0, 0);
        while let Some(chunk) = next(&mut answer.body).await {
            length += chunk.unwrap().len();
            chunks += 1;
        }
        println!("{LENGTH} bytes came in {chunks} chunks");
        length
    };
    assert_eq!(tokio::join!(pump, pull).1, LENGTH);
    assert_eq!(client.idle(), 1);
}

#[actix_rt::test]
async fn aborted_upload_has_no_clean_end() {
    let (seen, saw) = std::sync::mpsc::channel();
    let client = Client::of(server(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request).await;
            seen.send(request).unwrap();
        }
    }));
    let (mut sender, upload) = upload();
    let pump = async {
        sender.send("part".into()).await.unwrap();
        sleep(Duration::from_millis(20)).await;
        drop(sender);
    };
    let (answer, ()) = tokio::join!(client.send(Method::POST, Some(upload), ""), pump);
    assert!(matches!(answer.unwrap_err(), AttemptError::UploadAborted));
    let request = saw.recv_timeout(Duration::from_secs(1)).unwrap();
    assert!(request.ends_with(b"4\r\npart\r\n"), "{}", String::from_utf8_lossy(&request));
}

#[actix_rt::test]
async fn early_answer_arrives_although_upload_breaks() {
    for _ in 0..20 {
        let client = Client::of(server(|mut stream, _| async move {
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        }));
        let (mut sender, upload) = upload();
        let pump = async { while sender.send(vec![b'x'; 1 << 16].into()).await.is_ok() {} };
        let pull = async {
            let mut answer = client.send(Method::POST, Some(upload), "100000000").await.unwrap();
            let text = text(&mut answer.body).await.unwrap();
            (answer.head.status.as_u16(), text)
        };
        let ((), answer) = timeout(Duration::from_secs(3), async { tokio::join!(pump, pull) }).await.unwrap();
        assert_eq!(answer, (413, "no".to_owned()));
        assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (0, 0));
    }
}

#[actix_rt::test]
async fn dropped_exchange_closes_connection() {
    let (seen, saw) = std::sync::mpsc::channel();
    let client = Client::of(server(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            read_request(&mut stream).await;
            seen.send(read_request(&mut stream).await).unwrap();
        }
    }));
    let sent = client.send(Method::GET, None, "0");
    assert!(timeout(Duration::from_millis(50), sent).await.is_err());
    sleep(Duration::from_millis(20)).await;
    assert_eq!(saw.recv_timeout(Duration::from_secs(1)), Ok(None));
}
