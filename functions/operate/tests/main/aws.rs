//! What is sent to SNS and CloudWatch Logs is what they take, whatever a secret or a title looks like.

use operate::aws::{OperationClients, failure_pattern, is_about, subject};

use crate::environment;

/// Stands for a credential: wherever it is shown, a credential would be.
const CANARY: &str = "c4naryVALUEc4naryVALUEc4naryVALUEc4nary";

const ARN: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/token-AbC123";

fn start(variables: &[(&str, &str)]) -> Result<OperationClients, rotation::error::RotationError> {
    let lambda = [("AWS_REGION", "us-east-1"), ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", CANARY)];
    OperationClients::from_environment(&environment(&[&lambda[..], variables].concat()))
}

#[test]
fn each_service_has_its_endpoint_and_debug_shows_no_credential() {
    let shown = format!("{:?}", start(&[]).unwrap());
    assert!(!shown.to_lowercase().contains("c4nary"), "shows the credential: {shown}");
    assert!(start(&[("AWS_ENDPOINT_URL_SNS", "https://vpce-1.amazonaws.com")]).is_ok());
    for variable in ["AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "AWS_ENDPOINT_URL"] {
        let error = start(&[(variable, "http://elsewhere.example")]).unwrap_err();
        assert_eq!(error.name(), "InsecureUrl");
        assert!(error.to_string().contains(variable), "{error}");
        let error = start(&[(variable, "http://127.0.0.1:1"), ("AWS_USE_FIPS_ENDPOINT", "true")]).unwrap_err();
        assert!(error.to_string().contains("AWS_USE_FIPS_ENDPOINT"), "{error}");
    }
}

#[test]
fn a_subject_is_one_short_line_of_ascii() {
    assert_eq!(subject("shop/token was rotated"), "shop/token was rotated");
    assert_eq!(subject("  one\r\ntwo\tthree\u{7}four\u{85}five "), "one two three four five");
    assert_eq!(subject("Schlüssel – neu"), "Schl?ssel ? neu");
    for nothing in ["", " \n", "\u{1b}"] {
        assert_eq!(subject(nothing), "Secret rotation");
    }
    assert_eq!(subject(&"x".repeat(99)), "x".repeat(99));
    assert_eq!(subject(&"x".repeat(100)), format!("{}...", "x".repeat(96)));
    assert_eq!(subject(&"ü".repeat(200)).len(), 99);
    assert_eq!(subject(&format!("{} b", "a".repeat(95)).repeat(2)), format!("{}...", "a".repeat(95)));
}

#[test]
fn pattern_names_the_secret_by_name_or_arn() {
    let expected = r#"{ ($.message = "step failed") && ($.secret = "*shop/token*") }"#;
    for id in ["shop/token", ARN, "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/token"] {
        assert_eq!(failure_pattern(id).as_deref(), Ok(expected));
    }
    let all = failure_pattern("aZ09/_+=.@!-").unwrap();
    assert!(all.ends_with(r#""*aZ09/_+=.@!-*") }"#), "{all}");
    assert!(failure_pattern(&"n".repeat(512)).unwrap().len() <= 1024);
}

#[test]
fn nothing_breaks_out_of_a_pattern() {
    let too_long = "n".repeat(513);
    for id in
        [r#"a" || $.level = "*"#, "a\\", "a*", "*", "a%", "a b", "a\nb", "ä", "", "arn:x:secret:-AbC123", &too_long]
    {
        assert!(failure_pattern(id).is_err(), "{id}");
    }
}

#[test]
fn line_is_about_the_secret_and_not_a_similar_name() {
    let partial = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/token";
    for (logged, secret) in
        [(ARN, ARN), (ARN, "shop/token"), ("shop/token", ARN), (ARN, partial), ("a-AbC123", "a-AbC123")]
    {
        assert!(is_about(logged, secret), "{logged} {secret}");
    }
    let remade = ARN.replace("AbC123", "XyZ789");
    let longer = ARN.replace("token", "token-b");
    for (logged, secret) in [
        (remade.as_str(), ARN),
        (longer.as_str(), "shop/token"),
        ("shop/token-b", ARN),
        ("my-shop/token", "shop/token"),
        ("shop/token-AbC123", "shop/token"),
        ("shop/token", "shop/token-AbC123"),
    ] {
        assert!(!is_about(logged, secret), "{logged} {secret}");
    }
}
