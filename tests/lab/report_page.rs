//! The report's pages in a real browser: a run of the lab, an experiment and a run of 100 000 segments, on a phone's width and
//! a desktop's, light and dark. Nothing is wider than the window, the console stays empty, the page follows the reader's
//! scheme, every plot has its words, the experiment prints with its folded parts, and the run itself left its page.
//! Screenshots stay in `$SCREENSHOTS`, if set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{Place, User, have, program_under_test, stdout_of, users, words};

const WIDTHS: [u32; 3] = [390, 980, 1280];

/// A window as narrow as a phone is more than a headless browser makes, so the page is put in frames, whose owner measures
/// it: elements beyond the right edge, and those that a box of their own hides.
const FRAMES: &str = r##"<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>body { margin: 0 }</style>
FRAMES<pre id="found"></pre>
<script>
const found = [], frames = [...document.querySelectorAll("iframe")];
frames.forEach(frame => frame.onload = ({target}) => {
    const page = target.contentDocument, root = page.documentElement;
    for (const details of page.querySelectorAll("details")) details.open = true;
    const beyond = [...page.body.querySelectorAll("*")].filter(element =>
        element.getBoundingClientRect().right > root.clientWidth + 1 ||
        (["auto", "scroll"].includes(getComputedStyle(element).overflowX) && element.scrollWidth > element.clientWidth));
    const plots = [...page.querySelectorAll("[role=img]")];
    found.push({
        width: root.clientWidth, scroll: root.scrollWidth,
        beyond: beyond.slice(0, 5).map(element => element.outerHTML.slice(0, 120)),
        plots: plots.length, wordless: plots.filter(plot => !plot.getAttribute("aria-label")).length,
        dark: target.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
        background: target.contentWindow.getComputedStyle(page.body).backgroundColor,
        height: root.scrollHeight,
    });
    if (found.length === frames.length)
        document.getElementById("found").textContent = "FOUND " + JSON.stringify(found) + " END";
    for (const details of page.querySelectorAll("details")) details.open = details === page.querySelector("details");
});
</script>
"##;

/// Uses the page as a reader does: points at a plot, hides link a, zooms in and out, saves a table and a plot.
const READER: &str = r##"<!doctype html><meta charset="utf-8"><iframe id="page" src="file://PAGE" style="border:0;width:1280px;height:1400px"></iframe>
<pre id="found"></pre>
<script>
document.getElementById("page").onload = ({target}) => {
    const page = target.contentDocument, own = target.contentWindow, plots = [...page.querySelectorAll(".plot[data-x]")];
    const box = plots[0].getBoundingClientRect(), key = page.querySelector("figcaption .key.a"), saved = [];
    const send = (type, share) => plots[0].dispatchEvent(new own.PointerEvent(type,
        {clientX: box.left + share * box.width, clientY: box.top + 20, pointerType: "mouse", bubbles: true}));
    const views = () => [...new Set(plots.map(plot => Math.round(plot.querySelector("svg").viewBox.baseVal.width)))];
    send("pointermove", 0.5);
    const tip = plots[0].querySelector(".tip").textContent;
    key.click();
    const hidden = [...page.querySelectorAll(".plot svg .a")].every(path => own.getComputedStyle(path).display === "none");
    key.click();
    send("pointerdown", 0.2); send("pointerup", 0.4);
    const zoomed = views();
    plots[0].dispatchEvent(new own.MouseEvent("dblclick", {bubbles: true}));
    own.URL.createObjectURL = blob => {
        blob.text().then(text => {
            saved.push(text.split("\n")[0].slice(0, 30));
            document.getElementById("found").textContent = "FOUND " + JSON.stringify({tip, hidden, zoomed, whole: views(), saved}) + " END";
        });
        return "#";
    };
    const plotted = plots[0].closest("figure").querySelector(".export button");
    [...page.querySelector("table + .export").children, plotted].forEach(button => button.click());
};
</script>
"##;

/// Returns the JSON that a page of a test left in its `found`.
fn found(dom: &str) -> Option<Value> {
    let text = dom.split("<pre id=\"found\">FOUND ").nth(1)?.split(" END").next()?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).ok()
}

/// A browser with a profile of its own.
pub(crate) struct Browser(TempDir);

