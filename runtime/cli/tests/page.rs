//! `lathe inspect --html` in a real browser, and `lathe explain`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn magika() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/magika.onnx");
    path.to_string_lossy().into_owned()
}

fn lathe(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
        .args(arguments)
        .current_dir(folder)
        .env("LATHE_CACHE_DIR", folder.join("cache"))
        .env("LATHE_KEY_FILE", folder.join("key"))
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The page as the browser sees it after its script ran; `None` where there is no browser.
fn rendered(page: &Path, profile: &Path) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    })?;
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_page_draws_the_graph_before_and_after() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    lathe(folder.path(), &["inspect", &magika(), "--html", "page.html"]);
    let page = folder.path().join("page.html");
    let source = std::fs::read_to_string(&page).expect("the page");
    assert!(!source.contains("http://") || source.matches("http://").count() == 1, "only the SVG namespace");
    let report: Value =
        serde_json::from_str(&lathe(folder.path(), &["compile", &magika(), "--json"])).expect("JSON");
    let Some(dom) = rendered(&page, &folder.path().join("profile")) else {
        println!("LEFT OUT: the page in a browser (no chromium here)");
        return;
    };
    let drawn = dom.split("data-drawn=\"").nth(1).and_then(|rest| rest.split('"').next());
    let drawn: u64 = drawn.expect("the script ran to its end").parse().expect("a number");
    // Both graphs: `main` as imported on the left, as compiled on the right.
    let (before, after) = (report["ops_before"].as_u64().unwrap(), report["ops_after"].as_u64().unwrap());
    assert!(drawn > before && drawn <= before + after, "{drawn} of {before} and {after} nodes");
    for part in ["largest sum of live buffers", "fuse_linear", "of the roofline"] {
        assert!(dom.contains(part), "the page shows `{part}`");
    }
}

#[test]
fn explain_names_passes_reasons_and_kernels() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = lathe(folder.path(), &["explain", &magika(), "--json", "--profile"]);
    let explained: Value = serde_json::from_str(&text).expect("JSON");
    let passes = explained["passes"].as_array().expect("passes");
    let linear = passes.iter().find(|pass| pass["pass"] == "fuse_linear").expect("the pass");
    assert!(!linear["applied"].as_array().expect("nodes").is_empty());
    let refusals = passes.iter().flat_map(|pass| pass["refused"].as_array().expect("a list"));
    assert!(
        refusals.clone().all(|refusal| refusal["reason"].as_str().is_some_and(|reason| !reason.is_empty()))
    );
    let steps = explained["functions"][0]["steps"].as_array().expect("steps");
    let native = steps.iter().filter(|step| step["exec"] == "builtin");
    assert!(native.clone().count() > 5);
    assert!(native.clone().all(|step| step["precision"].is_string() && step["reason"].is_string()));
    let profile = explained["profile"].as_array().expect("a profile");
    assert!(profile.iter().any(|row| row["roofline"].as_f64().is_some_and(|share| share > 0.0)));
    let without = lathe(folder.path(), &["explain", &magika(), "--disable", "fuse_linear"]);
    assert!(!without.contains("fuse_linear"), "{without}");
}
