//! What a report tells of all secrets, as data and as a page.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use html5ever::interface::QuirksMode;
use html5ever::tendril::TendrilSink as _;
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use operate::Operator;
use operate::reads::query;
use operate::report::{ReportAnswer, Reporter};
use operate::request::{Format, Report};
use rotation::deadline::Deadline;
use rotation::time::format_timestamp;
use serde_json::{Value, json};

use crate::operator;
use crate::store::{DAY, HOUR, Secret, Store};

const VALUE: &str = "c4naryVALUE";

async fn report(operator: &Operator, store: &Store, format: Format, from: Option<&str>) -> ReportAnswer {
    let asked = Report { format, from: from.map(str::to_owned), ..Report::default() };
    Reporter::new(operator, &asked, Deadline::after(Duration::from_secs(60))).perform(store).await.unwrap()
}

async fn data(operator: &Operator, store: &Store) -> Value {
    serde_json::to_value(report(operator, store, Format::Json, None).await).unwrap()
}

pub(crate) async fn page(operator: &Operator, store: &Store) -> String {
    match report(operator, store, Format::Html, None).await {
        ReportAnswer::Page { html, .. } => html,
        ReportAnswer::Data(data) => panic!("{data:?}"),
    }
}

/// A token that was rotated so long ago.
fn token(secret: Secret, ago: Duration) -> Secret {
    let secret = secret.with_version("new", VALUE, ago, &["AWSCURRENT"]);
    let secret = secret.with_version("old", VALUE, ago + DAY, &["AWSPREVIOUS"]).with_tag("owner", "platform");
    secret.with(|told| {
        (told.last_rotated, told.last_changed) = (Some(told.as_of - ago), Some(told.as_of - ago));
        told.next_rotation = Some(told.as_of + 90 * DAY - ago);
        told.rotation_rules.days = Some(90);
    })
}

/// One secret of each sort.
pub(crate) fn fleet() -> Store {
    let store = Store::new();
    store.secret("shop/well", Some("stack-admin-token"), |secret| token(secret, 2 * HOUR).with_tag("Contact", "web@x"));
    store.secret("shop/late", Some("stack-admin-token"), |secret| token(secret, 100 * DAY));
    store.secret("shop/stuck", Some("stack-encryption-key"), |secret| {
        token(secret, DAY).with_version("pending", VALUE, HOUR, &["AWSPENDING"])
    });
    store.secret("shop/off", Some("stack-admin-token"), |secret| {
        token(secret, 30 * DAY).with(|told| told.rotation_enabled = false)
    });
    store.secret("shop/wrong", Some("stack-admin-token"), |secret| {
        token(secret, DAY).with_tag("rotation:overlap", "soon")
    });
    store.secret("shop/providers", None, |secret| {
        let done = format_timestamp(secret.described.as_of - 100 * DAY);
        let secret = secret.with_tag("rotation:remind", "META:90d STRIPE:180d OPENAI:30d");
        secret.with_tag("rotation:done:META", &done).with_tag("rotation:done:STRIPE", &done)
    });
    store.secret("shop/replica", Some("stack-admin-token"), |secret| {
        token(secret, 900 * DAY).with(|told| told.replica_of = Some("eu-west-1".to_owned()))
    });
    store.secret("other/late", Some("stack-admin-token"), |secret| token(secret, 900 * DAY));
    store
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["secrets"].as_array().unwrap().iter().find(|row| row["secret"] == name).unwrap()
}

#[tokio::test]
async fn every_secret_has_its_owner_dates_and_problems() {
    let (store, operator) = (fleet(), operator(&[]));
    let report = data(&operator, &store).await;
    assert_eq!(report["secrets"].as_array().unwrap().len(), 7, "those under the prefix: {report:#}");
    assert_eq!((&report["reads"], &report["continueFrom"]), (&Value::Null, &Value::Null));
    let well = row(&report, "shop/well");
    let rotated = format_timestamp(store.now - 2 * HOUR);
    for (member, expected) in [
        ("owner", json!("platform")),
        ("contact", json!("web@x")),
        ("kind", json!("admin-token")),
        ("lastRotated", json!(rotated)),
        ("nextRotation", json!(format_timestamp(store.now + 90 * DAY - 2 * HOUR))),
        ("ageDays", json!(0)),
        ("schedule", json!("90 days")),
        ("overlap", json!("24h")),
        ("previousAcceptedUntil", json!(format_timestamp(store.now + 22 * HOUR))),
        ("delivery", Value::Null),
        ("problems", json!([])),
    ] {
        assert_eq!(well[member], expected, "{member}: {well:#}");
    }
    for (name, problem) in
        [("shop/late", "overdue"), ("shop/stuck", "stuck"), ("shop/off", "switchedOff"), ("shop/wrong", "policy")]
    {
        assert_eq!(row(&report, name)["problems"][0]["problem"], problem, "{report:#}");
        assert_eq!(row(&report, name)["problems"].as_array().unwrap().len(), 1, "{report:#}");
    }
    assert_eq!(row(&report, "shop/late")["previousAcceptedUntil"], Value::Null);
    assert_eq!(
        (&row(&report, "shop/replica")["kind"], &row(&report, "shop/replica")["problems"]),
        (&json!("replica"), &json!([]))
    );
    assert_eq!(store.take_calls(), Vec::<&str>::new(), "the listing tells it all");
}