impl Browser {
    /// Returns what the browser prints, and its messages.
    pub(crate) fn browse(&self, args: &[&str]) -> [String; 2] {
        let mut chromium = Command::new("timeout");
        chromium.args([
            "120",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]);
        chromium.args(["--hide-scrollbars", "--allow-file-access-from-files", "--enable-logging=stderr"]);
        chromium.arg(format!("--user-data-dir={}", self.0.path().join("profile").display()));
        let output = chromium.args(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    /// Expects `plots` plots at least.
    pub(crate) fn expect_fits(&self, name: &str, page: &Path, plots: u64) {
        for scheme in ["light", "dark"] {
            let flag = if scheme == "light" {
                "--blink-settings=preferredColorScheme=1"
            } else {
                "--force-dark-mode"
            };
            let frame = |width: &u32| {
                let style = format!("border:0;display:block;width:{width}px;height:1400px");
                format!("<iframe src=\"file://{}\" style=\"{style}\"></iframe>", page.display())
            };
            let frames: String = WIDTHS.iter().map(frame).collect();
            let owner = self.0.path().join("frames.html");
            fs::write(&owner, FRAMES.replace("FRAMES", &frames)).unwrap();
            let owner = format!("file://{}", owner.display());
            let [dom, console] = self.browse(&[flag, "--virtual-time-budget=20000", "--dump-dom", &owner]);
            let Some(Value::Array(found)) = found(&dom) else {
                panic!("{name}, {scheme}: the page did not load: {console}")
            };
            let mut widths: Vec<u64> = found.iter().map(|one| one["width"].as_u64().unwrap()).collect();
            widths.sort_unstable();
            assert_eq!(widths, WIDTHS.map(u64::from));
            for one in &found {
                println!("{name}, {scheme}: {one}");
                assert_eq!(one["beyond"], Value::Array(Vec::new()), "{name}: wider than the window");
                assert!(one["scroll"].as_u64() <= one["width"].as_u64(), "{name} scrolls sideways: {one}");
                assert!(one["plots"].as_u64() >= Some(plots) && one["wordless"] == 0, "{name}: {one}");
                assert_eq!(one["dark"], scheme == "dark", "{name}: {one}");
            }
            assert!(!console.contains("CONSOLE"), "{name}: {console}");
            self.keep_screenshot(&format!("{name}-{scheme}"), flag, &owner);
        }
    }

    fn expect_answers(&self, page: &Path) {
        let owner = self.0.path().join("reader.html");
        fs::write(&owner, READER.replace("PAGE", page.to_str().unwrap())).unwrap();
        let owner = format!("file://{}", owner.display());
        let [dom, console] = self.browse(&["--virtual-time-budget=20000", "--dump-dom", &owner]);
        let found = found(&dom).unwrap_or_else(|| panic!("the page did not answer: {console}"));
        println!("{found}");
        let tip: Vec<&str> = found["tip"].as_str().unwrap().split(" · ").collect();
        let [_, a, b, both, rate] = tip[..] else { panic!("{tip:?}") };
        assert!(a.starts_with("a ") && b.starts_with("b "), "{tip:?}");
        assert_eq!([both, rate], ["a + b rate 100", "a rate 80"]);
        assert_eq!(found["hidden"], true, "the key of link a hides it");
        assert_eq!([&found["zoomed"], &found["whole"]], [&json!([200]), &json!([1000])]);
        let saved: Vec<&str> = found["saved"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        let [markdown, latex, csv, svg] = saved[..] else { panic!("{saved:?}") };
        assert!(markdown.starts_with("| ") && csv.starts_with("\"\","), "{saved:?}");
        assert!(latex == "\\begin{tabular}{lr}" && svg.starts_with("<svg xmlns="), "{saved:?}");
    }

    fn keep_screenshot(&self, name: &str, flag: &str, url: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS").map(PathBuf::from) else { return };
        fs::create_dir_all(&folder).unwrap();
        let file = format!("--screenshot={}", folder.join(format!("{name}.png")).display());
        self.browse(&[flag, "--virtual-time-budget=20000", "--window-size=1280,4200", &file, url]);
    }

    /// Expects that folded words can be read on paper; a dark screen does not make dark paper.
    fn expect_printed(&self, page: &Path, part: &str) {
        let pdf = self.0.path().join("page.pdf");
        let to = format!("--print-to-pdf={}", pdf.display());
        self.browse(&[
            "--force-dark-mode",
            "--no-pdf-header-footer",
            &to,
            &format!("file://{}", page.display()),
        ]);
        let text = stdout_of(Command::new("pdftotext").args([&pdf, Path::new("-")]));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(part), "no \"{part}\" on paper: {text}");
    }
}

pub(crate) fn browser() -> Option<Browser> {
    have(&["chromium", "pdftotext"]).then(|| Browser(tempfile::tempdir().unwrap()))
}

/// Makes logs as the lab would, and the page of them.
fn page_of(browser: &Browser, args: &[&str]) -> PathBuf {
    let folder = browser.0.path().join("logs");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report-logs.py");
    stdout_of(Command::new("python3").arg(program).arg(args[0]).arg(&folder).args(&args[1..]));
    stdout_of(Command::new(program_under_test()).arg("report").arg(&folder));
    let page = folder.join("report.html");
    assert!(fs::metadata(&page).unwrap().len() < 5_000_000);
    page
}

#[test]
fn page_that_a_run_leaves_fits_and_answers_its_reader() {
    if users().is_empty() {
        return;
    }
    let Some(browser) = browser() else { return };
    let place = Place::new(User::Own);
    let options =
        ["--link-a", "rate-80", "--link-b", "rate-20", "--files", "s{001..060}.m4s", "--results", "results"];
    let output = place.run(&[&["--"], &options[..]].concat());
    assert!(output.status.success(), "{}", words(&output));
    let run = fs::read_dir(place.path("work/results")).unwrap().flatten().next().unwrap().path();
    let page = run.join("report.html");
    let text = fs::read_to_string(&page).expect("the run left its page");
    assert!(text.contains("adaptive fetched 60 files"));
    browser.expect_fits("run", &page, 4);
    browser.expect_answers(&page);
}

#[test]
fn page_of_an_experiment_fits_and_prints() {
    let Some(browser) = browser() else { return };
    let page = page_of(&browser, &["sweep"]);
    browser.expect_fits("sweep", &page, 4);
    browser.expect_printed(&page, "longer than best");
}

#[test]
fn page_of_an_experiment_with_long_names_fits() {
    let Some(browser) = browser() else { return };
    browser.expect_fits("long", &page_of(&browser, &["sweep", "--repetitions", "2", "--long-names"]), 4);
}

#[test]
fn page_of_a_hundred_thousand_segments_fits() {
    let Some(browser) = browser() else { return };
    browser.expect_fits("large", &page_of(&browser, &["run", "--segments", "100000"]), 4);
}
