//! The report's page in Chromium, which `cargo verify` installs. The pictures are left in `target/tmp`.

use std::path::{Path, PathBuf};

use operate::Operator;
use serde_json::{Value, json};
use verify::browser;

use crate::operator;
use crate::report::{fleet, hostile, logs, page};
use crate::store::Store;

/// What Chromium makes of a page, and the folder with its pictures.
fn open(name: &str, html: &str) -> (Value, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("page.html");
    std::fs::write(&file, html).unwrap();
    let output = browser::open(&file, &folder).unwrap().output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The only request is the one for the page.
    let own = format!("file://{}", file.display());
    for request in seen["requests"].as_array_mut().unwrap().iter_mut().filter(|request| **request == own) {
        *request = "the page".into();
    }
    (seen, folder)
}

/// One secret of each sort, one with hostile texts, and somebody who read.
async fn full(store: &Store) -> String {
    let field = |name: &str, value: &str| json!({ "field": name, "value": value });
    let arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/well-AbC123";
    let who = "arn:aws:sts::000000000000:assumed-role/<script>alert(2)</script>/web";
    let last = "2026-11-28T10:00:00Z";
    let row =
        [field("who", who), field("secret", arn), field("result", "read"), field("times", "12"), field("last", last)];
    let (address, served) = logs(vec![
        ("StartQuery", json!({ "queryId": "q-1" })),
        ("GetQueryResults", json!({ "status": "Complete", "results": [row] })),
    ]);
    let of_logs: Operator =
        operator(&[("CLOUDTRAIL_LOG_GROUP", "trail"), ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", &address)]);
    let html = page(&of_logs, store).await;
    served.join().unwrap();
    html
}

#[tokio::test]
async fn browser_runs_no_script_and_shows_hostile_names_as_text() {
    let store = fleet();
    let name = hostile(&store);
    let (seen, _) = open("hostile", &full(&store).await);
    for (what, expected) in [("requests", json!(["the page"])), ("messages", json!([])), ("scripts", json!([]))] {
        assert_eq!(seen[what], expected, "{what}: {seen:#}");
    }
    let text = seen["text"].as_str().unwrap();
    for shown in [name, "</td><h1>x", "\"><b>", "<s>&", "assumed-role/<script>alert(2)</script>/web"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
}

#[tokio::test]
async fn browser_shows_a_readable_page_in_light_and_dark() {
    let store = fleet();
    hostile(&store);
    let (seen, folder) = open("schemes", &full(&store).await);
    let (light, dark) = (&seen["light"], &seen["dark"]);
    assert_eq!((&light["background"], &dark["background"]), (&json!([255, 255, 255]), &json!([19, 19, 22])));
    let picture = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert_ne!(picture("light.png"), picture("dark.png"));
    for scheme in [light, dark] {
        let image = &scheme["image"];
        assert!(image["width"] == 1280 && image["height"].as_u64() > Some(900), "all of the page: {image}");
        assert!(image["colours"].as_u64() > Some(50) && image["share"].as_f64() < Some(0.95), "blank: {image}");
        // WCAG 2.1, 1.4.3: text has a contrast of at least 4.5 to 1.
        assert!(scheme["lowest"]["ratio"].as_f64() >= Some(4.5), "{scheme}");
    }
    let keyboard = seen["keyboard"].as_array().unwrap();
    let reached: Vec<&str> = keyboard.iter().map(|stop| stop["name"].as_str().unwrap()).collect();
    let links = ["#problems", "#hand", "#timeline", "#secrets", "#reads"];
    assert_eq!(reached, [&links[..], &["problems", "hand", "secrets", "reads"]].concat(), "links, then tables");
    assert!(keyboard.iter().all(|stop| stop["outlined"] == true), "{keyboard:?}");
    assert_eq!(seen["overflowOnPhone"], 0, "only tables scroll sideways");
}

#[tokio::test]
async fn browser_prints_on_a4_in_dark_ink_on_white() {
    let (seen, folder) = open("print", &page(&operator(&[]), &fleet()).await);
    assert_eq!(seen["print"]["background"], json!([255, 255, 255]), "the screen was dark");
    assert!(seen["print"]["lowest"]["ratio"].as_f64() >= Some(4.5), "{seen:#}");
    let sheets = seen["print"]["sheets"].as_array().unwrap();
    assert!(!sheets.is_empty() && sheets.len() < 4, "{sheets:?}");
    for sheet in sheets {
        let size: Vec<f64> = sheet.as_str().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
        // 297 mm by 210 mm in points, to a point.
        assert!((size[2] - 841.9).abs() < 1.0 && (size[3] - 595.3).abs() < 1.0, "{sheet}");
    }
    assert!(std::fs::read(folder.join("page.pdf")).unwrap().starts_with(b"%PDF-"));
}

#[test]
fn browser_tells_what_a_bad_page_does() {
    let bad = "<!doctype html><html lang=en><meta charset=utf-8><title>x</title><body style='color:#ccc;width:900px'>\
               <p>pale</p><script>console.log('said')</script><img src=x.png>";
    let (seen, _) = open("bad", bad);
    assert_eq!(seen["requests"].as_array().unwrap().len(), 2, "{seen:#}");
    assert_eq!(seen["scripts"].as_array().unwrap().len(), 1, "{seen:#}");
    let messages = seen["messages"].as_array().unwrap();
    assert!(messages.len() == 2 && messages.contains(&json!("said")), "{messages:?}");
    assert!(seen["light"]["lowest"]["ratio"].as_f64() < Some(2.0) && seen["light"]["lowest"]["text"] == "pale");
    assert!(seen["light"]["image"]["share"].as_f64() > Some(0.99), "nearly blank: {seen:#}");
    assert_eq!((&seen["keyboard"], seen["overflowOnPhone"].as_u64() > Some(100)), (&json!([]), true));
}
