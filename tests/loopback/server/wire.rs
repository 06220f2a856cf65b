//! Requests as bytes: where each ends, and what becomes of those that do not say so plainly.
//!
//! Behind each request stands another one, for `/healthz`. The server has to answer it, or close the
//! connection; it must never take part of a body for a request, or part of a request for a body.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use twinlink::server::Limits;

use super::lab::{Client, Lab, PATIENCE, content, request, requests};

const SHORT: Duration = Duration::from_millis(200);
const AFTER: &str = "GET /healthz HTTP/1.1\r\nHost: lab\r\n\r\n";

/// The state of the connection behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Kept,
    Closed,
}
use Then::{Closed, Kept};

/// Sends `wire` and the request after it; returns the statuses that answer `wire`, and whether the request
/// after it was answered.
async fn exchange(lab: &Lab, wire: &[u8]) -> (Vec<u16>, Then) {
    let mut client = lab.connect().await;
    // The server may close before it has read all.
    let _ = client.tcp.write_all(wire).await;
    let _ = client.tcp.write_all(AFTER.as_bytes()).await;
    let _ = client.tcp.shutdown().await;
    let (mut statuses, mut method) = (Vec::new(), if wire.starts_with(b"HEAD") { "HEAD" } else { "GET" });
    while !client.is_at_end().await {
        let answer = client.answer(method).await;
        method = "GET";
        if answer.body == b"ok\n" {
            assert!(client.is_at_end().await, "an answer that nobody asked for");
            return (statuses, Kept);
        }
        statuses.push(answer.status);
    }
    (statuses, Closed)
}

async fn check(lab: &Lab, head: &str, cases: &[(&str, u16, Then)]) {
    for (rest, status, then) in cases {
        let wire = format!("{head}{rest}");
        assert_eq!(exchange(lab, wire.as_bytes()).await, (vec![*status], *then), "{wire:?}");
    }
}

async fn lab() -> Lab {
    Lab::start(&[("s001.m4s", b"one")]).await
}

const GET: &str = "GET /s001.m4s HTTP/1.1\r\nHost: lab\r\n";
const PUT: &str = "PUT /sink HTTP/1.1\r\nHost: lab\r\n";
const CHUNKED: &str = "PUT /sink HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn lengths_that_contradict_or_are_no_numbers_are_refused() {
    let cases = [
        ("Content-Length: 3\r\n\r\nabc", 200, Kept),
        ("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, Closed),
        ("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, Closed),
        ("Content-Length: 3, 4\r\n\r\nabc", 400, Closed),
        ("Content-Length: 3, 3\r\n\r\nabc", 400, Closed),
        ("Content-Length: +3\r\n\r\nabc", 400, Closed),
        ("Content-Length: -3\r\n\r\nabc", 400, Closed),
        ("Content-Length: 0x3\r\n\r\nabc", 400, Closed),
        ("Content-Length:\r\n\r\n", 400, Closed),
        ("Content-Length: 3 0\r\n\r\nabc", 400, Closed),
        ("Content-Length: 99999999999999999999999\r\n\r\nabc", 400, Closed),
    ];
    check(&lab().await, PUT, &cases).await;
}

#[tokio::test]
async fn transfer_codings_other_than_chunked_are_refused() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    let lab = lab().await;
    for (coding, status, then) in [
        ("chunked", 200, Kept),
        ("ChUnKeD", 200, Kept),
        ("identity", 400, Closed),
        ("gzip", 400, Closed),
        ("xchunked", 400, Closed),
        ("\"chunked\"", 400, Closed),
        ("\u{b}chunked", 400, Closed),
        ("chunked, identity", 400, Closed),
        ("gzip, chunked", 400, Closed),
        ("chunked, chunked", 400, Closed),
        ("chunked\r\nTransfer-Encoding: identity", 400, Closed),
    ] {
        let rest = format!("Transfer-Encoding: {coding}\r\n\r\n{body}");
        check(&lab, PUT, &[(&rest, status, then)]).await;
    }
    let old = "PUT /sink HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n";
    check(&lab, old, &[(body, 400, Closed)]).await;
}

