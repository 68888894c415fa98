//! What a sweep sees, counts, ends and tells.

use std::time::{Duration, SystemTime};

use operate::Operator;
use operate::kinds::Kind;
use operate::request;
use operate::sweep::{Sweep, SweepResult};
use rotation::deadline::Deadline;
use rotation::telemetry::Datum;
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, Secret, Store};
use crate::{environment, operator};

struct Told {
    answer: Value,
    metrics: Vec<Datum>,
    message: String,
}

impl Told {
    fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|datum| datum.name == name).map(|datum| datum.value)
    }
}

async fn sweep(operator: &Operator, store: &Store) -> Told {
    // What has happened in the last minutes a listing may not show, and is told by the next sweep.
    let scheduled = Some(store.now + Duration::from_secs(5 * 60));
    let asked = request::Sweep { scheduled, ..request::Sweep::default() };
    let sweep = Sweep::new(operator, &asked, "request", Deadline::after(Duration::from_secs(60)));
    let SweepResult { answer, metrics, message, .. } = sweep.perform("operate", store).await.unwrap();
    let message = message.map(|(subject, text)| format!("{subject}\n{text}")).unwrap_or_default();
    Told { answer: serde_json::to_value(answer).unwrap(), metrics, message }
}

/// A token in a text, rotated so long ago.
fn rotated(secret: Secret, ago: Duration) -> Secret {
    let secret = secret.with_version("new", "new-token", ago, &["AWSCURRENT"]);
    let secret = secret.with_version("old", "old-token", ago + DAY, &["AWSPREVIOUS"]);
    secret.with(|told| (told.last_rotated, told.last_changed) = (Some(told.as_of - ago), Some(told.as_of - ago)))
}

fn overdue(secret: Secret, by: Duration) -> Secret {
    secret.with(|told| told.next_rotation = Some(told.as_of - by))
}

fn stuck(secret: Secret, since: Duration) -> Secret {
    let secret = secret.with_version("pending", "next-token", since, &["AWSPENDING"]);
    secret.with(|told| told.last_changed = Some(told.as_of - since))
}

#[tokio::test]
async fn overdue_and_stuck_rotations_are_counted_and_named() {
    let store = Store::new();
    store.secret("shop/late", Some("stack-admin-token"), |secret| overdue(rotated(secret, 90 * DAY), 7 * HOUR));
    store.secret("shop/stuck", Some("stack-admin-token"), |secret| stuck(rotated(secret, 30 * DAY), HOUR));
    store.secret("shop/young", Some("stack-admin-token"), |secret| {
        stuck(rotated(secret, 30 * DAY), Duration::from_secs(60))
    });
    store.secret("shop/off", Some("stack-admin-token"), |secret| {
        stuck(overdue(rotated(secret, 30 * DAY), DAY), HOUR).with(|told| told.rotation_enabled = false)
    });
    store.secret("shop/deleted", Some("stack-admin-token"), |secret| {
        overdue(rotated(secret, 900 * DAY), DAY).with(|told| told.deleted = true)
    });
    store.secret("shop/replica", Some("stack-admin-token"), |secret| {
        overdue(rotated(secret, 900 * DAY), DAY).with(|told| told.replica_of = Some("eu-west-1".to_owned()))
    });
    store.secret("shop/nobody", None, |secret| overdue(rotated(secret, 900 * DAY), DAY));
    store.secret("other/late", Some("stack-admin-token"), |secret| overdue(rotated(secret, 900 * DAY), DAY));
    let told = sweep(&operator(&[]), &store).await;
    assert_eq!((&told.answer["secrets"], &told.answer["managed"]), (&json!(7), &json!(3)), "{:#}", told.answer);
    assert_eq!(told.answer["overdue"], json!(["shop/late"]));
    assert_eq!(told.answer["stuck"], json!(["shop/stuck"]));
    assert_eq!((told.metric("HoursOverdueMax"), told.metric("StuckPending")), (Some(7.0), Some(1.0)));
    assert_eq!(told.metric("SecretAgeMax"), Some(90.0 * 24.0));
    assert_eq!((told.metric("SweepCompleted"), &told.answer["complete"]), (Some(1.0), &json!(true)));
}

#[test]
fn a_kind_is_known_by_the_whole_end_of_a_functions_name() {
    let store = Store::new();
    let kind = |function: &str| {
        store.secret("shop/secret", Some(function), |secret| secret);
        Kind::of(&store.described("shop/secret"))
    };
    for known in Kind::KNOWN {
        let name = known.name();
        for function in [name.to_owned(), format!("stack-{name}"), format!("stack-{name}:live")] {
            assert_eq!(kind(&function), Some(known), "{function}");
        }
        for function in [format!("stack{name}"), format!("{name}-2")] {
            assert_eq!(kind(&function), Some(Kind::Other), "{function}");
        }
    }
}

