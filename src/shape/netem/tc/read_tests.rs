use crate::config::profile::Distribution;
use crate::shape::netem::tc::read::*;
use serde_json::json;

/// Returns tc 6.1's output on Linux 6.1 for 21.6 Mbit/s, 15 ± 5 ms, bursty loss, reordering and corruption.
fn netem_of_wifi() -> Qdiscs {
    let list = json!([
        {"kind":"tbf","handle":"1:","dev":"twl-a-down","root":true,"refcnt":2,
         "options":{"rate":2700000,"burst":2999,"lat":98889},
         "bytes":4542,"packets":3,"drops":2,"overlimits":9,"requeues":0,"backlog":1514,"qlen":1},
        {"kind":"netem","handle":"10:","dev":"twl-a-down","parent":"1:1",
         "options":{"limit":206,"delay":{"delay":0.015,"jitter":0.005,"correlation":0},
         "loss-gemodel":{"p":0.002,"r":0.2,"1-h":0.9,"1-k":0.001},
         "reorder":{"reorder":0.01,"correlation":0},"corrupt":{"corrupt":0.005,"correlation":0},
         "rate":{"rate":1250000000,"packetoverhead":0,"cellsize":0,"celloverhead":0},"ecn":false,"gap":1},
         "bytes":4542,"packets":3,"drops":2,"overlimits":0,"requeues":0,"backlog":1514,"qlen":1},
        {"kind":"noqueue","handle":"0:","dev":"eth0","root":true,"options":{}}
    ]);
    let mut sorted = sort(&list);
    assert_eq!(sorted.len(), 1);
    sorted.remove("twl-a-down").unwrap()
}

fn wifi() -> Shape {
    Shape {
        delay: Delay::from_millis(15),
        jitter: Delay::from_millis(5),
        distribution: Some(Distribution::Normal),
        loss: Loss::GilbertElliott(GilbertElliott {
            p: Percent::new(0.2),
            r: Percent::new(20.0),
            bad: Percent::new(90.0),
            good: Percent::new(0.1),
        }),
        reorder: Percent::new(1.0),
        corrupt: Percent::new(0.5),
        ..Shape::plain(Rate::from_bits_per_s(21_600_000), Queue::Time(Delay::from_millis(100)))
    }
}

#[test]
fn what_was_asked_for_is_recognised_and_every_difference_is_named() {
    let there = netem_of_wifi();
    assert_eq!(there.differs_from(&wifi(), Child::Netem), None);
    let cases: [(&str, Shape); 8] = [
        ("rate", Shape { rate: Rate::from_bits_per_s(21_700_000), ..wifi() }),
        ("limit", Shape { queue: Queue::Packets(10), ..wifi() }),
        ("jitter", Shape { jitter: Delay::from_millis(4), ..wifi() }),
        ("loss model", Shape { loss: Loss::default(), ..wifi() }),
        ("reorder", Shape { reorder: Percent::ZERO, ..wifi() }),
        ("duplicate", Shape { duplicate: Percent::new(0.1), ..wifi() }),
        ("corrupt", Shape { corrupt: Percent::new(0.6), ..wifi() }),
        // The limit stays what it was, so that the delay itself is looked at.
        (
            "delay",
            Shape { delay: Delay::from_millis(16), queue: Queue::Time(Delay::from_millis(99)), ..wifi() },
        ),
    ];
    for (key, asked) in cases {
        let difference = there.differs_from(&asked, Child::Netem);
        assert!(difference.as_ref().is_some_and(|text| text.starts_with(key)), "{key}: {difference:?}");
    }
    assert!(there.differs_from(&wifi(), Child::Fifo).is_some());
    assert!(Qdiscs::default().differs_from(&wifi(), Child::Fifo).is_some());
}

#[test]
fn a_fifo_is_checked_by_its_latency() {
    let tbf = json!({"kind":"tbf","dev":"twl-a-up","options":{"rate":2500000,"burst":3000,"lat":98800}});
    let there = sort(&json!([tbf])).remove("twl-a-up").unwrap();
    let asked = Shape::plain(Rate::from_bits_per_s(20_000_000), Queue::Time(Delay::from_millis(100)));
    assert_eq!(there.differs_from(&asked, Child::Fifo), None);
    assert_eq!(there.shape().unwrap(), asked);
    let longer = Shape { queue: Queue::Time(Delay::from_millis(120)), ..asked };
    assert!(there.differs_from(&longer, Child::Fifo).unwrap().starts_with("a queue of 100.0 ms"));
}

#[test]
fn an_alias_reads_back_and_fits() {
    let alias = Alias {
        pid: 4_194_304,
        dev: "eth0123456789ab".into(),
        server: "fd45:1234:5678:9abc:def0:1234:5678:9abc".into(),
        own_clsact: true,
        lossy: false,
        profile: "wifi-near".into(),
    };
    assert_eq!(Alias::parse(&alias.render()), Some(alias.clone()));
    assert!(Alias::parse(&alias.render().replace(" lossy=no", "")).unwrap().lossy);
    assert_eq!(Alias::parse("someone else's"), None);
    assert_eq!(Alias::parse("twinlink dev=eth0"), None);
    let odd = Alias { pid: u32::MAX, profile: "a \"b\"\n#ü".repeat(40), ..alias };
    let text = odd.render();
    assert!(text.len() <= 255 && text.is_ascii() && !text.contains(['"', '\n', '#']), "{text}");
    assert_eq!(Alias::parse(&text).unwrap().pid, u32::MAX);
}
