//! The server's limits, and its end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use twinlink::server::Limits;

use super::lab::{Lab, PATIENCE, content, request, requests, serve_end};

const SHORT: Duration = Duration::from_millis(200);

/// More than the kernel takes for a client that reads nothing.
const LARGE: usize = 8 << 20;

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let lab = Lab::start(&[("s001.m4s", b"one")]).await;
    let padding = "x".repeat(17 * 1024);
    assert_eq!(lab.get("/s001.m4s", &[&format!("X-Padding: {padding}")]).await.status, 431);
    let many: Vec<String> = (0..200).map(|n| format!("X-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(lab.get("/s001.m4s", &many).await.status, 431);
    let fits = "x".repeat(15 * 1024);
    assert_eq!(lab.get("/s001.m4s", &[&format!("X-Padding: {fits}")]).await.status, 200);
    // The answer arrives although much of the head is never read.
    let endless = "x".repeat(1 << 20);
    assert_eq!(lab.get("/s001.m4s", &[&format!("X-Padding: {endless}")]).await.status, 431);
    let log = lab.end().await;
    let seen: Vec<_> = requests(&log).iter().map(|r| (r.method.as_str(), r.status)).collect();
    assert_eq!(seen, [("", 431), ("", 431), ("GET", 200), ("", 431)]);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let limits = Limits { head: SHORT, idle: PATIENCE * 2, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    for before in [false, true] {
        let mut client = lab.connect().await;
        if before {
            client.send(request("GET", "/s001.m4s", &[])).await;
            client.answer("GET").await;
        }
        client.send("GET /s001.m4s HTTP/1.1\r\nHo").await;
        assert_eq!(client.drain().await, 0);
    }
    // Each byte is progress, but a head has no right to it.
    let mut client = lab.connect().await;
    let started = Instant::now();
    while client.tcp.write_all(b"G").await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "a trickling head is never given up");
        sleep(SHORT / 10).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = Limits { idle: SHORT, head: PATIENCE * 2, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    assert_eq!(lab.connect().await.drain().await, 0);
    let mut client = lab.connect().await;
    client.send(request("GET", "/s001.m4s", &[])).await;
    assert_eq!(client.answer("GET").await.body, b"one");
    assert_eq!(client.drain().await, 0);
}

#[tokio::test]
async fn a_body_does_not_count_as_a_slow_head() {
    let limits = Limits { head: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    let mut client = lab.connect().await;
    client.send(request("PUT", "/sink", &["Content-Length: 4"])).await;
    client.send("ab").await;
    sleep(SHORT * 2).await;
    client.send("cd").await;
    assert_eq!(client.answer("PUT").await.status, 200);
    sleep(SHORT * 2).await;
    client.send(request("GET", "/s001.m4s", &[])).await;
    assert_eq!(client.answer("GET").await.body, b"one");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up() {
    let limits = Limits { stall: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("large", &content(LARGE, 1))], limits).await;
    let mut client = lab.connect_narrow(256 * 1024).await;
    client.send(request("GET", "/large", &[])).await;
    // Only the server ends this: what comes then is less than the file, and a reset.
    let started = Instant::now();
    while client.tcp.peer_addr().is_ok() && client.tcp.write_all(b"\r\n").await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "a stalled peer is never given up");
        sleep(SHORT / 4).await;
    }
    assert!(client.drain().await < LARGE);
    let log = lab.end().await;
    let request = requests(&log)[0];
    assert!(!request.complete && request.bytes < LARGE as u64, "{request:?}");
    assert_eq!(request.status, 200);
}

#[tokio::test]
async fn a_slow_peer_is_waited_for() {
    // The peer takes far longer than the limit, but never stops for as long.
    let limits = Limits { stall: SHORT * 8, idle: SHORT * 8, ..Limits::default() };
    let lab = Lab::with_limits(&[("large", &content(LARGE, 1))], limits).await;
    let mut client = lab.connect_narrow(16 * 1024).await;
    client.send(request("GET", "/large", &[])).await;
    let mut piece = vec![0; 16 * 1024];
    for _ in 0..40 {
        assert!(client.tcp.read(&mut piece).await.expect("the server gave up") > 0);
        sleep(SHORT / 2).await;
    }
}

#[tokio::test]
async fn connection_is_refused_where_all_are_busy() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let lab = Lab::with_limits(&[("large", &content(LARGE, 1)), ("s001.m4s", b"one")], limits).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = lab.connect_narrow(256 * 1024).await;
        client.send(request("GET", "/large", &[])).await;
        assert_eq!(client.head().await.status, 200);
        kept.push(client);
    }
    let refused = lab.get("/s001.m4s", &[]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.body, b"the server is busy: ask again in a while\n");
    kept.pop();
    let started = Instant::now();
    while lab.get("/s001.m4s", &[]).await.status != 200 {
        assert!(started.elapsed() < PATIENCE, "the place of a closed connection is never free");
        sleep(SHORT / 10).await;
    }
    drop(kept);
    assert!(serve_end(&lab.end().await).refused_connections >= 1);
}

