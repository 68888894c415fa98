//! What the function accepts as its settings, and what its errors name.

use std::time::Duration;

use deliver::Deliverer;
use deliver::settings::Consumer;
use rotation::environment::Environment;

fn read(variables: &[(&str, &str)]) -> Result<Deliverer, String> {
    let deployment = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("SECRET_NAME_PREFIX", "shop/"),
    ];
    let environment: Environment = deployment.iter().chain(variables).copied().collect();
    Deliverer::from_environment(&environment).map_err(|error| {
        assert_eq!(error.name(), "InvalidConfiguration");
        error.to_string()
    })
}

fn with(consumers: &str, consumed: &str) -> Result<Deliverer, String> {
    read(&[("CONSUMERS", consumers), ("CONSUMED_SECRETS", consumed)])
}

/// Checks that `CONSUMERS` is refused with words that hold all of `parts`.
fn refused(consumers: &str, parts: &[&str]) {
    let error = with(consumers, "key").expect_err(consumers);
    for part in parts.iter().chain(&["CONSUMERS"]) {
        assert!(error.contains(part), "{consumers}: {error} lacks {part}");
    }
}

#[test]
fn every_kind_of_consumer_is_read_with_the_prefix() {
    let deliverer = with(
        r#"{"key":[{"copy":"app"},{"ecs":"blue/web"},{"function":"restart:live"}],
            "token":[{"function":"arn:aws:lambda:eu-west-1:123456789012:function:restart:live"}]}"#,
        "token,key",
    )
    .unwrap();
    let settings = deliverer.settings();
    let expected = [
        Consumer::Copy { target: "shop/app".to_owned() },
        Consumer::Ecs { cluster: "blue".to_owned(), service: "web".to_owned() },
        Consumer::Function { function: "restart:live".to_owned() },
    ];
    assert_eq!(settings.consumers.of("shop/key"), expected);
    assert_eq!(settings.consumers.secrets().count(), 2);
    assert!(settings.consumers.of("shop/other").is_empty());
    assert_eq!(settings.delivery_limit, Duration::from_secs(3 * 3_600));
}

#[test]
fn a_bad_form_of_consumers_is_refused() {
    refused(r#"{"key":"#, &["is not JSON (line 1, column 7)"]);
    refused("[]", &["expected a JSON object such as"]);
    refused("{}", &["names no secret"]);
    assert!(read(&[]).unwrap_err().contains("CONSUMERS"), "the variable is required");
}

#[test]
fn a_bad_entry_is_named_by_secret_and_number() {
    for list in ["[]", "{}", r#""app""#] {
        refused(&format!(r#"{{"key":{list}}}"#), &[r#"secret "key""#, "at least one consumer"]);
    }
    let bad = [
        ("1", r#"{"copy":"NAME"}"#),
        ("{}", r#"{"copy":"NAME"}"#),
        (r#"{"copy":1}"#, r#"{"copy":"NAME"}"#),
        (r#"{"copy":"a","ecs":"b/c"}"#, r#"{"copy":"NAME"}"#),
        (r#"{"copy":"a","copy":"b"}"#, r#"{"copy":"NAME"}"#),
        (r#"{"eks":"a"}"#, r#""eks" is not a kind of consumer"#),
        (r#"{"copy":""}"#, "is not the name of a secret"),
        (r#"{"copy":"a b"}"#, "is not the name of a secret"),
        (r#"{"copy":"shop/app"}"#, "begins with SECRET_NAME_PREFIX"),
        (r#"{"copy":"key"}"#, "onto itself"),
        (r#"{"copy":"app"}"#, "copy shop/app stands twice"),
        (r#"{"ecs":"web"}"#, "expected CLUSTER/SERVICE"),
        (r#"{"ecs":"a/b/c"}"#, "expected CLUSTER/SERVICE"),
        (r#"{"ecs":"arn:aws:ecs:eu-west-1:123456789012:service/blue/web"}"#, "no ARN"),
        (r#"{"function":"a b"}"#, "the name of a Lambda function"),
        (r#"{"function":"arn:aws:sns:eu-west-1:123456789012:function:a"}"#, "the name of a Lambda function"),
        (r#"{"function":"a:b:c"}"#, "the name of a Lambda function"),
    ];
    for (entry, part) in bad {
        refused(&format!(r#"{{"key":[{{"copy":"app"}},{entry}]}}"#), &[r#"secret "key", entry 2: "#, part]);
    }
}

#[test]
fn a_name_of_a_secret_is_checked() {
    refused(r#"{"k ey":[{"copy":"app"}]}"#, &[r#""k ey" is not the name of a secret"#]);
    refused(r#"{"shop/key":[{"copy":"app"}]}"#, &["begins with SECRET_NAME_PREFIX"]);
    refused(r#"{"key":[{"copy":"app"}],"key":[{"copy":"web"}]}"#, &[r#"secret "key" stands twice"#]);
}

#[test]
fn copies_in_a_circle_are_refused_and_a_chain_is_not() {
    let circle = r#"{"z":[{"copy":"key"}],"key":[{"copy":"a"}],"a":[{"copy":"b"}],"b":[{"copy":"key"}]}"#;
    refused(circle, &["circle: shop/a -> shop/b -> shop/key -> shop/a"]);
    with(r#"{"key":[{"copy":"a"}],"a":[{"copy":"b"}]}"#, "key,a").unwrap();
    with(r#"{"key":[{"copy":"a"}],"token":[{"copy":"a"}]}"#, "key,token").unwrap();
}

#[test]
fn consumed_secrets_are_the_same_as_in_consumers() {
    let one = r#"{"key":[{"copy":"app"}]}"#;
    with(one, "key").unwrap();
    for (consumed, part) in [("", "lacks shop/key"), ("key,token", "names shop/token"), ("token", "lacks shop/key")] {
        let error = with(one, consumed).unwrap_err();
        assert!(error.contains("CONSUMED_SECRETS") && error.contains(part), "{error}");
    }
}

#[test]
fn the_limit_of_a_delivery_has_bounds() {
    let with_limit = |limit: &str| {
        let consumers = [("CONSUMERS", r#"{"key":[{"copy":"app"}]}"#), ("CONSUMED_SECRETS", "key")];
        read(&[&consumers[..], &[("DELIVERY_LIMIT", limit), ("EVENT_TOPIC_ARN", "arn:aws:sns:a:b:c")]].concat())
    };
    let deliverer = with_limit("6h").unwrap();
    assert_eq!(deliverer.settings().delivery_limit, Duration::from_secs(6 * 3_600));
    for limit in ["soon", "1m", "8d"] {
        assert!(with_limit(limit).unwrap_err().contains("DELIVERY_LIMIT"), "{limit}");
    }
}
