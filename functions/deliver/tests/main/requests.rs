//! What the function can be asked for, and the metrics of its answers.

use deliver::error::DeliverError;
use deliver::report::{Answer, SecretReport, State};
use deliver::request::{Request, Scope};
use serde_json::{Value, json};

use crate::world::deliverer;

fn scope(event: Value) -> Scope {
    Request::parse(&event).unwrap().scope
}

#[test]
fn request_of_a_person_is_read() {
    assert_eq!(Request::parse(&json!({})), Ok(Request { scope: Scope::All, dry_run: false }));
    assert_eq!(Request::parse(&json!({"dry_run": true})), Ok(Request { scope: Scope::All, dry_run: true }));
    for id in ["shop/key", "arn:aws:secretsmanager:us-east-1:123456789012:secret:shop/key-AbCdEf"] {
        assert_eq!(scope(json!({ "secret_id": id })), Scope::Secret("shop/key".to_owned()));
    }
}

#[test]
fn bad_request_names_the_member() {
    let long = "x".repeat(200);
    let bad = [
        (json!(null), "(all)"),
        (json!([]), "(all)"),
        (json!({"secret_id": ""}), "secret_id"),
        (json!({"secret_id": 1}), "secret_id"),
        (json!({"secret_id": "x".repeat(2_049)}), "secret_id"),
        (json!({long.repeat(9): 1}), long.as_str()),
        (json!({"dry_run": "yes"}), "dry_run"),
        (json!({"secret": "shop/key"}), "secret"),
        (json!({"source": "aws.s3", "detail-type": "Object Created"}), "detail-type"),
        (json!({"source": "aws.ecs", "detail-type": "Scheduled Event"}), "detail-type"),
    ];
    for (event, expected) in bad {
        let Err(DeliverError::InvalidRequest { member, .. }) = Request::parse(&event) else { panic!("{event}") };
        assert_eq!(member, expected, "{event}");
    }
}

#[test]
fn events_mean_all_secrets_or_those_that_changed() {
    let event = |source: &str, kind: &str, resource: &str| json!({"version": "0", "source": source, "detail-type": kind, "resources": [resource], "detail": {}});
    assert_eq!(scope(event("aws.events", "Scheduled Event", "arn:aws:events:::rule/x")), Scope::All);
    let secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:shop/key-AbCdEf";
    let changed = event("aws.secretsmanager", "Secret Label Updated", secret);
    assert_eq!(scope(changed), Scope::Changed("shop/key".to_owned()));
    assert_eq!(scope(event("aws.secretsmanager", "Secret Label Updated", "?")), Scope::All);
    let service = "arn:aws:ecs:us-east-1:123456789012:service/blue/web";
    let state = event("aws.ecs", "ECS Deployment State Change", service);
    assert_eq!(scope(state), Scope::Service { cluster: "blue".to_owned(), service: "web".to_owned() });
    assert_eq!(scope(json!({"source": "aws.ecs", "detail-type": "ECS Deployment State Change"})), Scope::All);
}

#[test]
fn scope_chooses_the_secrets() {
    let deliverer = deliverer(&json!({
        "key": [{"copy": "app"}, {"ecs": "blue/web"}],
        "token": [{"ecs": "blue/web"}],
        "other": [{"ecs": "blue/api"}]
    }));
    let chosen = |event: Value| -> Result<Vec<String>, DeliverError> {
        let secrets = Request::parse(&event)?.secrets(&deliverer.settings().consumers)?;
        Ok(secrets.into_iter().map(|(name, _)| name.to_owned()).collect())
    };
    let ecs = |service: &str| json!({"source": "aws.ecs", "detail-type": "ECS Deployment State Change", "resources": [service]});
    let label = |secret: &str| json!({"source": "aws.secretsmanager", "detail-type": "Secret Label Updated", "resources": [format!("arn:aws:secretsmanager:r:1:secret:{secret}-AbCdEf")]});
    assert_eq!(chosen(json!({})).unwrap(), ["shop/key", "shop/other", "shop/token"]);
    assert_eq!(chosen(json!({"secret_id": "shop/key"})).unwrap(), ["shop/key"]);
    assert_eq!(chosen(ecs("arn:aws:ecs:r:1:service/blue/web")).unwrap(), ["shop/key", "shop/token"]);
    assert_eq!(chosen(label("shop/token")).unwrap(), ["shop/token"]);
    assert_eq!(chosen(label("shop/app")).unwrap(), ["shop/key"], "the copy was changed");
    assert_eq!(chosen(label("shop/foreign")).unwrap(), Vec::<String>::new());
    assert_eq!(
        chosen(json!({"secret_id": "shop/app"})),
        Err(DeliverError::NotConsumed { name: "shop/app".to_owned() })
    );
}

#[test]
fn metrics_count_the_fleet_and_a_complete_run_has_a_heartbeat() {
    let secret = |state, late| SecretReport {
        secret: "shop/key".to_owned(),
        state,
        version: None,
        since: None,
        late,
        error: None,
        reason: None,
        consumers: vec![],
    };
    let secrets = vec![secret(State::Pending, true), secret(State::Failed, false), secret(State::Delivered, false)];
    let mut answer = Answer { secrets, pending: 1, failed: 1, delivered: 1, late: 1, complete: true, dry_run: false };
    let names = |answer: &Answer, all| -> Vec<(&str, String)> {
        let data = answer.metrics("shop-deliver", all).into_iter();
        data.map(|datum| (datum.name, format!("{} {}", datum.value, datum.dimensions[0].1))).collect()
    };
    let fleet = [("DeliveryPending", "1"), ("DeliveryFailed", "1"), ("DeliveryLate", "1"), ("DeliverCompleted", "1")];
    let fleet = fleet.map(|(name, value)| (name, format!("{value} shop-deliver")));
    assert_eq!(names(&answer, true), fleet);
    assert!(names(&answer, false).is_empty(), "one secret is not the fleet");
    answer.complete = false;
    assert_eq!(names(&answer, true), fleet[..3]);
    answer.dry_run = true;
    assert!(names(&answer, true).is_empty());
}
