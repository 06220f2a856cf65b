//! Plots that stay readable at any width: the data is an SVG that stretches, its lines keep their
//! width, and all text is HTML around it, which keeps its size. Pure: numbers in, markup out.

use std::fmt::Write;

/// Text as markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Round steps from 0 up to `max`, about `count` of them.
pub(crate) fn ticks(max: f64, count: f64) -> Vec<f64> {
    let rough = max / count;
    // Below what has a power of ten that can be divided, no step leads anywhere.
    if !(rough > f64::MIN_POSITIVE * 1e3 && max.is_finite()) {
        return vec![0.0];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    (0..).map(|index| f64::from(index) * step).take_while(|tick| *tick <= max * 1.000_001).collect()
}

/// A tick's text: as many digits as the step between ticks needs.
fn label(tick: f64, ticks: &[f64]) -> String {
    let step = ticks.get(1).copied().unwrap_or(1.0);
    let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil() as usize };
    format!("{tick:.digits$}")
}

/// A plot over 0 to `x_max`, from 0 to `y_max`.
pub(crate) struct Panel {
    title: String,
    height_px: u32,
    x_max: f64,
    y_max: f64,
    svg: String,
}

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;

impl Panel {
    pub(crate) fn new(title: &str, height_px: u32, x_max: f64, y_max: f64) -> Panel {
        let positive = |value: f64| if value > 0.0 && value.is_finite() { value } else { 1.0 };
        let (x_max, y_max) = (positive(x_max), positive(y_max));
        Panel { title: title.into(), height_px, x_max, y_max, svg: String::new() }
    }

    fn x(&self, x: f64) -> f64 {
        (x / self.x_max * WIDTH).clamp(0.0, WIDTH)
    }

    fn y(&self, y: f64) -> f64 {
        (HEIGHT - y / self.y_max * HEIGHT).clamp(0.0, HEIGHT)
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let (mut path, mut pen) = (String::new(), 'M');
        for (x, y) in points {
            if y.is_nan() {
                pen = 'M';
                continue;
            }
            let _ = write!(path, "{pen}{:.1} {:.1}", self.x(x), self.y(y));
            pen = 'L';
        }
        path
    }