#[tokio::test]
async fn length_beside_a_transfer_coding_is_refused() {
    let lab = lab().await;
    let body = "3\r\nabc\r\n0\r\n\r\n";
    for head in [PUT, GET] {
        for both in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        ] {
            check(&lab, head, &[(&format!("{both}{body}"), 400, Closed)]).await;
        }
    }
}

#[tokio::test]
async fn malformed_chunks_are_refused() {
    let overflowing = "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n";
    let cases = [
        ("3\r\nabc\r\n0\r\n\r\n", 200, Kept),
        ("0000000003\r\nabc\r\n0\r\n\r\n", 200, Kept),
        ("3;a=b\r\nabc\r\n0\r\n\r\n", 200, Kept),
        ("3\r\nabc\r\n0\r\nX: y\r\n\r\n", 200, Kept),
        ("3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n", 200, Kept),
        ("g\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("0x3\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("-3\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("+3\r\nabc\r\n0\r\n\r\n", 400, Closed),
        (" 3\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("3 \r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("\r\nabc\r\n0\r\n\r\n", 400, Closed),
        (overflowing, 400, Closed),
        ("10000000000000003\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("3\nabc\r\n0\r\n\r\n", 400, Closed),
        ("3\r\nabc\n0\r\n\r\n", 400, Closed),
        ("3\r\nabcd\r\n0\r\n\r\n", 400, Closed),
        ("3\r\nabc0\r\n\r\n", 400, Closed),
        ("3;a=\nb\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("3;a=\rb\r\nabc\r\n0\r\n\r\n", 400, Closed),
        ("3\r\nabc\r\n0\r\nX y\r\n\r\n", 400, Closed),
        ("0\n\n", 400, Closed),
        ("0\r\n\n", 400, Closed),
    ];
    let lab = lab().await;
    check(&lab, CHUNKED, &cases).await;
    // Bytes beside the content are bounded too.
    let extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(20_000));
    let extensions = format!("1;{}\r\na\r\n", "a".repeat(100)).repeat(1000) + "0\r\n\r\n";
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    for endless in [extension, extensions, trailers] {
        assert_eq!(exchange(&lab, format!("{CHUNKED}{endless}").as_bytes()).await, (vec![400], Closed));
    }
}

#[tokio::test]
async fn malformed_header_lines_are_refused() {
    let cases = [
        ("X: \u{e9}\r\n\r\n", 200, Kept),
        ("X: a\r\n b\r\n\r\n", 400, Closed),
        ("Transfer-Encoding:\r\n chunked\r\n\r\n", 400, Closed),
        ("X : 1\r\n\r\n", 400, Closed),
        ("Transfer-Encoding\t: chunked\r\n\r\n", 400, Closed),
        (": 1\r\n\r\n", 400, Closed),
        ("abc\r\n\r\n", 400, Closed),
        ("X: a\rb\r\n\r\n", 400, Closed),
        ("X: a\rTransfer-Encoding: chunked\r\n\r\n", 400, Closed),
        ("X: a\r\r\n\r\n", 400, Closed),
        ("X: a\0b\r\n\r\n", 400, Closed),
        ("X\0: a\r\n\r\n", 400, Closed),
        ("X: a\u{7f}b\r\n\r\n", 400, Closed),
        // A line may end in LF alone (RFC 9112, section 2.2).
        ("X: a\n\r\n", 200, Kept),
        ("X: a\r\n\n", 200, Kept),
    ];
    check(&lab().await, GET, &cases).await;
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    let host = "Host: lab\r\n\r\n";
    let lab = lab().await;
    for (line, status, then) in [
        ("GET /s001.m4s HTTP/1.1\r\n", 200, Kept),
        ("GET /s001.m4s HTTP/1.1\n", 200, Kept),
        ("\r\nGET /s001.m4s HTTP/1.1\r\n", 200, Kept),
        ("get /s001.m4s HTTP/1.1\r\n", 405, Kept),
        (" GET /s001.m4s HTTP/1.1\r\n", 400, Closed),
        ("GET /s001.m4s\r\n", 400, Closed),
        ("GET  /s001.m4s HTTP/1.1\r\n", 400, Closed),
        ("GET\t/s001.m4s\tHTTP/1.1\r\n", 400, Closed),
        ("GET /s001.m4s HTTP/1.1 \r\n", 400, Closed),
        ("GET /s001.m4s x HTTP/1.1\r\n", 400, Closed),
        ("GET  HTTP/1.1\r\n", 400, Closed),
        ("GET /s001.m4s HTTP/1.1\r\r\n", 400, Closed),
        ("GET /s001.m4s\0 HTTP/1.1\r\n", 400, Closed),
        ("G\0T /s001.m4s HTTP/1.1\r\n", 400, Closed),
        ("G(T /s001.m4s HTTP/1.1\r\n", 400, Closed),
        ("GET /s001.m4s http/1.1\r\n", 400, Closed),
        ("GET /s001.m4s HTTP/0.9\r\n", 400, Closed),
        ("GET /s001.m4s HTTP/1.2\r\n", 400, Closed),
        ("GET /s001.m4s HTTP/2.0\r\n", 400, Closed),
        ("GET /s001.m4s HTTP/11\r\n", 400, Closed),
    ] {
        check(&lab, line, &[(host, status, then)]).await;
    }
    assert_eq!(exchange(&lab, b"GET /\xff HTTP/1.1\r\nHost: lab\r\n\r\n").await, (vec![400], Closed));
    assert_eq!(exchange(&lab, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await, (vec![400], Closed));
    assert_eq!(exchange(&lab, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, (vec![400], Closed));
}

#[tokio::test]
async fn all_forms_of_a_target_are_read() {
    let host = "Host: lab\r\n\r\n";
    let lab = lab().await;
    for (line, status) in [
        ("GET http://lab/s001.m4s HTTP/1.1\r\n", 200),
        ("GET HTTPS://u:p@lab:1/s001.m4s?x HTTP/1.1\r\n", 200),
        ("GET /s001.m4s#x HTTP/1.1\r\n", 200),
        ("GET http://lab HTTP/1.1\r\n", 404),
        ("GET http://lab?/s001.m4s HTTP/1.1\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\n", 404),
        ("GET * HTTP/1.1\r\n", 404),
        ("CONNECT lab:80 HTTP/1.1\r\n", 404),
        ("GET /..\\x HTTP/1.1\r\n", 404),
        ("GET /%2e%2e/x HTTP/1.1\r\n", 404),
        ("GET s001.m4s HTTP/1.1\r\n", 400),
        ("GET http:///s001.m4s HTTP/1.1\r\n", 400),
        ("GET lab:80 HTTP/1.1\r\n", 400),
    ] {
        check(&lab, line, &[(host, status, Kept)]).await;
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: lab\r\n\r\n", "a".repeat(10_000));
    assert_eq!(exchange(&lab, long.as_bytes()).await, (vec![404], Kept));
}

#[tokio::test]
async fn body_of_a_request_that_takes_none_is_no_request() {
    let lab = lab().await;
    let inner = format!("Content-Length: {}\r\n\r\n{AFTER}", AFTER.len());
    let cases = [
        ("Content-Length: 0\r\n\r\n", 200, Kept),
        ("Content-Length: 3\r\n\r\nabc", 200, Kept),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, Kept),
        (inner.as_str(), 200, Kept),
    ];
    check(&lab, GET, &cases).await;
    check(&lab, "PUT /x HTTP/1.1\r\nHost: lab\r\n", &[("Content-Length: 3\r\n\r\nabc", 404, Kept)]).await;
    let large = format!("{GET}Content-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
    assert_eq!(exchange(&lab, large.as_bytes()).await, (vec![200], Closed));
    // One that never comes is not waited for.
    let limits = Limits { stall: SHORT, idle: PATIENCE * 2, head: PATIENCE * 2, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    for body in ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n9\r\nabc"] {
        let mut client = lab.connect().await;
        client.send(format!("{GET}{body}")).await;
        assert_eq!(client.answer("GET").await.body, b"one");
        assert_eq!(client.drain().await, 0);
    }
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on_once() {
    let lab = lab().await;
    let expect = "Expect: 100-continue\r\n\r\n";
    let sink = format!("{PUT}Content-Length: 3\r\n{expect}");
    let mut client = lab.connect().await;
    client.send(&sink).await;
    assert_eq!(client.answer("PUT").await.status, 100);
    client.send(format!("abc{AFTER}")).await;
    assert_eq!(client.answer("PUT").await.status, 200);
    assert_eq!(client.answer("GET").await.body, b"ok\n");
    // Where there is nothing to go on with, or nobody to tell.
    check(&lab, PUT, &[(&format!("Content-Length: 0\r\n{expect}"), 200, Kept)]).await;
    check(&lab, GET, &[(expect, 200, Kept), ("Expect: 200-ok\r\n\r\n", 200, Kept)]).await;
    check(&lab, PUT, &[(&format!("Content-Length: 9999999999\r\n{expect}"), 413, Closed)]).await;
    let old = format!("PUT /sink HTTP/1.0\r\nContent-Length: 3\r\n{expect}abc");
    assert_eq!(exchange(&lab, old.as_bytes()).await, (vec![200], Closed));
}

#[tokio::test]
async fn connection_options_decide_whether_it_is_kept() {
    let lab = lab().await;
    for (head, then) in [
        ("GET /s001.m4s HTTP/1.1\r\nHost: a\r\n", Kept),
        ("GET /s001.m4s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", Closed),
        ("GET /s001.m4s HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n", Closed),
        ("GET /s001.m4s HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n", Closed),
        ("GET /s001.m4s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", Kept),
        ("GET /s001.m4s HTTP/1.0\r\n", Closed),
        ("GET /s001.m4s HTTP/1.0\r\nConnection: Keep-Alive\r\n", Kept),
        ("GET /s001.m4s HTTP/1.0\r\nConnection: keep-alive, close\r\n", Closed),
        ("HEAD /s001.m4s HTTP/1.1\r\nHost: a\r\n", Kept),
    ] {
        check(&lab, head, &[("\r\n", 200, then)]).await;
    }
}

#[tokio::test]
async fn last_answer_ends_the_connection_at_once() {
    let limits = Limits { linger: PATIENCE * 4, idle: PATIENCE * 4, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    for wire in
        ["GET /s001.m4s HTTP/1.0\r\n\r\n", "nonsense\r\n\r\n", &format!("{GET}Connection: close\r\n\r\n")]
    {
        let mut client = lab.connect().await;
        client.send(wire).await;
        client.answer("GET").await;
        assert_eq!(client.drain().await, 0, "{wire:?}");
    }
}

/// Sends `piece` over and over; returns the bytes sent until the server ended the connection.
async fn send_for_ever(client: &mut Client, piece: &str) -> usize {
    let mut sent = 0;
    while client.tcp.write_all(piece.as_bytes()).await.is_ok() {
        sent += piece.len();
        assert!(sent < 256 << 20, "the server takes all of it");
    }
    sent
}

#[tokio::test]
async fn endless_heads_are_refused() {
    let limits = Limits { linger: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    let x = "x".repeat(1000);
    for (start, piece) in [
        (GET, "X: y\r\n"),
        (GET, &format!("{x}: {x}\r\n")),
        ("GET /s001.m4s HTTP/1.1\r\nX: ", &x),
        ("GET /", &x),
        ("", "\r\n"),
    ] {
        let mut client = lab.connect().await;
        let (piece, _) = (piece.repeat(20_000 / piece.len()), client.send(start).await);
        client.send(&piece).await;
        assert_eq!(client.head().await.status, 431, "{start:?} {:?}", &piece[..10]);
        send_for_ever(&mut client, &piece).await;
    }
    let many: String = (0..99).map(|n| format!("X-{n}: 1\r\n")).collect();
    let cases = [(format!("{many}\r\n"), 200, Kept), (format!("{many}X: 1\r\n\r\n"), 431, Closed)];
    for (many, status, then) in &cases {
        check(&lab, GET, &[(many, *status, *then)]).await;
    }
}

#[tokio::test]
async fn endless_uploads_are_cut_off() {
    let limits = Limits { linger: SHORT, sink_bytes: 1 << 20, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    let data = "x".repeat(64 * 1024);
    let chunk = format!("10000\r\n{data}\r\n");
    for (start, piece, status) in [
        (CHUNKED.to_string(), &chunk, 413),
        (format!("{PUT}Content-Length: 9000000000000\r\n\r\n"), &data, 413),
        (format!("{GET}Content-Length: 9000000000000\r\n\r\n"), &data, 200),
        (format!("{GET}Transfer-Encoding: chunked\r\n\r\n"), &chunk, 200),
        ("PUT /x HTTP/1.1\r\nHost: lab\r\nContent-Length: 9000000000000\r\n\r\n".into(), &data, 404),
        (format!("{CHUNKED}0\r\n"), &"X: y\r\n".repeat(1000), 400),
    ] {
        let mut client = lab.connect().await;
        client.send(&start).await;
        send_for_ever(&mut client, piece).await;
        drop(client);
        // A reset may have overtaken the answer; the log has it.
        let mut client = lab.connect().await;
        client.send(&start).await;
        client.send(&piece.repeat((2 << 20) / piece.len())).await;
        assert_eq!(client.head().await.status, status, "{start:?}");
    }
}

#[tokio::test]
async fn a_trickling_upload_has_an_end() {
    let limits = Limits { sink_time: SHORT, linger: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    for (start, piece) in
        [(format!("{PUT}Content-Length: 900000\r\n\r\n"), "x"), (CHUNKED.into(), "1\r\nx\r\n")]
    {
        let mut client = lab.connect().await;
        client.send(&start).await;
        while client.tcp.write_all(piece.as_bytes()).await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    }
    let log = lab.end().await;
    assert!(requests(&log).iter().all(|request| request.status == 408), "{log:?}");
}

#[tokio::test]
async fn hundred_thousand_pipelined_requests_are_answered() {
    const COUNT: usize = 100_000;
    let lab = Lab::start(&[("a", b"first"), ("b", b"second one")]).await;
    let mut client = lab.connect().await;
    let mut sending = client.twin();
    let pair = request("GET", "/a", &[]) + &request("GET", "/b", &["Range: bytes=1-"]);
    let all = tokio::spawn(async move {
        for _ in 0..COUNT / 200 {
            sending.write_all(pair.repeat(100).as_bytes()).await.unwrap();
        }
    });
    for _ in 0..COUNT / 2 {
        let first = client.answer("GET").await;
        assert_eq!((first.status, &first.body[..]), (200, &b"first"[..]));
        let second = client.answer("GET").await;
        assert_eq!((second.status, &second.body[..]), (206, &b"econd one"[..]));
    }
    all.await.unwrap();
    client.send(request("GET", "/a", &["Connection: close"])).await;
    assert_eq!(client.answer("GET").await.body, b"first");
    assert_eq!(client.drain().await, 0);
}

#[tokio::test]
async fn requests_of_a_client_that_reads_nothing_are_left_unread() {
    let limits = Limits { stall: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("large", &content(1 << 20, 1))], limits).await;
    let mut client = lab.connect_narrow(64 * 1024).await;
    let many = request("GET", "/large", &[]).repeat(1000);
    send_for_ever(&mut client, &many).await;
    drop(client);
    let log = lab.end().await;
    let answered = requests(&log).len();
    assert!((1..100).contains(&answered), "{answered} answers for a client that reads none");
}

#[tokio::test]
async fn malformed_requests_are_in_the_log() {
    let lab = lab().await;
    let mut client = lab.connect().await;
    client.send(request("GET", "/s001.m4s", &[]) + "nonsense\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 200);
    let refused = client.answer("GET").await;
    assert_eq!((refused.status, refused.header("connection")), (400, Some("close")));
    assert_eq!(client.drain().await, 0);
    let log = lab.end().await;
    let seen: Vec<_> =
        requests(&log).iter().map(|r| (r.request, r.method.clone(), r.status, r.complete)).collect();
    assert_eq!(seen, [(1, "GET".to_string(), 200, true), (2, String::new(), 400, true)]);
}