#[tokio::test]
async fn values_that_people_rotate_are_told_when_due() {
    let store = Store::new();
    let done = |secret: Secret, member: &str, ago: Duration| {
        let at = rotation::time::format_timestamp(secret.described.as_of - ago);
        secret.with_tag(&format!("rotation:done{member}"), &at)
    };
    store.secret("shop/due", None, |secret| {
        let secret = secret.with_tag("rotation:remind", "META:90d OPENAI:180d").with_tag("contact", "web@example.org");
        done(done(secret, ":META", 90 * DAY + HOUR / 2), ":OPENAI", 90 * DAY)
    });
    store.secret("shop/text", None, |secret| done(secret.with_tag("rotation:remind", "30d"), "", 31 * DAY + HOUR / 2));
    store.secret("shop/well", None, |secret| done(secret.with_tag("rotation:remind", "A:30d"), ":A", DAY));
    store.secret("shop/never", None, |secret| {
        secret.with_tag("rotation:remind", "A:30d").with(|told| told.last_changed = Some(told.as_of - HOUR / 2))
    });
    store.secret("shop/wrong", None, |secret| secret.with_tag("rotation:remind", "A:monthly"));
    let told = sweep(&operator(&[]), &store).await;
    assert_eq!(told.answer["dueByHand"], json!(["shop/due", "shop/never", "shop/text"]), "{:#}", told.answer);
    assert_eq!(told.metric("DueByHand"), Some(3.0));
    assert_eq!(told.answer["problems"][0]["error"], "InvalidPolicy", "{:#}", told.answer);
    for line in [
        "shop/due: META since 2024-",
        "contact: web@example.org; rotation put shop/due stores",
        "shop/text: the whole text since ",
        "shop/never: A, of which no replacement is recorded",
    ] {
        assert!(told.message.contains(line), "{line}: {}", told.message);
    }
    assert!(!told.message.contains("OPENAI since"), "{}", told.message);
}

#[tokio::test]
async fn a_secret_of_another_kind_is_swept_too() {
    let store = Store::new();
    for (name, function) in [("shop/pepper", Some("stack-pepper")), ("shop/managed", None)] {
        store.secret(name, function, |secret| {
            let secret = secret.with(|told| told.rotation_enabled = true).with_tag("rotation:pepper-words", "12");
            stuck(overdue(rotated(secret, 200 * DAY), 100 * DAY), 2 * HOUR)
        });
    }
    store.secret("shop/well", Some("stack-pepper"), |secret| rotated(secret, HOUR / 2));
    let told = sweep(&operator(&[]), &store).await;
    assert_eq!((&told.answer["secrets"], &told.answer["managed"]), (&json!(3), &json!(3)), "{:#}", told.answer);
    for what in ["overdue", "stuck"] {
        assert_eq!(told.answer[what], json!(["shop/managed", "shop/pepper"]), "{what}");
    }
    assert_eq!((told.metric("HoursOverdueMax"), told.metric("StuckPending")), (Some(2400.0), Some(2.0)));
    assert_eq!(told.metric("SecretAgeMax"), Some(200.0 * 24.0));
    // Nothing is claimed of a value that only its own function knows.
    let unclaimed = ["verified", "unproven", "failed", "revoked"].map(|what| told.answer[what].as_u64());
    assert_eq!(unclaimed, [Some(0); 4], "{:#}", told.answer);
    assert_eq!(store.take_calls(), Vec::<&str>::new(), "the listing tells it all");
    assert!(told.message.contains("shop/well at "), "{}", told.message);
}

#[tokio::test]
async fn an_overlap_that_is_over_is_ended_and_no_other() {
    let store = Store::new();
    store.secret("shop/over", Some("stack-admin-token"), |secret| rotated(secret, 25 * HOUR));
    store.secret("shop/open", Some("stack-admin-token"), |secret| rotated(secret, 23 * HOUR));
    store.secret("shop/long-ago", Some("stack-admin-token"), |secret| rotated(secret, 9 * DAY));
    // An edit just before: whoever made it may not be done.
    store.secret("shop/edited", Some("stack-admin-token"), |secret| {
        rotated(secret, 25 * HOUR).with(|told| told.last_changed = Some(told.as_of - HOUR / 2))
    });
    let told = sweep(&operator(&[]), &store).await;
    assert_eq!(told.answer["revokedSecrets"], json!(["shop/over"]), "{:#}", told.answer);
    assert_eq!(told.answer["overlapsExpired"], 1, "the one that was edited");
    assert_eq!(store.holder("shop/over", "AWSPREVIOUS"), None);
    for kept in ["shop/open", "shop/long-ago", "shop/edited"] {
        assert!(store.holder(kept, "AWSPREVIOUS").is_some(), "{kept}");
    }
    assert!(told.message.contains("1 revoked"), "{}", told.message);
    assert_eq!(store.stages("shop/over"), ["AWSCURRENT"], "nothing is left behind");
    // Alone, without an application that could prove anything.
    let store = Store::new();
    store.secret("shop/over", Some("stack-admin-token"), |secret| rotated(secret, 25 * HOUR));
    sweep(&operator(&[]), &store).await;
    let calls = store.take_calls();
    assert!(calls.len() <= 5, "{calls:?}");
}

