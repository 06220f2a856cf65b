//! The server's answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::lab::{Lab, content, request, requests, serve_end, sha256_hex};

#[tokio::test]
async fn a_file_comes_whole_with_all_that_is_promised() {
    let video = content(300_000, 1);
    let lab = Lab::start(&[("s001.m4s", &video)]).await;
    let answer = lab.get("/s001.m4s", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, video);
    assert_eq!(answer.header("content-length"), Some("300000"));
    assert_eq!(answer.header("content-type"), Some("video/iso.segment"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert_eq!(answer.header("etag"), Some(format!("\"{}\"", sha256_hex(&video)).as_str()));
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&video)));
    assert_eq!(answer.header("repr-digest"), Some(digest.as_str()));
    assert!(answer.header("server").unwrap().starts_with("twinlink/"));
    assert!(answer.header("date").is_some());
}

#[tokio::test]
async fn head_says_what_get_would() {
    let lab = Lab::start(&[("a.mp4", &content(5000, 1)), ("empty", b"")]).await;
    for target in ["/a.mp4", "/empty", "/SHA256SUMS", "/healthz", "/missing", "/sink"] {
        let mut get = lab.get(target, &[]).await;
        let mut head = lab.ask("HEAD", target, &[]).await;
        for answer in [&mut get, &mut head] {
            answer.headers.retain(|(name, _)| name != "date");
            answer.headers.sort();
            answer.body.clear();
        }
        assert_eq!(get, head, "{target}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let files: Vec<(String, Vec<u8>)> =
        (0..40).map(|n| (format!("s{n:03}.m4s"), content(20_000 + n * 777, n as u8))).collect();
    let borrowed: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let lab = Lab::start(&borrowed).await;
    let mut client = lab.connect().await;
    let mut asked = String::new();
    for (name, _) in &files {
        asked += &request("GET", &format!("/{name}"), &[]);
        asked += &request("HEAD", &format!("/{name}"), &[]);
        asked += &request("GET", "/missing", &[]);
        asked += &request("GET", &format!("/{name}"), &["Range: bytes=100-199"]);
    }
    client.send(asked).await;
    for (name, bytes) in &files {
        assert!(client.answer("GET").await.body == *bytes, "{name} is not what it should be");
        let head = client.answer("HEAD").await;
        assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert_eq!(client.answer("GET").await.status, 404);
        let part = client.answer("GET").await;
        assert_eq!((part.status, &part.body[..]), (206, &bytes[100..200]));
    }
    drop(client);
    let log = lab.end().await;
    let requests = requests(&log);
    assert_eq!(requests.len(), 160);
    for (at, request) in requests.iter().enumerate() {
        assert_eq!((request.connection, request.request), (1, at as u64 + 1));
        assert!(request.complete);
    }
    assert_eq!(requests[3].range.as_deref(), Some("bytes=100-199"));
    assert_eq!(requests[3].bytes, 100);
    assert_eq!(serve_end(&log).bytes, requests.iter().map(|request| request.bytes).sum::<u64>());
}

#[tokio::test]
async fn single_ranges_come_as_206_and_the_rest_as_the_whole() {
    let video = content(10_000, 7);
    let lab = Lab::start(&[("v.m4s", &video), ("empty", b"")]).await;
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=9000-", 9000, 10_000),
        ("bytes=9999-20000", 9999, 10_000),
        ("bytes=-1", 9999, 10_000),
        ("bytes=-500", 9500, 10_000),
        ("bytes=-99999", 0, 10_000),
    ] {
        let answer = lab.get("/v.m4s", &[&format!("Range: {range}")]).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, video[from..to], "{range}");
        let expected = format!("bytes {from}-{}/10000", to - 1);
        assert_eq!(answer.header("content-range"), Some(expected.as_str()), "{range}");
    }
    for range in ["bytes=10000-", "bytes=99999-100000", "bytes=-0"] {
        let answer = lab.get("/v.m4s", &[&format!("Range: {range}")]).await;
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */10000"), "{range}");
    }
    for range in ["bytes=0-1,5-6", "bytes=5-4", "bytes=x", "chapters=1-2"] {
        let answer = lab.get("/v.m4s", &[&format!("Range: {range}")]).await;
        assert_eq!((answer.status, answer.body.len()), (200, 10_000), "{range}");
        assert_eq!(answer.header("content-range"), None, "{range}");
    }
    assert_eq!(lab.get("/empty", &["Range: bytes=0-"]).await.status, 416);
    assert_eq!(lab.get("/empty", &[]).await.header("content-length"), Some("0"));
    // HEAD has no ranges (RFC 9110, 14.2).
    let head = lab.ask("HEAD", "/v.m4s", &["Range: bytes=0-0"]).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("10000")));
}

