//! Reno (RFC 5681): the window doubles in slow start, grows by a segment a round trip afterwards, and
//! halves at a loss.

use super::window::Window;

pub(crate) fn after_loss(window: u32) -> u32 {
    (window / 2).max(2)
}

pub(crate) fn grow(acked: u32, window: &mut Window) {
    if !window.limits {
        return;
    }
    let left = if window.in_slow_start() { window.slow_start(acked) } else { acked };
    if left > 0 {
        window.avoid_congestion(window.segments, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited() -> Window {
        Window { limits: true, ..Window::new() }
    }

    #[test]
    fn reno_doubles_in_slow_start() {
        let mut window = limited();
        for _ in 0..3 {
            grow(window.segments, &mut window);
        }
        assert_eq!(window.segments, 80);
    }

    #[test]
    fn reno_grows_by_a_segment_a_round_trip_after_a_loss() {
        let mut window = limited();
        window.segments = 80;
        window.ssthresh = after_loss(80);
        window.segments = window.ssthresh;
        for _ in 0..10 {
            let acks = window.segments;
            (0..acks).for_each(|_| grow(1, &mut window));
        }
        assert_eq!((window.ssthresh, window.segments), (40, 50));
    }

    #[test]
    fn window_that_is_not_used_stays() {
        let mut window = Window::new();
        grow(100, &mut window);
        assert_eq!(window.segments, 10);
    }
}