#[tokio::test]
async fn values_that_people_rotate_are_due_as_the_sweep_counts() {
    let report = data(&operator(&[]), &fleet()).await;
    let values = &row(&report, "shop/providers")["byHand"];
    let due = |number: usize| (values[number]["member"].as_str().unwrap(), values[number]["isDue"].as_bool().unwrap());
    assert_eq!([due(0), due(1), due(2)], [("META", true), ("STRIPE", false), ("OPENAI", true)], "{values:#}");
    assert_eq!((&values[0]["everyDays"], &values[2]["done"]), (&json!(90), &Value::Null));
}

#[tokio::test]
async fn delivery_is_told_by_its_labels() {
    let store = Store::new();
    let operator = operator(&[("CONSUMED_SECRETS", "a,b,c,d")]);
    let began = store.now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap() - DAY;
    for (name, version, label) in [
        ("shop/a", "new", "ROTATION-DELIVERED".to_owned()),
        ("shop/b", "old", "ROTATION-DELIVERED".to_owned()),
        ("shop/c", "new", format!("ROTATION-DELIVERING-{}", began.as_secs())),
        ("shop/d", "old", "OTHER".to_owned()),
    ] {
        store.secret(name, Some("stack-admin-token"), |secret| token(secret, HOUR));
        store.change(name, |secret| secret.attach(&label, &crate::store::version(version)));
    }
    let report = data(&operator, &store).await;
    let told = ["a", "b", "c", "d"].map(|name| row(&report, &format!("shop/{name}"))["delivery"].clone());
    assert_eq!(json!(told), json!(["delivered", "deliveredBefore", "pending", "notBegun"]));
    assert_eq!(row(&report, "shop/c")["problems"][0]["problem"], "deliveryLate", "a quarter of the overlap is over");
    assert_eq!(row(&report, "shop/d")["problems"], json!([]), "an hour is not late");
}

#[tokio::test]
async fn page_tells_what_is_urgent_first_and_holds_no_value() {
    let (store, operator) = (fleet(), operator(&[]));
    let html = page(&operator, &store).await;
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text}: {html}"));
    let order = [
        "<h1",
        "id=problems",
        "rotation doctor shop/late",
        "id=hand",
        "META",
        "id=timeline",
        "<svg",
        "id=secrets",
        "shop/well",
    ];
    assert!(order.map(place).is_sorted(), "{html}");
    assert!(
        place("<td>OPENAI") < place("<td>META") && place("<td>META") < place("<td>STRIPE"),
        "never recorded, due, later"
    );
    for text in [
        "<b>7</b>secrets",
        "<b>4</b>overdue",
        "<b>2</b>due by hand",
        "24h, until ",
        "Not known: the stack names no log",
    ] {
        place(text);
    }
    for absent in [VALUE, "<script", "http:", "https:", " src=", "onload", "url("] {
        assert!(!html.contains(absent), "{absent}");
    }
}

/// Adds a late secret whose name and tags are markup, and returns its name.
pub(crate) fn hostile(store: &Store) -> &'static str {
    let name = r#"shop/<script>alert(1)</script>"'&<img src=x onerror=alert(1)>"#;
    store.secret(name, Some("stack-admin-token"), |secret| {
        let secret = token(secret, 100 * DAY).with_tag("owner", "</td><h1>x").with_tag("contact", "\"><b>");
        secret.with_tag("rotation:overlap", "<i>").with(|told| {
            told.rotation_rules.expression = Some("<s>&".to_owned());
        })
    });
    name
}

#[tokio::test]
async fn hostile_names_and_tags_are_text_on_the_page() {
    let store = Store::new();
    let hostile = hostile(&store);
    let html = page(&operator(&[]), &store).await;
    for markup in ["<script", "<img", "</td><h1>", "<b>\"", "<i>", "<s>", "alert(1)</"] {
        assert!(!html.contains(markup), "{markup}: {html}");
    }
    assert_eq!(html.matches("<h1").count(), 1);
    assert!(html.contains("shop/&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#38;"), "{html}");
    let parsed = Parsed::of(&html);
    for text in [hostile, "</td><h1>x", "\"><b>", "<s>&"] {
        assert!(parsed.texts.iter().any(|own| own == text), "{text}: {:?}", parsed.texts);
    }
    // The data have them as they are.
    assert_eq!(data(&operator(&[]), &store).await["secrets"][0]["secret"], hostile);
}