#[tokio::test]
async fn validators_decide_what_is_sent() {
    let lab = Lab::start(&[("v.m4s", &content(1000, 3))]).await;
    let etag = lab.get("/v.m4s", &[]).await.header("etag").unwrap().to_string();
    let status = async |headers: &[String]| {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        lab.get("/v.m4s", &headers).await.status
    };
    let range = "Range: bytes=0-9".to_string();
    let with_if_range = async |value: &str| status(&[range.clone(), format!("If-Range: {value}")]).await;
    assert_eq!(with_if_range(&etag).await, 206);
    assert_eq!(with_if_range("\"other\"").await, 200);
    assert_eq!(with_if_range(&format!("W/{etag}")).await, 200);
    assert_eq!(with_if_range("Mon, 01 Jan 2024 00:00:00 GMT").await, 200);
    assert_eq!(status(&[format!("If-None-Match: \"x\", {etag}")]).await, 304);
    assert_eq!(status(&[format!("If-None-Match: W/{etag}")]).await, 304);
    assert_eq!(status(&["If-None-Match: *".into()]).await, 304);
    assert_eq!(status(&["If-None-Match: \"x\"".into()]).await, 200);
    assert_eq!(status(&[format!("If-Match: {etag}")]).await, 200);
    assert_eq!(status(&["If-Match: \"x\"".into()]).await, 412);
    let unchanged = lab.get("/v.m4s", &[&format!("If-None-Match: {etag}")]).await;
    assert_eq!(unchanged.header("etag"), Some(etag.as_str()));
}

#[tokio::test]
async fn only_names_in_the_table_can_be_asked_for() {
    let lab = Lab::start(&[
        ("a b é.mp4", b"spaced"),
        ("s001.m4s", b"one"),
        (".hidden", b"x"),
        ("README.md", b"x"),
        ("manifest.json", b"x"),
        ("from-video.sh", b"x"),
    ])
    .await;
    std::fs::write(lab.file("later.m4s"), "came after the start").unwrap();
    std::fs::write(lab.dir.path().join("outside"), "not in the folder").unwrap();
    for target in [
        "/../outside",
        "/%2e%2e/outside",
        "/%2e%2e%2foutside",
        "/..%5coutside",
        "//s001.m4s",
        "/./s001.m4s",
        "/s001.m4s/",
        "/s001.m4s%00",
        "/S001.M4S",
        "/.hidden",
        "/%2ehidden",
        "/README.md",
        "/manifest.json",
        "/from-video.sh",
        "/later.m4s",
        "/",
        "/etc/passwd",
        "http://lab/../outside",
    ] {
        let answer = lab.get(target, &[]).await;
        assert_eq!(answer.status, 404, "{target}");
        assert!(answer.body.ends_with(b"lists the files of this server\n"), "{target}");
    }
    for (target, body) in [
        ("/a%20b%20%C3%A9.mp4", "spaced"),
        ("/s001.m4s", "one"),
        ("/%73001.m4s", "one"),
        ("/s001.m4s?session=1", "one"),
        ("http://elsewhere:1234/s001.m4s", "one"),
    ] {
        let answer = lab.get(target, &[]).await;
        assert_eq!((answer.status, &answer.body[..]), (200, body.as_bytes()), "{target}");
    }
    for target in ["/%zz", "/%f", "/%ff%fe"] {
        assert_eq!(lab.get(target, &[]).await.status, 400, "{target}");
    }
}

#[tokio::test]
async fn the_list_of_digests_is_what_sha256sum_prints() {
    let lab = Lab::start(&[("s10.m4s", b"ten"), ("s9.m4s", b"nine"), ("init.mp4", b"init")]).await;
    let line = |name, bytes: &[u8]| format!("{}  {name}\n", sha256_hex(bytes));
    let expected = line("init.mp4", b"init") + &line("s9.m4s", b"nine") + &line("s10.m4s", b"ten");
    let answer = lab.get("/SHA256SUMS", &[]).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let part = lab.get("/SHA256SUMS", &["Range: bytes=-9"]).await;
    assert_eq!((part.status, &part.body[..]), (206, &b" s10.m4s\n"[..]));
}

