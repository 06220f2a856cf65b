//! Compares the measurements of a link with its profile. Pure.
//!
//! A round trip is within the larger of 1 ms and 3 %, and what the link's jitter and the packets' own time
//! add to that; a rate within 5 %; a loss within what chance does to the number of packets that were sent. A
//! value that cannot be compared is left out, and the verdict says why.

use super::ProbeLateness;
use crate::config::profile::{Distribution, Loss, Shape};

/// By how much a rate may be off its profile's.
pub(crate) const RATE_TOLERANCE: f64 = 0.05;
/// By how much a round trip may be, as a share and in ms: the larger counts.
pub(crate) const RTT_TOLERANCE: (f64, f64) = (0.03, 1.0);
/// A SYN with its options as an Ethernet frame, bytes; its answer has the same.
const SYN_FRAME: u64 = 74;
/// ln(2 / 0.0001): a loss outside its interval is a one in ten thousand event on an honest link.
const LOG_DOUBT: f64 = 9.903_487_552_536_127;

/// Idle round trips of a link, in ms.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrips(pub Vec<f64>);

impl RoundTrips {
    pub(crate) fn median_ms(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }
}

/// The round trip of a profile, and by how much the median of `count` may be off it, in ms.
///
/// A median of n scatters by 1 / (2 f √n), where f is the density there: 1.2533 j / √n for a normal
/// spread of σ = j, j / √n for a uniform one of ± j; four times that is allowed for on each side. The packets of a handshake may
/// take their own time at the rates, which not every backend charges an idle link.
pub(crate) fn rtt_expected_ms(down: &Shape, up: &Shape, count: usize) -> (f64, f64) {
    let expected = down.delay.ms() + up.delay.ms();
    let jitter = down.jitter.ms().hypot(up.jitter.ms());
    let uniform = |shape: &Shape| matches!(shape.distribution, None | Some(Distribution::Uniform));
    let factor = if uniform(down) && uniform(up) { 1.0 } else { 1.2533 };
    let scatter = 4.0 * factor * jitter / (count.max(1) as f64).sqrt();
    let own: f64 = [down, up].iter().map(|shape| shape.rate.time_for(SYN_FRAME).as_secs_f64() * 1e3).sum();
    (expected, (RTT_TOLERANCE.0 * expected).max(RTT_TOLERANCE.1) + scatter + own)
}

/// Whether TCP over a link measures the link: nothing is lost, overtaken, doubled or damaged.
pub(crate) fn tcp_fills(shape: &Shape) -> bool {
    [shape.loss.mean(), shape.reorder, shape.duplicate, shape.corrupt].iter().all(|share| share.is_zero())
}

/// Whether so many losses are what chance makes of a loss model, with 99.99 % confidence.
///
/// Bernstein's inequality: |X − nπ| ≤ Lb/3 + √((Lb/3)² + 2Lv). For losses in bursts the variance of n π(1 − π)
/// grows by (1 + ρ) / (1 − ρ), where ρ = 1 − p − r is what one packet's state says of the next's, and
/// the largest single step b by as much.
pub(crate) fn loss_fits(loss: Loss, lost: u64, packets: u64) -> bool {
    let share = loss.mean().probability();
    let burst = match loss {
        Loss::Random(_) => 1.0,
        Loss::GilbertElliott(ge) => {
            let rho = (1.0 - ge.p.probability() - ge.r.probability()).clamp(0.0, 0.999);
            (1.0 + rho) / (1.0 - rho)
        }
    };
    let n = packets as f64;
    let variance = n * share * (1.0 - share) * burst;
    let step = LOG_DOUBT * burst / 3.0;
    let allowed = if share == 0.0 { 0.0 } else { step + (step * step + 2.0 * LOG_DOUBT * variance).sqrt() };
    (lost as f64 - n * share).abs() <= allowed
}

/// One compared quantity: in words, and whether it is within its tolerance.
pub(crate) struct Compared {
    pub words: String,
    pub ok: bool,
}

pub(crate) fn compare_rtt(found_ms: f64, expected_ms: f64, tolerance_ms: f64) -> Compared {
    let ok = (found_ms - expected_ms).abs() <= tolerance_ms;
    Compared { words: format!("round trip {found_ms:.1} ms of {expected_ms:.1} ± {tolerance_ms:.1}"), ok }
}

pub(crate) fn compare_rate(found_kbit: f64, expected_kbit: f64) -> Compared {
    let ok = (found_kbit - expected_kbit).abs() <= RATE_TOLERANCE * expected_kbit;
    let (found, expected) = (found_kbit / 1e3, expected_kbit / 1e3);
    Compared { words: format!("rate {found:.3} of {expected:.3} Mbit/s"), ok }
}

pub(crate) fn compare_loss(loss: Loss, lost: u64, packets: u64) -> Compared {
    let expected = loss.mean().percent();
    Compared {
        words: format!("{lost} of {packets} packets lost at {expected:.3} %"),
        ok: loss_fits(loss, lost, packets),
    }
}

/// Bytes that went past the shaper.
pub(crate) fn beside(bytes: u64) -> Compared {
    Compared { words: format!("{bytes} bytes came that the shaper did not let pass"), ok: false }
}

/// From this lateness on (ms) a machine counts as busy: of packets, a few times what an idle one needs for
/// its timers; of this program, which shares its CPUs with what it measures, several times that.
const BUSY_MS: (f64, f64) = (3.0, 20.0);