#[tokio::test]
async fn idle_connections_make_room() {
    let limits = Limits { idle: PATIENCE * 4, head: PATIENCE * 4, connections: 16, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    // Connections that ask nothing, that begin a head, and that have had an answer.
    let mut idle = Vec::new();
    for kind in (0..3).cycle().take(48) {
        let mut client = lab.connect().await;
        match kind {
            0 => {}
            1 => client.send("GET /s001.m4s HTTP/1.1\r\nHo").await,
            _ => {
                client.send(request("GET", "/s001.m4s", &[])).await;
                assert_eq!(client.answer("GET").await.body, b"one");
            }
        }
        idle.push(client);
    }
    assert_eq!(lab.get("/s001.m4s", &[]).await.status, 200);
    // The first to wait was the first to be closed.
    assert_eq!(idle[0].drain().await, 0);
    assert_eq!(serve_end(&lab.end().await).refused_connections, 0);
}

#[tokio::test]
async fn what_is_in_flight_is_finished_at_the_end() {
    let large = content(LARGE, 1);
    let limits = Limits { finish: PATIENCE, ..Limits::default() };
    let lab = Lab::with_limits(&[("large", &large)], limits).await;
    let address = lab.address;
    let mut idle = lab.connect().await;
    let mut client = lab.connect_narrow(256 * 1024).await;
    client.send(request("GET", "/large", &[])).await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    let ending = lab.tell_to_end();
    assert_eq!(idle.drain().await, 0);
    let started = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "the listener stays open");
        sleep(SHORT / 10).await;
    }
    assert_eq!(client.drain().await, LARGE);
    let log = ending.log().await;
    assert!(requests(&log)[0].complete);
    assert_eq!(serve_end(&log).cut_connections, 0);
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let limits = Limits { finish: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("large", &content(LARGE, 1))], limits).await;
    let mut client = lab.connect_narrow(256 * 1024).await;
    client.send(request("GET", "/large", &[])).await;
    client.head().await;
    let log = lab.end().await;
    assert_eq!(serve_end(&log).cut_connections, 1);
    assert!(!requests(&log)[0].complete);
}

#[tokio::test]
async fn the_sink_counts_what_it_takes() {
    let limits = Limits { sink_bytes: 1000, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    let put = async |headers: &[&str], body: &str| {
        let mut client = lab.connect().await;
        client.send(request("PUT", "/sink", headers)).await;
        client.send(body).await;
        let answer = client.answer("PUT").await;
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, json["bytes"].as_u64().unwrap(), json["whole"].as_bool().unwrap())
    };
    let chunk = format!("190\r\n{}\r\n", "x".repeat(400));
    assert_eq!(put(&["Content-Length: 1000"], &"x".repeat(1000)).await, (200, 1000, true));
    assert_eq!(put(&["Content-Length: 0"], "").await, (200, 0, true));
    let chunked = ["Transfer-Encoding: chunked"];
    assert_eq!(put(&chunked, &format!("{chunk}{chunk}0\r\n\r\n")).await, (200, 800, true));
    assert_eq!(put(&["Content-Length: 1001"], "x").await, (413, 0, false));
    let (status, bytes, whole) = put(&chunked, &chunk.repeat(3)).await;
    assert_eq!((status, whole), (413, false));
    assert!(bytes > 1000);

    let mut client = lab.connect().await;
    client.send(request("PUT", "/sink", &["Content-Length: 3", "Expect: 100-continue"])).await;
    assert_eq!(client.answer("PUT").await.status, 100);
    client.send("abc").await;
    assert_eq!(client.answer("PUT").await.status, 200);
    drop(client);
    let log = lab.end().await;
    assert_eq!(requests(&log)[0].received_bytes, 1000);
}