/// What a browser makes of a page.
#[derive(Default)]
struct Parsed {
    texts: Vec<String>,
    /// The elements in order, each with its attributes.
    elements: Vec<(String, BTreeMap<String, String>)>,
}

impl Parsed {
    fn of(html: &str) -> Self {
        let dom = html5ever::parse_document(RcDom::default(), html5ever::ParseOpts::default()).one(html);
        assert!(dom.errors.borrow().is_empty(), "{:?}", dom.errors);
        assert!(matches!(dom.quirks_mode.get(), QuirksMode::NoQuirks));
        let mut parsed = Self::default();
        parsed.read(&dom.document);
        parsed
    }

    fn read(&mut self, node: &Handle) {
        match &node.data {
            NodeData::Text { contents } => self.texts.push(contents.borrow().trim().to_owned()),
            NodeData::Element { name, attrs, .. } => {
                let attributes = attrs.borrow();
                let attributes = attributes.iter().map(|one| (one.name.local.to_string(), one.value.to_string()));
                self.elements.push((name.local.to_string(), attributes.collect()));
            }
            NodeData::Comment { contents } => panic!("a comment: {contents}"),
            _ => {}
        }
        for child in node.children.borrow().iter() {
            self.read(child);
        }
    }

    fn named(&self, element: &str) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.elements.iter().filter(move |(name, _)| name == element).map(|(_, attributes)| attributes)
    }
}

#[tokio::test]
async fn page_is_valid_and_accessible_html_that_loads_nothing() {
    let parsed = Parsed::of(&page(&operator(&[]), &fleet()).await);
    let elements = "html head meta title style body main h1 p b ul li nav a section h2 div table thead tbody tr th td code figure figcaption svg line rect text";
    let known: BTreeSet<&str> = elements.split(' ').collect();
    let used: BTreeSet<&str> = parsed.elements.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(used, known, "no script, no image, no link to elsewhere");
    assert_eq!(parsed.named("html").next().unwrap()["lang"], "en");
    let policy = parsed.named("meta").find_map(|meta| meta.get("http-equiv").and(meta.get("content"))).unwrap();
    assert_eq!(policy, "default-src 'none';style-src 'unsafe-inline'");
    let headings = parsed.elements.iter().map(|(name, _)| name.as_str()).filter(|name| ["h1", "h2"].contains(name));
    assert_eq!(headings.collect::<Vec<_>>(), ["h1", "h2", "h2", "h2", "h2", "h2"]);
    assert!(parsed.named("th").all(|cell| ["col", "row"].contains(&cell["scope"].as_str())));
    // What names another element finds it; what scrolls is reached by the keyboard.
    let ids: BTreeSet<&String> = parsed.elements.iter().filter_map(|(_, attributes)| attributes.get("id")).collect();
    let named = parsed.elements.iter().filter_map(|(_, attributes)| attributes.get("aria-labelledby"));
    assert!(named.clone().count() > 5 && named.clone().all(|id| ids.contains(id)), "{ids:?}");
    assert!(
        parsed.named("a").all(|link| link["href"].strip_prefix('#').is_some_and(|id| ids.contains(&id.to_owned())))
    );
    let scrolls = |div: &&BTreeMap<String, String>| div.get("class").is_some_and(|class| class == "x");
    assert!(parsed.named("div").filter(scrolls).all(|div| div["tabindex"] == "0" && div["role"] == "region"));
    assert!(parsed.named("svg").all(|svg| svg["role"] == "img"));
}

/// Ten thousand secrets, of which each `bad`-th is late, with names and tags of the usual length.
fn many(secrets: usize, bad: usize, tag: &str) -> Store {
    let store = Store::new();
    for number in 0..secrets {
        let function = if number % 3 == 0 { "shop-production-encryption-key" } else { "shop-production-admin-token" };
        store.secret(&format!("shop/production/service-{number:05}/credential"), Some(function), |secret| {
            let age = if number % bad == 0 { 91 * DAY } else { DAY * u32::try_from(number % 90).unwrap() };
            token(secret, age).with_tag("owner", tag).with_tag("contact", tag).with(|told| {
                told.rotation_rules.days = None;
                told.rotation_rules.expression = Some("cron(0 8 ? 1,4,7,10 TUE#2 *)".to_owned());
            })
        });
    }
    store
}

async fn answer_bytes(store: &Store, format: Format) -> (usize, Option<String>) {
    let answer = report(&operator(&[]), store, format, None).await;
    let bytes = serde_json::to_vec(&answer).unwrap().len();
    let next = match answer {
        ReportAnswer::Page { continue_from, .. } => continue_from,
        ReportAnswer::Data(data) => data.continue_from,
    };
    (bytes, next)
}