#[tokio::test]
async fn what_is_not_meant_is_said() {
    let lab = Lab::start(&[("s001.m4s", b"one")]).await;
    for (method, target, status, allow) in [
        ("POST", "/s001.m4s", 405, Some("GET, HEAD")),
        ("DELETE", "/SHA256SUMS", 405, Some("GET, HEAD")),
        ("PUT", "/healthz", 405, Some("GET, HEAD")),
        ("BREW", "/s001.m4s", 405, Some("GET, HEAD")),
        ("GET", "/sink", 405, Some("PUT")),
        ("PUT", "/s002.m4s", 404, None),
        ("OPTIONS", "*", 404, None),
    ] {
        let answer = lab.ask(method, target, &[]).await;
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(answer.header("allow"), allow, "{method} {target}");
    }
    let raw = async |text: &str| {
        let mut client = lab.connect().await;
        client.send(text).await;
        client.answer("GET").await.status
    };
    assert_eq!(raw("GET /s001.m4s HTTP/1.1\r\n\r\n").await, 400);
    assert_eq!(raw("GET /s001.m4s HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await, 400);
    assert_eq!(raw("SSH-2.0-OpenSSH_9.2\r\n\r\n").await, 400);
    assert_eq!(raw("GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n").await, 400);
}

#[tokio::test]
async fn pages_of_other_origins_may_read_answers() {
    let lab = Lab::start(&[("s001.m4s", b"one"), ("q1.m3u8", b"#EXTM3U"), ("manifest.mpd", b"<MPD/>")]).await;
    let own = ["access-control-allow-origin", "access-control-expose-headers", "timing-allow-origin"];
    for (target, kind) in [
        ("/s001.m4s", "video/iso.segment"),
        ("/q1.m3u8", "application/vnd.apple.mpegurl"),
        ("/manifest.mpd", "application/dash+xml"),
        ("/missing", "text/plain; charset=utf-8"),
    ] {
        let answer = lab.get(target, &["Origin: http://page.example"]).await;
        assert_eq!(answer.header("content-type"), Some(kind));
        assert_eq!(own.map(|name| answer.header(name)), [Some("*"); 3], "{target}");
        let plain = lab.get(target, &[]).await;
        assert_eq!(
            own.map(|name| plain.header(name)),
            [None; 3],
            "only a browser's request costs these bytes"
        );
    }
    let asked = [
        "Origin: http://page.example",
        "Access-Control-Request-Method: GET",
        "Access-Control-Request-Headers: range",
    ];
    for target in ["/s001.m4s", "/sink", "/missing"] {
        let answer = lab.ask("OPTIONS", target, &asked).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{target}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, PUT"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("*"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert_eq!(lab.ask("OPTIONS", "/s001.m4s", &[]).await.status, 405, "that is no browser's question");
    let listed = String::from_utf8(lab.get("/SHA256SUMS", &[]).await.body).unwrap();
    assert_eq!(listed.lines().map(|line| &line[66..]).collect::<Vec<_>>(), ["s001.m4s"]);
}

#[tokio::test]
async fn connections_are_kept_alive_and_half_closed_ones_answered() {
    let lab = Lab::start(&[("s001.m4s", &content(100_000, 1))]).await;
    let mut client = lab.connect().await;
    for _ in 0..3 {
        client.send(request("GET", "/s001.m4s", &[])).await;
        assert_eq!(client.answer("GET").await.body.len(), 100_000);
    }
    client.send(request("GET", "/s001.m4s", &["Connection: close"])).await;
    assert_eq!(client.answer("GET").await.header("connection"), Some("close"));
    assert_eq!(client.drain().await, 0);

    let mut client = lab.connect().await;
    client.send(request("GET", "/s001.m4s", &[]).repeat(2)).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.tcp).await.unwrap();
    assert_eq!(client.answer("GET").await.body.len(), 100_000);
    assert_eq!(client.answer("GET").await.body.len(), 100_000);
    assert_eq!(client.drain().await, 0);
}

#[tokio::test]
async fn old_clients_are_served() {
    let lab = Lab::start(&[("s001.m4s", b"one")]).await;
    let mut client = lab.connect().await;
    client.send("GET /s001.m4s HTTP/1.0\r\n\r\n").await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.version.as_str(), answer.status, &answer.body[..]), ("HTTP/1.0", 200, &b"one"[..]));
    assert_eq!(client.drain().await, 0);

    let mut client = lab.connect().await;
    for _ in 0..2 {
        client.send("GET /s001.m4s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.header("connection"), &answer.body[..]), (Some("keep-alive"), &b"one"[..]));
    }
}

#[tokio::test]
async fn the_log_has_each_request_but_health_checks() {
    let lab = Lab::start(&[("s001.m4s", b"one")]).await;
    let health = lab.get("/healthz", &[]).await;
    assert_eq!((health.status, &health.body[..]), (200, &b"ok\n"[..]));
    lab.get("/s001.m4s?x=1", &["Range: bytes=1-"]).await;
    lab.ask("HEAD", "/s001.m4s", &[]).await;
    lab.ask("PUT", "/healthz", &[]).await;
    let log = lab.end().await;
    let requests = requests(&log);
    let seen: Vec<_> =
        requests.iter().map(|r| (r.method.as_str(), r.target.as_str(), r.status, r.bytes)).collect();
    assert_eq!(
        seen,
        [
            ("GET", "/s001.m4s?x=1", 206, 2),
            ("HEAD", "/s001.m4s", 200, 0),
            ("PUT", "/healthz", 405, "this takes other methods\n".len() as u64),
        ]
    );
    assert!(
        matches!(&log[0], twinlink::log::schema::Event::ServeStart(start) if start.files == 1 && start.bytes == 3)
    );
    let end = serve_end(&log);
    assert_eq!((end.reason.as_str(), end.requests, end.cut_connections), ("test", 3, 0));
}

#[tokio::test]
async fn header_name_with_a_space_before_its_colon_is_refused() {
    let lab = Lab::start(&[("s001.m4s", b"one")]).await;
    for header in ["Content-Length : 5", "X : 1", "Transfer-Encoding\t: chunked"] {
        let answer = lab.ask("GET", "/s001.m4s", &[header]).await;
        assert_eq!(answer.status, 400, "{header}");
    }
}