#[tokio::test]
async fn the_sink_does_not_wait_for_ever() {
    let lab =
        Lab::with_limits(&[("s001.m4s", b"one")], Limits { sink_time: SHORT, ..Limits::default() }).await;
    let answer = lab.ask("PUT", "/sink", &["Content-Length: 10"]).await;
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    let limits = Limits { stall: SHORT, ..Limits::default() };
    let lab = Lab::with_limits(&[("s001.m4s", b"one")], limits).await;
    let mut client = lab.connect().await;
    client.send(request("PUT", "/sink", &["Content-Length: 10"]) + "abc").await;
    client.drain().await;
    let log = lab.end().await;
    assert_eq!((requests(&log)[0].received_bytes, requests(&log)[0].method.as_str()), (3, "PUT"));
}

#[tokio::test]
async fn a_file_that_changed_is_not_passed_off_as_what_it_was() {
    let lab = Lab::start(&[("s001.m4s", b"as it was"), ("s002.m4s", b"gone"), ("s003.m4s", b"stays")]).await;
    std::fs::write(lab.file("s001.m4s"), "longer than it was").unwrap();
    std::fs::remove_file(lab.file("s002.m4s")).unwrap();
    for name in ["/s001.m4s", "/s002.m4s"] {
        let answer = lab.get(name, &[]).await;
        assert_eq!((answer.status, answer.header("etag")), (500, None), "{name}");
        assert_eq!(lab.ask("HEAD", name, &[]).await.status, 500);
    }
    assert_eq!(lab.get("/s003.m4s", &[]).await.body, b"stays");
}

#[tokio::test]
async fn other_content_of_same_size_and_mtime_is_not_served() {
    let lab = Lab::start(&[("s001.m4s", b"before"), ("s002.m4s", b"stays")]).await;
    let mtime = std::fs::metadata(lab.file("s001.m4s")).unwrap().modified().unwrap();
    for (name, content) in [("s001.m4s", "behind"), ("s002.m4s", "stays")] {
        std::fs::write(lab.file(name), content).unwrap();
        let file = std::fs::File::options().write(true).open(lab.file(name)).unwrap();
        file.set_modified(mtime).unwrap();
    }
    assert_eq!(lab.get("/s001.m4s", &[]).await.status, 500);
    assert_eq!(lab.get("/s002.m4s", &[]).await.body, b"stays");
}

#[tokio::test]
async fn a_file_that_shrinks_on_the_way_breaks_the_connection() {
    let lab = Lab::start(&[("large", &content(LARGE, 1))]).await;
    let mut client = lab.connect_narrow(256 * 1024).await;
    client.send(request("GET", "/large", &[]).repeat(2)).await;
    client.head().await;
    std::fs::File::options().write(true).open(lab.file("large")).unwrap().set_len(LARGE as u64 / 2).unwrap();
    assert!(client.drain().await < LARGE);
    let log = lab.end().await;
    assert_eq!(requests(&log).len(), 1);
    assert!(!requests(&log)[0].complete);
}

#[tokio::test]
async fn a_file_written_over_on_the_way_breaks_the_connection_before_its_end() {
    let lab = Lab::start(&[("large", &content(LARGE, 1))]).await;
    let mut client = lab.connect_narrow(256 * 1024).await;
    client.send(request("GET", "/large", &[])).await;
    client.head().await;
    let file = std::fs::File::options().write(true).open(lab.file("large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", LARGE as u64 / 2).unwrap();
    assert!(client.drain().await < LARGE);
    assert!(!requests(&lab.end().await)[0].complete);
}
