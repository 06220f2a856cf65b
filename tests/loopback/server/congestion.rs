//! `Twinlink-Sender`: the server's report on its TCP, and the choice of its congestion control.

use super::lab::{Answer, Lab, content, request};

/// A number of a report.
fn number(answer: &Answer, key: &str) -> Option<u64> {
    let report = answer.header("twinlink-sender")?;
    report.split(", ").find_map(|member| member.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

#[tokio::test]
async fn only_who_asks_is_told_and_not_with_every_answer() {
    let lab = Lab::start(&[("a", &content(500_000, 1)), ("b", b"b")]).await;
    assert_eq!(lab.get("/a", &[]).await.header("twinlink-sender"), None);
    let ask = request("GET", "/b", &["Twinlink-Sender: ?1"]);
    let mut client = lab.connect().await;
    client.send(request("GET", "/a", &[])).await;
    client.answer("GET").await;
    client.send(ask.repeat(50)).await;
    let first = client.answer("GET").await;
    assert!(number(&first, "cwnd").unwrap() > 0 && number(&first, "rtt_us").unwrap() > 0, "{first:?}");
    assert!(number(&first, "busy_ms").is_some(), "{first:?}");
    let mut told = 0;
    for _ in 1..50 {
        told += u32::from(client.answer("GET").await.header("twinlink-sender").is_some());
    }
    assert!(told < 49, "each of many small answers carried a report");
}

#[tokio::test]
async fn a_congestion_control_of_the_list_is_used_from_the_first_answer_on() {
    let lab = Lab::start(&[("a", b"a")]).await;
    let answer = lab.get("/a", &["Twinlink-Sender: cc=reno"]).await;
    assert_eq!(answer.status, 200);
    let report = answer.header("twinlink-sender").unwrap();
    assert!(report.starts_with("cc=reno, "), "{report}");
    assert_eq!(answer.body, b"a");
}

#[tokio::test]
async fn another_name_is_refused_with_those_that_can_be_had() {
    let lab = Lab::start(&[("a", b"a")]).await;
    let mut client = lab.connect().await;
    for name in ["vegas", "../reno", "", "reno\u{e9}"] {
        client.send(request("GET", "/a", &[&format!("Twinlink-Sender: cc={name}")])).await;
        let answer = client.answer("GET").await;
        if name.is_ascii() {
            assert_eq!(answer.status, 400, "{name}");
            let allowed = answer.header("twinlink-sender").unwrap();
            assert!(allowed.starts_with("allowed=(") && allowed.contains("reno"), "{allowed}");
        } else {
            assert_eq!(answer.status, 200, "what is no text chooses nothing");
        }
    }
}
