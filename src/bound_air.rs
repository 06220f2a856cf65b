//! What physics allows on a shared channel: the least time for a payload over links that share
//! airtime. Pure; knows nothing of stations or files.
//!
//! On a shared channel capacities never add. With xᵢ the payload that link i brings, this is the
//! least T for which some split satisfies
//!
//! - Σ xᵢ = B, the payload and what must come with it;
//! - Σ aᵢ xᵢ ≤ T − s, the air, with aᵢ the least airtime for a byte of payload over all its
//!   crossings, ACKs included, and s the first time at which the air can carry payload;
//! - 0 ≤ xᵢ ≤ Cᵢ (T − sᵢ), what the link itself carries from its own start.

/// A link that shares the air with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharer {
    /// Least airtime for a byte of payload, in seconds; 0 for a link that is not on the air.
    pub airtime_per_byte_s: f64,
    /// Payload bytes per second that the link carries whatever the air allows; may be infinite.
    pub bytes_per_s: f64,
    /// The earliest first payload byte, in seconds.
    pub starts_s: f64,
}

/// The most payload that can have arrived by `time_s`. Cheapest first: a byte on the link with the
/// least airtime leaves the most air for the others, so no other split brings more.
pub fn most_bytes(sharers: &[Sharer], air_starts_s: f64, time_s: f64) -> f64 {
    let mut by_price = sharers.to_vec();
    by_price.sort_by(|a, b| a.airtime_per_byte_s.total_cmp(&b.airtime_per_byte_s));
    let mut air = (time_s - air_starts_s).max(0.0);
    let mut bytes = 0.0;
    for sharer in by_price {
        let own = sharer.bytes_per_s * (time_s - sharer.starts_s).max(0.0);
        // 0 · ∞ is a link that has not started: it brings nothing.
        let own = if own.is_nan() { 0.0 } else { own };
        if sharer.airtime_per_byte_s == 0.0 {
            bytes += own;
            continue;
        }
        let taken = own.min(air / sharer.airtime_per_byte_s);
        air -= taken * sharer.airtime_per_byte_s;
        bytes += taken;
    }
    bytes
}

/// The least time in which `bytes` of payload can have arrived, in seconds; none where no link can
/// ever bring them.
pub fn least_time_s(sharers: &[Sharer], air_starts_s: f64, bytes: f64) -> Option<f64> {
    if bytes <= 0.0 {
        return Some(0.0);
    }
    let mut high = 1e-3;
    while most_bytes(sharers, air_starts_s, high) < bytes {
        high *= 2.0;
        // Thirty years: no link that carries anything is so slow.
        if high > 1e9 {
            return None;
        }
    }
    let mut low = 0.0;
    // What arrives never falls with time, so halving finds the least time to a part in 2⁶⁰.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if most_bytes(sharers, air_starts_s, middle) < bytes { low = middle } else { high = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sharer(airtime_per_byte_s: f64, bytes_per_s: f64, starts_s: f64) -> Sharer {
        Sharer { airtime_per_byte_s, bytes_per_s, starts_s }
    }

    fn close(got: Option<f64>, expected: f64) {
        let got = got.unwrap();
        assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{got} instead of {expected}");
    }

    #[test]
    fn without_caps_the_cheapest_link_alone_is_the_bound() {
        let links = [sharer(2e-7, f64::INFINITY, 0.0), sharer(1e-6, f64::INFINITY, 0.0)];
        close(least_time_s(&links, 0.01, 80e6), 0.01 + 16.0);
    }

    #[test]
    fn a_cap_on_the_cheap_link_leaves_air_for_the_other() {
        // In T seconds the cheap one brings 10⁶ T with 0.2 T of air, and 0.8 T of air bring 0.8·10⁶ T.
        let links = [sharer(2e-7, 1e6, 0.0), sharer(1e-6, f64::INFINITY, 0.0)];
        close(least_time_s(&links, 0.0, 18e6), 10.0);
    }

    #[test]
    fn links_that_are_off_the_air_add_up() {
        let links = [sharer(0.0, 1e6, 1.0), sharer(0.0, 3e6, 0.0)];
        close(least_time_s(&links, 0.0, 7e6), 2.0);
    }

    #[test]
    fn what_can_never_arrive_has_no_bound() {
        assert_eq!(least_time_s(&[], 0.0, 1.0), None);
        assert_eq!(least_time_s(&[sharer(1e-6, 0.0, 0.0)], 0.0, 1.0), None);
        assert_eq!(least_time_s(&[], 0.0, 0.0), Some(0.0));
    }

    proptest! {
        #[test]
        fn no_split_beats_the_bound(
            prices in prop::collection::vec(1e-8f64..1e-5, 2), caps in prop::collection::vec(1e4f64..1e7, 2),
            starts in prop::collection::vec(0.0f64..1.0, 2), bytes in 1e5f64..1e8, share in 0.0f64..=1.0,
        ) {
            let links: Vec<Sharer> = (0..2).map(|i| sharer(prices[i], caps[i], starts[i])).collect();
            let air_starts = starts[0].min(starts[1]);
            let bound = least_time_s(&links, air_starts, bytes).unwrap();
            // The time that this split needs: the air for both, and each link for its own.
            let split = [bytes * share, bytes * (1.0 - share)];
            let air = air_starts + split[0] * prices[0] + split[1] * prices[1];
            let own = (0..2).map(|i| if split[i] > 0.0 { starts[i] + split[i] / caps[i] } else { 0.0 });
            let needs = own.fold(air, f64::max);
            prop_assert!(bound <= needs * (1.0 + 1e-9), "{bound} s against {needs} s");
        }
    }
}
