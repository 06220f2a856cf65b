//! The shaper as the client uses it, on a real kernel.

use std::net::IpAddr;

use twinlink::config::profile::load;
use twinlink::shape::Shaper;
use twinlink::shape::backend::{BackendChoice, ShapingRequest};
use twinlink::units::{Direction, LinkId};

use crate::fixture::Lab;

fn wanted(link: LinkId, profile: &str) -> ShapingRequest {
    let server: IpAddr = match link {
        LinkId::A => "10.45.0.2".parse().unwrap(),
        LinkId::B => "10.45.0.3".parse().unwrap(),
    };
    ShapingRequest { link, server, profile: load::load(profile, link).unwrap() }
}

/// Returns the shaping in this namespace as tc prints it.
fn kernel_state() -> String {
    let output = std::process::Command::new("tc").args(["qdisc", "show"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn profiles(shaper: &Shaper) -> Vec<(LinkId, Direction, String)> {
    shaper.rows().iter().map(|row| (row.link, row.direction, row.profile.clone())).collect()
}

fn both_ways(link: LinkId, profile: &str) -> Vec<(LinkId, Direction, String)> {
    Direction::BOTH.map(|direction| (link, direction, profile.to_string())).to_vec()
}

#[test]
fn a_shaper_owns_what_it_put_there_from_start_to_drop() {
    let Some(_lab) = Lab::bare().enter() else { return };
    let clean = kernel_state();
    let links = [wanted(LinkId::A, "rate-20"), wanted(LinkId::B, "rate-80")];
    let mut shaper = Shaper::start(&links, None, BackendChoice::Auto, 1, None).unwrap();
    assert_eq!(
        profiles(&shaper),
        [both_ways(LinkId::A, "rate-20"), both_ways(LinkId::B, "rate-80")].concat()
    );
    for row in shaper.rows() {
        assert_eq!(row.backend, "netem");
        assert_eq!(row.kernel["tbf"]["rate"], row.shape.rate.bits_per_s() / 8, "{row:?}");
        assert!(row.why.is_some());
    }
    let counted = shaper.read().unwrap();
    assert_eq!(counted.len(), 4);
    assert_eq!(counted[2].counters.rate_kbit, Some(80_000.0));

    let second = Shaper::start(&links, None, BackendChoice::Auto, 1, None).err().unwrap().to_string();
    assert!(second.contains(&format!("another twinlink process ({})", std::process::id())), "{second}");

    let rows = shaper.change(&wanted(LinkId::A, "rate-80")).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(shaper.read().unwrap()[0].counters.rate_kbit, Some(80_000.0));
    shaper.clear_link(LinkId::A).unwrap();
    assert_eq!(profiles(&shaper), both_ways(LinkId::B, "rate-80"));
    // A link that is not shaped any more is set up anew.
    shaper.change(&wanted(LinkId::A, "rate-20")).unwrap();
    assert_eq!(shaper.show().unwrap().len(), 4);
    drop(shaper);
    assert_eq!(kernel_state(), clean);
}

#[test]
fn all_is_checked_before_anything_is_done() {
    let Some(_lab) = Lab::bare().enter() else { return };
    let clean = kernel_state();
    let same =
        [wanted(LinkId::A, "rate-20"), ShapingRequest { link: LinkId::B, ..wanted(LinkId::A, "rate-20") }];
    let far = ShapingRequest { server: "203.0.113.9".parse().unwrap(), ..wanted(LinkId::B, "rate-20") };
    let cases = [
        (same.to_vec(), BackendChoice::Auto, "cannot be told apart"),
        (vec![wanted(LinkId::A, "rate-20"), far], BackendChoice::Auto, "203.0.113.9"),
    ];
    for (links, choice, expected) in cases {
        let error = format!("{:#}", Shaper::start(&links, None, choice, 1, None).err().unwrap());
        assert!(error.contains(expected), "{error}");
        assert_eq!(kernel_state(), clean, "{error}");
    }
    let none = Shaper::start(&[wanted(LinkId::A, "rate-20")], None, BackendChoice::None, 1, None).unwrap();
    assert!(none.rows().is_empty());
    assert_eq!(kernel_state(), clean);
}
