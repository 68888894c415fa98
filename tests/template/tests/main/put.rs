//! What the role of operate may do for `put`, which stores values that people rotate. The evaluator of the emulator judges it, with the keys
//! of AWS's Service Authorization Reference; `permissions.rs` tries the actions themselves.

use serde_json::{Value, json};

use crate::deliveries::{ALLOWED, REFUSED, Request, assert_judged};
use crate::policies::policies;
use crate::support::*;

const BY_HAND: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/providers-AbCdEf";
const ELSEWHERE: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/staging/providers-AbCdEf";

fn asked<'a>(action: &'a str, resource: &'a str, keys: Value) -> Request<'a> {
    Request { role: "OperateRole", action, resource, keys }
}

#[test]
fn put_records_a_date_and_changes_no_policy() {
    let tags = |resource, keys: &[&str]| asked("secretsmanager:TagResource", resource, json!({ "aws:TagKeys": keys }));
    assert_judged(
        &policies(&most()),
        vec![
            (tags(BY_HAND, &["rotation:done"]), ALLOWED),
            (tags(BY_HAND, &["rotation:done:OPENAI_API_KEY", "rotation:done:STRIPE_KEY"]), ALLOWED),
            (tags(ELSEWHERE, &["rotation:done"]), REFUSED),
            (tags(BY_HAND, &["rotation:verify"]), REFUSED),
            (tags(BY_HAND, &["rotation:done", "rotation:hold"]), REFUSED),
            (tags(BY_HAND, &["owner"]), REFUSED),
            (asked("secretsmanager:TagResource", BY_HAND, json!({})), REFUSED),
            (asked("secretsmanager:UntagResource", BY_HAND, json!({ "aws:TagKeys": ["rotation:done"] })), REFUSED),
        ],
    );
}

#[test]
fn put_writes_where_no_other_function_rotates() {
    let by = |name: &str| json!({ "secretsmanager:resource/AllowRotationLambdaArn": function_arn(name) });
    for action in ["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"] {
        let action = format!("secretsmanager:{action}");
        let asked = |resource, keys| asked(&action, resource, keys);
        assert_judged(
            &policies(&most()),
            vec![
                (asked(BY_HAND, json!({})), ALLOWED),
                (asked(BY_HAND, by("shop-production-admin-token")), ALLOWED),
                (asked(BY_HAND, by("rotates-databases")), REFUSED),
                (asked(ELSEWHERE, json!({})), REFUSED),
            ],
        );
    }
}

#[test]
fn put_leaves_an_archive_of_keys_that_stayed() {
    // Nothing is re-encrypted any more.
    let archive = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/staging/key-archive-AbCdEf";
    let least = policies(&least());
    for action in ["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"] {
        let action = format!("secretsmanager:{action}");
        let asked =
            vec![(asked(&action, archive, json!({})), REFUSED), (asked(&action, ELSEWHERE, json!({})), ALLOWED)];
        assert_judged(&least, asked);
    }
}
