//! The course's order: `a` files from server a, the next `b` from server b, and so on. Each server's
//! list is worked off in order and never shared.

use crate::units::LinkId;

/// Returns the link whose turn a segment is; one of `a` and `b` is above 0.
pub(crate) fn owner(a: u32, b: u32, segment: usize) -> LinkId {
    let turn = a as usize + b as usize;
    if segment % turn < a as usize { LinkId::A } else { LinkId::B }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(a: u32, b: u32, segments: usize, link: LinkId) -> Vec<usize> {
        (0..segments).filter(|&segment| owner(a, b, segment) == link).map(|segment| segment + 1).collect()
    }

    #[test]
    fn one_to_two_is_the_course_s_example() {
        assert_eq!(names(1, 2, 8, LinkId::A), [1, 4, 7]);
        assert_eq!(names(1, 2, 8, LinkId::B), [2, 3, 5, 6, 8]);
    }

    #[test]
    fn a_ratio_with_a_zero_leaves_all_to_the_other() {
        assert!(names(0, 1, 160, LinkId::A).is_empty());
        assert_eq!(names(0, 1, 160, LinkId::B).len(), 160);
    }
}