    /// A line, with gaps where it is not a number.
    pub(crate) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let path = self.path(points.iter().copied());
        let _ = write!(self.svg, "<path class=\"l {class}\" d=\"{path}\"/>");
    }

    /// The area between two lines over the same moments.
    pub(crate) fn area(&mut self, class: &str, upper: &[(f64, f64)], lower: &[(f64, f64)]) {
        let path = self.path(upper.iter().chain(lower.iter().rev()).copied());
        let _ = write!(self.svg, "<path class=\"f {class}\" d=\"{path}Z\"/>");
    }

    /// Boxes of one colour, each x from, x to, y from, y to; `names` are shown where one points at them.
    pub(crate) fn boxes(&mut self, class: &str, boxes: &[([f64; 4], String)]) {
        let mut nameless = String::new();
        for ([x0, x1, y0, y1], name) in boxes {
            let (left, right, top, bottom) = (self.x(*x0), self.x(*x1), self.y(*y1), self.y(*y0));
            let (width, height) = ((right - left).max(0.3), (bottom - top).max(0.3));
            if name.is_empty() {
                // One path for all of them takes a third of the space.
                let _ = write!(nameless, "M{left:.1} {top:.1}h{width:.1}v{height:.1}h-{width:.1}z");
                continue;
            }
            let _ = write!(
                self.svg,
                "<rect class=\"f {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
                 height=\"{height:.1}\"><title>{}</title></rect>",
                escape(name)
            );
        }
        if !nameless.is_empty() {
            let _ = write!(self.svg, "<path class=\"f {class}\" d=\"{nameless}\"/>");
        }
    }

    pub(crate) fn upright(&mut self, class: &str, x: f64) {
        let x = self.x(x);
        let _ = write!(self.svg, "<path class=\"l {class}\" d=\"M{x:.1} 0V{HEIGHT}\"/>");
    }

    /// The plot as markup. `alt` says in words what it shows; `names` replace the ticks of the y axis
    /// (each at a height); `x_unit` is the unit of the x axis.
    pub(crate) fn markup(&self, alt: &str, names: &[(f64, &str)], x_unit: &str) -> String {
        let (mut grid, mut around) = (String::new(), String::new());
        if names.is_empty() {
            let ticks = ticks(self.y_max, f64::from(self.height_px) / 24.0);
            for tick in &ticks {
                let _ = write!(grid, "<path class=\"g\" d=\"M0 {:.1}H{WIDTH}\"/>", self.y(*tick));
                let at = tick / self.y_max * 100.0;
                let _ =
                    write!(around, "<i class=\"y\" style=\"bottom:{at:.1}%\">{}</i>", label(*tick, &ticks));
            }
        }
        for (y, name) in names {
            let at = y / self.y_max * 100.0;
            let _ = write!(around, "<i class=\"y\" style=\"bottom:{at:.1}%\">{}</i>", escape(name));
        }
        let ticks = ticks(self.x_max, 6.0);
        for tick in &ticks {
            let _ = write!(grid, "<path class=\"g\" d=\"M{:.1} 0V{HEIGHT}\"/>", self.x(*tick));
        }
        for (index, tick) in ticks.iter().enumerate() {
            let at = tick / self.x_max * 100.0;
            let unit = if index + 1 == ticks.len() { format!(" {}", escape(x_unit)) } else { String::new() };
            let text = label(*tick, &ticks);
            let _ = write!(around, "<i class=\"x\" style=\"left:{at:.1}%\">{text}{unit}</i>");
        }
        format!(
            "<figure><figcaption>{}</figcaption><div class=\"plot\" data-x=\"{}\" data-y=\"{}\" style=\"height:{}px\" role=\"img\" \
             aria-label=\"{}\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" \
             aria-hidden=\"true\">{grid}{}</svg>{around}</div></figure>\n",
            self.title,
            self.x_max,
            self.y_max,
            self.height_px,
            escape(alt),
            self.svg
        )
    }
}

/// A horizontal bar out of parts (class and share of the whole, in percent), in a box.
pub(crate) fn stacked(parts: &[(&str, f64)], alt: &str) -> String {
    let parts: String = parts
        .iter()
        .map(|(class, share)| {
            format!("<b class=\"{class}\" style=\"width:{:.2}%\"></b>", share.clamp(0.0, 100.0))
        })
        .collect();
    format!("<span class=\"stack\" role=\"img\" aria-label=\"{}\">{parts}</span>", escape(alt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_end_within_the_axis() {
        assert_eq!(ticks(9.25, 6.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(100.0, 4.0), [0.0, 50.0, 100.0]);
        assert_eq!(ticks(f64::NAN, 4.0), [0.0]);
        assert_eq!(label(0.2, &ticks(0.9, 5.0)), "0.2");
    }

    #[test]
    fn nothing_that_is_drawn_leaves_its_frame_and_text_is_escaped() {
        let mut panel = Panel::new("t", 100, 10.0, 5.0);
        panel.line("a", &[(-5.0, 1.0), (20.0, 50.0), (1.0, f64::NAN), (5.0, 0.0)]);
        panel.boxes("b", &[([0.0, 99.0, 0.0, 9.0], "<s001>".into())]);
        let markup = panel.markup("a \"b\"", &[], "s");
        assert!(markup.contains("M0.0 80.0L1000.0 0.0M500.0 100.0"), "{markup}");
        assert!(markup.contains("&lt;s001&gt;") && markup.contains("a &quot;b&quot;"), "{markup}");
    }

    #[test]
    fn an_axis_without_extent_is_drawn_all_the_same() {
        let mut panel = Panel::new("t", 100, 0.0, f64::NAN);
        panel.line("a", &[(0.0, 0.0)]);
        assert!(!panel.markup("", &[], "s").contains("NaN"));
    }
}
