//! The report's pages in a real browser: a run of the lab, an experiment and a run of 100 000 segments, on a phone's width and
//! a desktop's, light and dark. Nothing is wider than the window, the console stays empty, the page follows the reader's
//! scheme, every plot has its words, the experiment prints with its folded parts, and the run itself left its page.
//! Screenshots stay in `$SCREENSHOTS`, if set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
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

/// A browser with a profile of its own.
struct Browser(TempDir);

impl Browser {
    /// Returns what the browser prints, and its messages.
    fn browse(&self, args: &[&str]) -> [String; 2] {
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

    fn expect_fits(&self, name: &str, page: &Path) {
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
            let found = dom
                .split("<pre id=\"found\">FOUND ")
                .nth(1)
                .and_then(|rest| rest.split(" END").next())
                .unwrap_or_default();
            let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            let found: Vec<Value> = serde_json::from_str(&found).unwrap_or_else(|error| {
                panic!("{name}, {scheme}: the page did not load: {error}: {console}")
            });
            let mut widths: Vec<u64> = found.iter().map(|one| one["width"].as_u64().unwrap()).collect();
            widths.sort_unstable();
            assert_eq!(widths, WIDTHS.map(u64::from));
            for one in &found {
                println!("{name}, {scheme}: {one}");
                assert_eq!(one["beyond"], Value::Array(Vec::new()), "{name}: wider than the window");
                assert!(one["scroll"].as_u64() <= one["width"].as_u64(), "{name} scrolls sideways: {one}");
                assert!(one["plots"].as_u64() > Some(3) && one["wordless"] == 0, "{name}: {one}");
                assert_eq!(one["dark"], scheme == "dark", "{name}: {one}");
            }
            assert!(!console.contains("CONSOLE"), "{name}: {console}");
            self.keep_screenshot(&format!("{name}-{scheme}"), flag, &owner);
        }
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

fn browser() -> Option<Browser> {
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
fn page_that_a_run_leaves_fits() {
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
    browser.expect_fits("run", &page);
}

#[test]
fn page_of_an_experiment_fits_and_prints() {
    let Some(browser) = browser() else { return };
    let page = page_of(&browser, &["sweep"]);
    browser.expect_fits("sweep", &page);
    browser.expect_printed(&page, "longer than best");
}

#[test]
fn page_of_an_experiment_with_long_names_fits() {
    let Some(browser) = browser() else { return };
    browser.expect_fits("long", &page_of(&browser, &["sweep", "--repetitions", "2", "--long-names"]));
}

#[test]
fn page_of_a_hundred_thousand_segments_fits() {
    let Some(browser) = browser() else { return };
    browser.expect_fits("large", &page_of(&browser, &["run", "--segments", "100000"]));
}