/// Why a verdict is bad, in plain words.
fn reason(late: ProbeLateness) -> String {
    let (packets_ms, woken_ms) = (late.packets_ms.unwrap_or_default(), late.woken_ms);
    if packets_ms >= BUSY_MS.0 {
        format!("this machine is busy: packets left up to {packets_ms:.0} ms late")
    } else if woken_ms >= BUSY_MS.1 {
        format!("this machine is busy: this program woke up to {woken_ms:.0} ms late")
    } else {
        "the link does not do what its profile says".into()
    }
}

/// Whether all of what could be compared fits, and one sentence for people. A bad verdict says first
/// whether the machine was busy or the link is wrong.
pub(crate) fn sum_up(compared: &[Compared], notes: &[String], late: ProbeLateness) -> (Option<bool>, String) {
    let ok = (!compared.is_empty()).then(|| compared.iter().all(|each| each.ok));
    let why = (ok == Some(false)).then(|| reason(late));
    let outside =
        compared.iter().filter(|each| !each.ok).map(|each| format!("{} is out of tolerance", each.words));
    let within = compared.iter().filter(|each| each.ok).map(|each| each.words.clone());
    let parts: Vec<String> =
        why.into_iter().chain(outside).chain(within).chain(notes.iter().cloned()).collect();
    let text = parts.join("; ");
    let mut letters = text.chars();
    let text = letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect());
    (ok, text + ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::{GilbertElliott, load};
    use crate::units::LinkId;
    use crate::units::Percent;

    #[test]
    fn the_median_is_of_the_middle() {
        assert_eq!(RoundTrips(vec![5.0, 1.0, 3.0]).median_ms(), Some(3.0));
        assert_eq!(RoundTrips(vec![4.0, 1.0, 3.0, 2.0]).median_ms(), Some(2.5));
        assert_eq!(RoundTrips::default().median_ms(), None);
    }

    #[test]
    fn a_round_trip_may_be_off_by_the_larger_of_1_ms_and_3_percent() {
        let dsl = load::load("dsl", LinkId::A).unwrap();
        let (expected, tolerance) = rtt_expected_ms(&dsl.down, &dsl.up, 5);
        assert_eq!(expected, 50.0);
        // 1.5 ms of 50, and 74 bytes at 1.5 and at 0.384 Mbit/s.
        assert!((tolerance - (1.5 + 0.395 + 1.542)).abs() < 0.01, "{tolerance}");
        assert!(compare_rtt(51.0, expected, tolerance).ok && !compare_rtt(60.0, expected, tolerance).ok);
        let edge = load::load("edge", LinkId::A).unwrap();
        let (expected, tolerance) = rtt_expected_ms(&edge.down, &edge.up, 5);
        assert_eq!(expected, 840.0);
        assert!(tolerance > 0.03 * 840.0);
    }

    #[test]
    fn rates_are_held_to_5_percent() {
        assert!(compare_rate(19_100.0, 20_000.0).ok && compare_rate(20_900.0, 20_000.0).ok);
        assert!(!compare_rate(18_900.0, 20_000.0).ok && !compare_rate(21_100.0, 20_000.0).ok);
    }

    #[test]
    fn losses_are_held_to_what_chance_does() {
        let one = Loss::Random(Percent::new(1.0));
        assert!(loss_fits(one, 120, 12_000) && loss_fits(one, 90, 12_000) && loss_fits(one, 0, 100));
        assert!(!loss_fits(one, 240, 12_000) && !loss_fits(one, 30, 12_000));
        let none = Loss::default();
        assert!(loss_fits(none, 0, 1_000_000) && !loss_fits(none, 1, 1_000_000));
        // The same mean in bursts scatters more.
        let bursts = GilbertElliott {
            p: Percent::new(0.2),
            r: Percent::new(20.0),
            bad: Percent::new(100.0),
            good: Percent::ZERO,
        };
        assert!(loss_fits(Loss::GilbertElliott(bursts), 200, 12_000));
    }

    #[test]
    fn what_is_out_of_tolerance_is_said_first() {
        let compared = [compare_rate(20_000.0, 20_000.0), compare_rtt(80.0, 40.0, 1.2)];
        let (ok, words) = sum_up(&compared, &["the rest is fine".into()], ProbeLateness::default());
        assert_eq!(ok, Some(false));
        let said = "The link does not do what its profile says; round trip 80.0 ms of 40.0 ± 1.2 is out of tolerance; rate 20.000";
        assert!(words.starts_with(said), "{words}");
        assert_eq!(
            sum_up(&[], &["not shaped".into()], ProbeLateness::default()),
            (None, "Not shaped.".to_string())
        );
    }

    #[test]
    fn a_busy_machine_is_told_from_a_wrong_link() {
        let slow = || [compare_rate(42_800.0, 48_000.0)];
        let late = ProbeLateness { packets_ms: Some(22.0), woken_ms: 0.0 };
        let said = |late| sum_up(&slow(), &[], late).1;
        assert!(
            said(late).starts_with("This machine is busy: packets left up to 22 ms late; rate 42.800 of")
        );
        let late = ProbeLateness { packets_ms: None, woken_ms: 45.0 };
        assert!(said(late).starts_with("This machine is busy: this program woke up to 45 ms late; rate"));
        let late = ProbeLateness { packets_ms: Some(0.4), woken_ms: 3.0 };
        assert!(said(late).starts_with("The link does not do what its profile says; rate 42.800 of 48"));
        // A good verdict says nothing of it.
        let late = ProbeLateness { packets_ms: Some(22.0), woken_ms: 0.0 };
        assert_eq!(sum_up(&[compare_rate(47_000.0, 48_000.0)], &[], late).1, "Rate 47.000 of 48.000 Mbit/s.");
    }
}
