//! Numbers as people read them.

/// Three digits that mean something.
pub(crate) fn digits(value: f64) -> usize {
    if value.abs() >= 100.0 {
        1
    } else if value.abs() >= 10.0 {
        2
    } else {
        3
    }
}

/// A time in seconds; a dash for what is none.
pub(crate) fn seconds(ms: f64) -> String {
    if !ms.is_finite() {
        return "–".into();
    }
    format!("{:.*} s", digits(ms / 1e3), ms / 1e3)
}

pub(crate) fn mbit(kbit: f64) -> String {
    short(kbit / 1e3)
}

/// A number with about three digits; a dash for what is none, as a ratio of zeros.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        assert_eq!([seconds(9253.0), seconds(123_456.0), seconds(12.3)], ["9.253 s", "123.5 s", "0.012 s"]);
        assert_eq!([mbit(57_981.0), short(150.2), short(2.664)], ["58.0", "150", "2.66"]);
    }
}