#[tokio::test]
async fn ten_thousand_secrets_are_one_answer_under_5_mb() {
    let store = many(10_000, 50, "platform-team@example.org");
    for format in [Format::Html, Format::Json] {
        let (bytes, next) = answer_bytes(&store, format).await;
        println!("{format:?}: {bytes} bytes");
        assert!(bytes < 5_000_000 && next.is_none(), "{format:?}: {bytes} bytes, {next:?}");
    }
}

#[tokio::test]
async fn answer_that_would_be_too_long_says_where_to_go_on() {
    // Everything is late, and each tag has what is escaped.
    let store = many(10_000, 1, &"<&\"\u{1}".repeat(64));
    for format in [Format::Html, Format::Json] {
        let (bytes, next) = answer_bytes(&store, format).await;
        println!("{format:?}: {bytes} bytes");
        assert!(bytes < 6_000_000 && next.is_some(), "{format:?}: {bytes} bytes, {next:?}");
    }
    // Together the reports hold every secret once.
    let store = many(300, 1, &"<&\"\u{1}".repeat(64));
    let ReportAnswer::Data(rest) = report(&operator(&[]), &store, Format::Json, Some("200")).await else { panic!() };
    assert_eq!((rest.secrets.len(), &rest.reads, &rest.continue_from), (100, &None, &None));
}

#[tokio::test]
async fn empty_stack_is_a_page_too() {
    let html = page(&operator(&[]), &Store::new()).await;
    assert!(html.contains("As of an empty listing") && html.contains("There are no secrets"), "{html}");
}

#[tokio::test]
async fn reads_that_cannot_be_asked_for_do_not_keep_the_report() {
    let operator = operator(&[("CLOUDTRAIL_LOG_GROUP", "trail")]);
    let report = data(&operator, &fleet()).await;
    assert_eq!(report["secrets"].as_array().unwrap().len(), 7);
    let unknown = report["reads"]["unknown"].as_str().unwrap();
    assert!(unknown.starts_with("trail: "), "{unknown}");
    assert!(page(&operator, &fleet()).await.contains("Not known: trail: "));
}

#[test]
fn prefix_does_not_break_out_of_a_query() {
    assert!(query("shop/production/").contains(r#"| filter secret like "shop/production/""#));
    for hostile in ["\" or 1=1", "a\\", "a|b", "ä"] {
        assert!(query(hostile).contains(r#"| filter secret like """#), "{hostile}");
    }
}

/// CloudWatch Logs that answers each call to an operation with the next of its answers, and keeps what it was asked.
pub(crate) fn logs(mut answers: Vec<(&'static str, Value)>) -> (String, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let mut asked = vec![];
        answers.reverse();
        while let Some((operation, answer)) = answers.pop() {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let (mut length, mut target, mut line) = (0, String::new(), String::new());
            while stream.read_line(&mut line).unwrap() > 2 {
                let (name, value) = line.split_once(": ").unwrap_or_default();
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap(),
                    "x-amz-target" => value.trim().clone_into(&mut target),
                    _ => {}
                }
                line.clear();
            }
            assert_eq!(target, format!("Logs_20140328.{operation}"));
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            asked.push(serde_json::from_slice(&body).unwrap());
            let (body, head) = (answer.to_string(), "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1");
            let answer = format!("{head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (address, served)
}

#[tokio::test]
async fn reads_of_ninety_days_are_on_the_page() {
    let field = |name: &str, value: &str| json!({ "field": name, "value": value });
    let arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/well-AbC123";
    let row = json!([
        field("who", "arn:aws:iam::000000000000:role/<i>web"),
        field("secret", arn),
        field("result", "read"),
        field("times", "12"),
        field("last", "2026-11-28T10:00:00Z"),
    ]);
    let (address, served) = logs(vec![
        ("StartQuery", json!({ "queryId": "q-1" })),
        ("GetQueryResults", json!({ "status": "Running", "results": [] })),
        ("GetQueryResults", json!({ "status": "Complete", "results": [row] })),
    ]);
    let operator = operator(&[("CLOUDTRAIL_LOG_GROUP", "trail"), ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", &address)]);
    let store = fleet();
    let html = page(&operator, &store).await;
    let read = "<th scope=row>arn:aws:iam::000000000000:role/&#60;i&#62;web<td>shop/well<td>read<td>12<td>2026-11-28T10:00:00Z";
    assert!(html.contains(read), "{html}");
    let asked = served.join().unwrap();
    let seconds = |name: &str| asked[0][name].as_u64().unwrap();
    assert_eq!(seconds("endTime") - seconds("startTime"), 90 * 24 * 60 * 60);
    assert_eq!((&asked[0]["logGroupName"], &asked[0]["queryString"]), (&json!("trail"), &json!(query("shop/"))));
    assert_eq!(asked[2]["queryId"], "q-1");
}