/// A listing may be some minutes old.
#[tokio::test]
async fn an_overlap_that_was_just_prolonged_is_not_ended() {
    let store = Store::new();
    store.secret("shop/prolonged", Some("stack-admin-token"), |secret| rotated(secret, 25 * HOUR));
    store.keep_listing("shop/prolonged");
    store.change("shop/prolonged", |secret| {
        secret.described.tags.insert("rotation:overlap".to_owned(), "48h".to_owned());
    });
    let told = sweep(&operator(&[]), &store).await;
    assert_eq!((&told.answer["revoked"], &told.answer["overlapsExpired"]), (&json!(0), &json!(0)), "{:#}", told.answer);
    assert!(store.holder("shop/prolonged", "AWSPREVIOUS").is_some());
}

#[tokio::test]
async fn a_value_that_cannot_be_used_is_told_and_stops_nothing() {
    let store = Store::new();
    store.secret("shop/a-broken", Some("stack-admin-token"), |secret| {
        rotated(secret, HOUR / 2).with_tag("rotation:field", "NOT_ALLOWED")
    });
    store.secret("shop/b-well", Some("stack-admin-token"), |secret| rotated(secret, HOUR / 2));
    let told = sweep(&operator(&[]), &store).await;
    assert_eq!((&told.answer["failed"], &told.answer["unproven"]), (&json!(1), &json!(1)), "{:#}", told.answer);
    assert_eq!(told.answer["problems"][0]["error"], "InvalidPolicy");
    assert_eq!(told.answer["problems"][0]["secret"], "shop/a-broken");
    assert!(told.message.contains("1 need attention") && told.message.contains("1 rotated"), "{}", told.message);
}

#[tokio::test]
async fn the_tag_of_the_stack_narrows_a_sweep() {
    let store = Store::new();
    for (name, key, value) in [
        ("shop/1", "team", "pay"),
        ("shop/2", "team", "payments"),
        ("shop/3", "owner", "pay"),
        ("shop/4", "team", "pay"),
    ] {
        store.secret(name, Some("stack-admin-token"), |secret| rotated(secret, 30 * DAY).with_tag(key, value));
    }
    for (tag, secrets) in [("team=pay", 2), ("team", 3), ("owner", 1)] {
        let told = sweep(&operator(&[("SWEEP_TAG", tag)]), &store).await;
        assert_eq!(told.answer["secrets"], secrets, "{tag}");
    }
}

#[test]
fn a_sweep_tag_that_listsecrets_does_not_take_is_refused() {
    use operate::scope::Scope;
    let scope = |tag: &str| Scope::from_environment(&environment(&[("SWEEP_TAG", tag)]));
    for (tag, key, value) in [
        ("service", "service", None),
        ("cost centre=a=b", "cost centre", Some("a=b")),
        ("owner=team@example.com!", "owner", Some("team@example.com!")),
    ] {
        let expected = Some((key.to_owned(), value.map(str::to_owned)));
        assert_eq!(scope(tag).map(|scope| scope.tag), Ok(expected), "{tag}");
    }
    let long = format!("{}=x", "k".repeat(129));
    for tag in ["service=caf\u{e9}", "a,b", "!service", "service=!shop", "=shop", "service=", "k[0]=v", &long] {
        let error = scope(tag).unwrap_err();
        assert_eq!(error.name(), "InvalidConfiguration", "{tag}");
        assert!(error.to_string().contains("SWEEP_TAG"), "{tag}: {error}");
    }
}

#[test]
fn windows_of_sweeps_in_a_row_meet() {
    use operate::sweep::digest::{Digest, LISTING_LAG, Window};
    let at = |hours: u32| SystemTime::UNIX_EPOCH + 1_000 * DAY + hours * HOUR;
    let [first, second, late] = [1, 2, 4].map(|hours| Window::before(at(hours) + LISTING_LAG, HOUR));
    for (time, told) in [
        (at(0), [false, false, false]),
        (at(0) + Duration::from_secs(1), [true, false, false]),
        (at(1), [true, false, false]),
        (at(2), [false, true, false]),
        (at(4), [false, false, true]),
    ] {
        assert_eq!([first, second, late].map(|window| window.contains(time)), told, "{time:?}");
    }
    // What goes on is told again each day, at the same hour.
    let days = |number: u32| Window::before(at(1) + LISTING_LAG + DAY * number, HOUR);
    assert!(days(0).tells_of(at(1)) && days(1).tells_of(at(1)) && !second.tells_of(at(1)));
    assert_eq!(Digest::new(first).message(), None, "nothing to tell, no message");
}
