//! Faults that a server has on purpose.

use std::time::Instant;

use twinlink::server::Limits;

use super::lab::{Lab, content, request, requests};

async fn with_fault(fault: &str) -> (Lab, Vec<u8>) {
    let body = content(5000, 1);
    let limits = Limits { fault: Some(fault.parse().unwrap()), ..Limits::default() };
    (Lab::with_limits(&[("f", &body)], limits).await, body)
}

#[tokio::test]
async fn busy_server_answers_503_but_for_its_list() {
    let (lab, body) = with_fault("busy@5000B").await;
    assert_eq!(lab.get("/f", &[]).await.body, body);
    let busy = lab.get("/f", &[]).await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")));
    assert_eq!(lab.get("/SHA256SUMS", &[]).await.status, 200);
}

#[tokio::test]
async fn corrupt_answers_differ_in_their_first_byte() {
    let (lab, mut body) = with_fault("corrupts").await;
    body[0] ^= 0xff;
    assert_eq!(lab.get("/f", &[]).await.body, body);
    let part = lab.get("/f", &["Range: bytes=100-199"]).await;
    assert_eq!((part.status, part.body[0]), (206, body[100] ^ 0xff));
    assert_eq!(part.body[1..], body[101..200]);
}

#[tokio::test]
async fn dying_server_ends_within_an_answer() {
    let (lab, body) = with_fault("dies@7000B").await;
    assert_eq!(lab.get("/f", &[]).await.body, body);
    let mut client = lab.connect().await;
    client.send(&request("GET", "/f", &[])).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.drain().await, 2000);
    let log = lab.ended().await;
    let sent: Vec<(u64, bool)> = requests(&log).iter().map(|one| (one.bytes, one.complete)).collect();
    assert_eq!(sent, [(5000, true), (2000, false)]);
}

#[tokio::test]
async fn trickling_server_sends_a_piece_at_a_time() {
    let (lab, body) = with_fault("trickles").await;
    let began = Instant::now();
    assert_eq!(lab.get("/f", &[]).await.body, body);
    // Five pieces, and a pause of 100 ms after each but the last before all have come.
    assert!(began.elapsed().as_millis() >= 400, "{:?}", began.elapsed());
}
