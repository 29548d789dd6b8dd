//! The page of `ployz-sim explain --html` in a real browser: keys are pressed, and it says in its DOM what it has drawn.

#![allow(clippy::print_stdout, reason = "says what it skips")]

use std::path::PathBuf;
use std::process::Command;

use proto_core::time::Time;
use sim::choice::Choices;
use sim::explain::{MOST_LINES, Told, page};
use sim::invariants::Violation;
use sim::play::play;
use sim::story::{Profile, Shape, draw};
use sim::trace::{Happened, Kind};

/// A story that was played, with something broken at its end.
fn told(nodes: usize, seed: u64, operations: usize) -> Told {
    let shape = Shape { nodes, operations, length: 60_000, profile: Profile::Swarm };
    let story = draw(&mut Choices::seeded(seed), seed, shape);
    let report = play(&story, true);
    let at = Time::from_nanos(report.lines.last().expect("something happened").at * 1000);
    let what = "</script> m2 said so".to_owned();
    let violation = Violation { invariant: "S9 success is reported only if committed", what, at };
    let happened = Happened { lines: report.lines, spans: report.spans };
    Told::of_story(&story, happened, vec![violation])
}

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it: what is left is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Presses keys one after the other, draws once more without waiting for a frame, and notes what goes wrong in the page's scripts.
const PRESS: &str = r#"<script>
window.addEventListener("error", (event) => { document.body.dataset.errors = event.message; });
for (const key of KEYS) {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  draw();
}
document.body.dataset.pressed = KEYS.length;
</script></body>"#;

/// The page's DOM once these keys were pressed; `None`: this machine has no browser.
fn dom(told: &Told, name: &str, fragment: &str, keys: &[&str]) -> Option<String> {
    let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let Some(chromium) = ["chromium", "chromium-browser"].into_iter().find(|one| there(one)) else {
        println!("skipped: no chromium");
        return None;
    };
    let folder = std::env::temp_dir().join(format!("ployz-explain-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files takes another one");
    let folder = Folder(folder);
    let file = folder.0.join("page.html");
    let keys = serde_json::to_string(keys).expect("keys are strings");
    let page = page(told).replace("</body>", &PRESS.replace("KEYS", &keys));
    std::fs::write(&file, page).expect("it can be written");
    // A browser that hangs is ended, and its children with it.
    let out = Command::new("timeout")
        .args(["--kill-after=5", "150", chromium, "--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-dev-shm-usage", "--window-size=1400,900", "--virtual-time-budget=1000"])
        .args(["--enable-logging=stderr", "--log-level=0"])
        .arg(format!("--user-data-dir={}", folder.0.join("profile").display()))
        .args(["--dump-dom", &format!("file://{}{fragment}", file.display())])
        .output()
        .expect("timeout is part of coreutils");
    let log = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{log}");
    let console: Vec<_> = log.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    let dom = String::from_utf8(out.stdout).expect("a page is UTF-8");
    assert_eq!(attribute(&dom, "errors"), None);
    assert!(attribute(&dom, "pressed").is_some(), "{log}");
    Some(dom)
}

/// An attribute of the page's body.
fn attribute(dom: &str, what: &str) -> Option<String> {
    let body = dom.split("<body").nth(1).and_then(|rest| rest.split('>').next()).expect("a body");
    let value = body.split(&format!("data-{what}=\"")).nth(1)?.split('"').next()?;
    Some(value.to_owned())
}

/// What the page says that it has drawn.
fn says(dom: &str, what: &str) -> String {
    attribute(dom, what).unwrap_or_else(|| panic!("no data-{what}"))
}

/// The line that is selected, in words.
fn selected(dom: &str) -> String {
    let detail = dom.split("<pre id=\"detail\"").nth(1).expect("details below");
    let row = detail.split("<b ").nth(1).and_then(|rest| rest.split("</b>").next());
    row.and_then(|row| row.split_once('>')).expect("a selected line").1.trim().to_owned()
}

fn seconds(micros: u64) -> String {
    format!("{}.{:04}", micros / 1_000_000, micros % 1_000_000 / 100)
}

fn draws_everything(told: &Told, name: &str) {
    let keys = ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"];
    let Some(dom) = dom(told, name, "", &keys) else { return };
    assert_eq!(says(&dom, "pressed"), keys.len().to_string());
    assert_eq!(says(&dom, "lanes"), told.nodes.to_string());
    assert_eq!(says(&dom, "lines"), told.lines.len().min(MOST_LINES).to_string());
    assert_eq!(says(&dom, "spans"), told.spans.len().to_string());
    assert_eq!(says(&dom, "faults"), told.faults.len().to_string());
    assert!(says(&dom, "messages").parse::<usize>().is_ok_and(|messages| messages > 100));
    assert_eq!(says(&dom, "violations"), "1");
    assert_eq!(says(&dom, "selected"), "3");
    let row = selected(&dom);
    assert!(row.starts_with(&seconds(told.lines[2].at)), "{row}");
    assert!(dom.contains("✗"), "what broke is above the lanes");
}

#[test]
fn the_page_draws_every_lane_span_fault_message_and_line_of_five_machines() {
    let told = told(5, 3, 10);
    assert!(!told.spans.is_empty() && !told.faults.is_empty(), "a story with nothing in it");
    draws_everything(&told, "five");
}

#[test]
fn the_page_draws_two_hundred_machines() {
    draws_everything(&told(200, 1, 10), "many");
}

#[test]
fn the_filters_leave_the_lanes_and_lines_that_they_name() {
    let told = told(5, 3, 10);
    let Some(dom) = dom(&told, "filter", "#node=m2-m3&operation=ns0", &[]) else { return };
    assert_eq!(says(&dom, "lanes"), "2");
    let on = |node: usize| node == 1 || node == 2;
    let named = |text: &str| text.contains("ns0");
    let spans = told.spans.iter().filter(|span| on(span.node) && named(&span.text)).count();
    assert_eq!(says(&dom, "spans"), spans.to_string());
    let lines: usize = says(&dom, "lines").parse().expect("a number");
    assert!(lines > 0 && lines < told.lines.len(), "{lines} of {}", told.lines.len());
}

#[test]
fn the_keyboard_goes_to_the_first_fault_and_to_what_broke_and_zooms() {
    let told = told(5, 3, 10);
    let Some(all) = dom(&told, "all", "", &["Home", "f"]) else { return };
    let fault = told.lines.iter().skip(1).find(|line| line.kind == Kind::Fault || line.is_lost());
    let row = selected(&all);
    assert!(row.starts_with(&seconds(fault.expect("a fault").at)), "{row}");
    let keys = ["Home", "+", "+", "+", "+"];
    let Some(zoomed) = dom(&told, "zoomed", "", &keys) else { return };
    let shown = |dom: &str| says(dom, "seconds").parse::<f64>().expect("seconds");
    assert!(shown(&zoomed) < shown(&all) / 2.0, "{} of {}", shown(&zoomed), shown(&all));
    let Some(again) = dom(&told, "again", "", &["Home", "+", "+", "0", "v"]) else { return };
    assert_eq!(says(&again, "seconds"), says(&all, "seconds"));
    assert!(selected(&again).contains("S9 success is reported only if committed"));
}
