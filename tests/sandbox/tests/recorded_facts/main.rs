//! The answers of the real service, case by case, through a real client. Words in quotes were recorded on AWS.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

#[path = "../common/mod.rs"]
mod common;

use std::time::{Duration, SystemTime};

use aws_sdk_secretsmanager::primitives::Blob;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, ReplicaRegionType, RotationRulesType, Tag};
use common::{ROTATOR, World, map, problem, token, world};
use serde_json::json;

mod lists;

const DAY: Duration = Duration::from_secs(86_400);

fn pair(code: &str, message: impl Into<String>) -> (String, String) {
    (code.to_owned(), message.into())
}

async fn put(world: &World, n: u32, stages: &[&str]) {
    let put =
        world.client.put_secret_value().secret_id("s").client_request_token(token(n)).secret_string(format!("v{n}"));
    let put = stages.iter().fold(put, |put, stage| put.version_stages(*stage));
    put.send().await.unwrap();
}

async fn move_current(world: &World, from: u32, to: u32) {
    let update = world.client.update_secret_version_stage().secret_id("s").version_stage("AWSCURRENT");
    update.remove_from_version_id(token(from)).move_to_version_id(token(to)).send().await.unwrap();
}

#[tokio::test]
async fn version_id_with_a_foreign_stage_is_an_invalid_request() {
    let world = world().await;
    world.secret("s").await;
    let get = world.client.get_secret_value().secret_id("s").version_id(token(1)).version_stage("AWSPREVIOUS");
    let expected = "You provided a VersionStage that is not associated to the provided VersionId.";
    assert_eq!(problem(get.send().await), pair("InvalidRequestException", expected));
}

#[tokio::test]
async fn a_value_that_is_not_there_is_not_found_in_the_services_words() {
    let world = world().await;
    world.client.create_secret().name("s").send().await.unwrap();
    let not_found = |what: &str| {
        pair("ResourceNotFoundException", format!("Secrets Manager can't find the specified secret value for {what}"))
    };
    let get = || world.client.get_secret_value().secret_id("s");
    assert_eq!(problem(get().send().await), not_found("staging label: AWSCURRENT"));
    assert_eq!(problem(get().version_id(token(7)).send().await), not_found(&format!("VersionId: {}", token(7))));
    assert_eq!(problem(get().version_stage("AWSPENDING").send().await), not_found("staging label: AWSPENDING"));
    let unknown = world.client.get_secret_value().secret_id("other").send().await;
    assert_eq!(problem(unknown), pair("ResourceNotFoundException", "Secrets Manager can't find the specified secret."));
}

#[tokio::test]
async fn awscurrent_moves_only_from_the_version_that_has_it() {
    let world = world().await;
    let arn = world.secret("s").await;
    put(&world, 2, &["AWSPENDING"]).await;
    let before = map([(1, "AWSCURRENT"), (2, "AWSPENDING")]);
    let update = || world.client.update_secret_version_stage().secret_id(&arn).version_stage("AWSCURRENT");

    let without = update().move_to_version_id(token(2)).send().await;
    let expected = format!(
        "The parameter RemoveFromVersionId can't be empty. Staging label AWSCURRENT is currently attached to version \
         {}, so you must explicitly reference that version in RemoveFromVersionId.",
        token(1)
    );
    assert_eq!(problem(without), pair("InvalidParameterException", expected));
    assert_eq!(world.stages("s").await, before);

    let wrong = update().move_to_version_id(token(2)).remove_from_version_id(token(2)).send().await;
    assert_eq!(problem(wrong).0, "InvalidParameterException");
    assert_eq!(world.stages("s").await, before);

    let unknown_target = update().move_to_version_id(token(9)).remove_from_version_id(token(1)).send().await;
    assert_eq!(problem(unknown_target).0, "ResourceNotFoundException");
    assert_eq!(world.stages("s").await, before);

    let removal = update().remove_from_version_id(token(1)).send().await;
    let expected =
        "You can only move staging label AWSCURRENT to a different secret version. It can’t be completely removed.";
    assert_eq!(problem(removal), pair("InvalidParameterException", expected));
    let nothing = update().send().await;
    assert_eq!(problem(nothing).0, "InvalidParameterException");
    assert_eq!(world.stages("s").await, before);
}

#[tokio::test]
async fn moving_awscurrent_moves_awsprevious_and_leaves_awspending() {
    let world = world().await;
    world.secret("s").await;
    put(&world, 2, &["AWSPENDING"]).await;
    move_current(&world, 1, 2).await;
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT,AWSPENDING")]));
    put(&world, 3, &["AWSPENDING"]).await;
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT"), (3, "AWSPENDING")]));
    move_current(&world, 2, 3).await;
    assert_eq!(world.stages("s").await, map([(2, "AWSPREVIOUS"), (3, "AWSCURRENT,AWSPENDING")]));
    // And back, as a rollback does.
    move_current(&world, 3, 2).await;
    assert_eq!(world.stages("s").await, map([(2, "AWSCURRENT"), (3, "AWSPENDING,AWSPREVIOUS")]));
}

#[tokio::test]
async fn labels_of_ones_own_stay_when_awscurrent_moves() {
    let world = world().await;
    world.secret("s").await;
    put(&world, 2, &["AWSCURRENT", "PUT0"]).await;
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT,PUT0")]));
    put(&world, 3, &["AWSPENDING", "PUT1"]).await;
    move_current(&world, 2, 3).await;
    assert_eq!(world.stages("s").await, map([(2, "AWSPREVIOUS,PUT0"), (3, "AWSCURRENT,AWSPENDING,PUT1")]));
    put(&world, 4, &["AWSPENDING", "PUT2"]).await;
    move_current(&world, 3, 4).await;
    assert_eq!(world.stages("s").await, map([(2, "PUT0"), (3, "AWSPREVIOUS,PUT1"), (4, "AWSCURRENT,AWSPENDING,PUT2")]));
}

#[tokio::test]
async fn a_label_alone_is_removed_by_naming_its_version() {
    let world = world().await;
    world.secret("s").await;
    put(&world, 2, &["MINE"]).await;
    let remove = || world.client.update_secret_version_stage().secret_id("s").version_stage("MINE");
    let elsewhere = remove().remove_from_version_id(token(1)).send().await;
    assert_eq!(problem(elsewhere).0, "InvalidParameterException");
    remove().remove_from_version_id(token(2)).send().await.unwrap();
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT")]));
    // A label that is nowhere needs no RemoveFromVersionId; one that is there already is no change.
    remove().move_to_version_id(token(1)).send().await.unwrap();
    remove().move_to_version_id(token(1)).send().await.unwrap();
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT,MINE")]));
}

#[tokio::test]
async fn same_value_under_a_token_is_ignored_and_another_refused() {
    let world = world().await;
    let arn = world.secret("s").await;
    put(&world, 2, &["AWSPENDING"]).await;
    let before = world.client.describe_secret().secret_id("s").send().await.unwrap();
    // No stages: it would move AWSCURRENT if it did anything.
    put(&world, 2, &[]).await;
    let after = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(after.version_ids_to_stages, before.version_ids_to_stages);
    assert_eq!(after.last_changed_date, before.last_changed_date);

    let other = world.client.put_secret_value().secret_id("s").client_request_token(token(2)).secret_string("other");
    let expected = format!(
        "You can't use ClientRequestToken {} because that value is already in use for a version of secret {arn}.",
        token(2)
    );
    assert_eq!(problem(other.send().await), pair("ResourceExistsException", expected));
    let binary = world.client.put_secret_value().secret_id("s").client_request_token(token(2));
    let binary = binary.secret_binary(Blob::new("v2")).send().await;
    assert_eq!(problem(binary).0, "ResourceExistsException");
}

#[tokio::test]
async fn put_without_stages_moves_awscurrent_and_removes_awspending() {
    let world = world().await;
    world.secret("s").await;
    put(&world, 2, &["AWSPENDING"]).await;
    move_current(&world, 1, 2).await;
    put(&world, 3, &[]).await;
    assert_eq!(world.stages("s").await, map([(2, "AWSPREVIOUS"), (3, "AWSCURRENT")]));
    assert_eq!(world.value("s").await, "v3");
}

#[tokio::test]
async fn putting_with_stages_takes_exactly_these_from_where_they_were() {
    let world = world().await;
    world.secret("s").await;
    put(&world, 2, &["one", "two", "three"]).await;
    put(&world, 3, &["one", "two", "four"]).await;
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT"), (2, "three"), (3, "four,one,two")]));
    put(&world, 4, &["one", "two", "three", "four"]).await;
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT"), (4, "four,one,three,two")]));
    assert_eq!(world.value("s").await, "v1");
}

#[tokio::test]
async fn the_first_version_of_a_secret_is_current_whatever_else_it_is() {
    let world = world().await;
    let created = world.client.create_secret().name("s").send().await.unwrap();
    assert_eq!(created.version_id, None);
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(description.version_ids_to_stages, None);
    assert_eq!(description.rotation_enabled, None);
    assert_eq!(description.last_accessed_date, None);
    put(&world, 2, &["AWSPENDING"]).await;
    assert_eq!(world.stages("s").await, map([(2, "AWSCURRENT,AWSPENDING")]));
}

#[tokio::test]
async fn update_secret_never_reuses_a_version_and_moves_awscurrent() {
    let world = world().await;
    world.secret("s").await;
    let update = |n| world.client.update_secret().secret_id("s").client_request_token(token(n)).secret_string("v1");
    assert_eq!(problem(update(1).send().await).0, "ResourceExistsException");
    let updated = update(2).send().await.unwrap();
    assert_eq!(updated.version_id, Some(token(2)));
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT")]));
    let described = world.client.update_secret().secret_id("s").description("text").send().await.unwrap();
    assert_eq!(described.version_id, None);
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(description.description.as_deref(), Some("text"));
}

#[tokio::test]
async fn values_tokens_and_stages_have_the_services_bounds() {
    let world = world().await;
    world.secret("s").await;
    let put = || world.client.put_secret_value().secret_id("s");
    put().secret_string("x".repeat(65_536)).send().await.unwrap();
    let too_long = put().secret_string("x".repeat(65_537)).send().await;
    let expected = "1 validation error detected: Value at 'secretString' failed to satisfy constraint: Member must have \
                    length less than or equal to 65536";
    assert_eq!(problem(too_long), pair("ValidationException", expected));
    // Bytes count, not characters.
    let two_byte_characters = put().secret_string("é".repeat(32_769)).send().await;
    assert_eq!(problem(two_byte_characters).0, "ValidationException");
    put().secret_binary(Blob::new(vec![0; 65_536])).send().await.unwrap();
    assert_eq!(problem(put().secret_binary(Blob::new(vec![0; 65_537])).send().await).0, "ValidationException");
    let empty = put().secret_string("").send().await;
    assert!(problem(empty).1.ends_with("Member must have length greater than or equal to 1"));

    let with_token = |length| put().client_request_token("t".repeat(length)).secret_string("v");
    with_token(32).send().await.unwrap();
    with_token(64).send().await.unwrap();
    assert_eq!(problem(with_token(31).send().await).0, "ValidationException");
    assert_eq!(problem(with_token(65).send().await).0, "ValidationException");

    let stages = |n: u32| Some((0..n).map(|n| format!("stage{n}")).collect::<Vec<_>>());
    let many = put().secret_string("v").set_version_stages(stages(21)).send().await;
    assert_eq!(problem(many).0, "ValidationException");
    // The quota is 20 across all versions: AWSCURRENT and AWSPREVIOUS are on others.
    put().secret_string("v").set_version_stages(stages(18)).send().await.unwrap();
    for stage in ["stage0", "AWSCURRENT"] {
        let version = world.client.get_secret_value().secret_id("s").version_stage(stage).send().await.unwrap();
        let one_more = world.client.update_secret_version_stage().secret_id("s").version_stage("stage20");
        let one_more = one_more.move_to_version_id(version.version_id.unwrap()).send().await;
        assert_eq!(problem(one_more).0, "LimitExceededException", "{stage}");
    }
    // What is there already may move.
    let current = world.client.get_secret_value().secret_id("s").send().await.unwrap().version_id.unwrap();
    let stage0 = world.client.get_secret_value().secret_id("s").version_stage("stage0").send().await.unwrap();
    let moved = world.client.update_secret_version_stage().secret_id("s").version_stage("stage0");
    let moved = moved.remove_from_version_id(stage0.version_id.unwrap()).move_to_version_id(current);
    moved.send().await.unwrap();

    let both = put().secret_string("v").secret_binary(Blob::new("v")).send().await;
    assert_eq!(problem(both).0, "InvalidParameterException");
    assert_eq!(problem(put().send().await).0, "InvalidRequestException");
}

#[tokio::test]
async fn version_without_stages_is_hidden_readable_and_deleted_later() {
    let world = world().await;
    world.secret("s").await;
    put(&world, 2, &[]).await;
    put(&world, 3, &[]).await;
    let list = || world.client.list_secret_version_ids().secret_id("s");
    let ids = |versions: Vec<aws_sdk_secretsmanager::types::SecretVersionsListEntry>| -> Vec<String> {
        versions.into_iter().map(|version| version.version_id.unwrap()).collect()
    };
    assert_eq!(ids(list().send().await.unwrap().versions.unwrap()), [token(2), token(3)]);
    let all = list().include_deprecated(true).send().await.unwrap().versions.unwrap();
    assert_eq!(all[0].version_stages, None);
    assert_eq!(ids(all), [token(1), token(2), token(3)]);
    let deprecated = world.client.get_secret_value().secret_id("s").version_id(token(1)).send().await.unwrap();
    assert_eq!(deprecated.secret_string.as_deref(), Some("v1"));

    // All versions of the last 24 hours are kept, and then the 100 most recent.
    for n in 4..=120 {
        put(&world, n, &[]).await;
    }
    let count = || async {
        let all = list().include_deprecated(true);
        let pages = all.into_paginator().send().try_collect().await.unwrap();
        pages.into_iter().map(|page| page.versions.unwrap().len()).sum::<usize>()
    };
    assert_eq!(count().await, 120);
    world.sandbox.advance(DAY + Duration::from_secs(1)).await.unwrap();
    assert_eq!(count().await, 100);
    let gone = world.client.get_secret_value().secret_id("s").version_id(token(1)).send().await;
    assert_eq!(problem(gone).0, "ResourceNotFoundException");
    assert_eq!(world.stages("s").await, map([(119, "AWSPREVIOUS"), (120, "AWSCURRENT")]));
}

#[tokio::test]
async fn deleted_secret_is_described_and_restored_but_not_used() {
    let world = world().await;
    let arn = world.secret("s").await;
    let client = &world.client;
    let deleted = client.delete_secret().secret_id("s").recovery_window_in_days(7).send().await.unwrap();
    let expected = pair(
        "InvalidRequestException",
        "You can't perform this operation on the secret because it was marked for deletion.",
    );
    assert_eq!(problem(client.get_secret_value().secret_id("s").send().await), expected);
    assert_eq!(problem(client.put_secret_value().secret_id("s").secret_string("v").send().await), expected);
    assert_eq!(problem(client.update_secret().secret_id("s").description("d").send().await), expected);
    assert_eq!(problem(client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR).send().await), expected);
    let tag = Tag::builder().key("k").value("v").build();
    assert_eq!(problem(client.tag_resource().secret_id("s").tags(tag).send().await), expected);
    assert_eq!(problem(client.untag_resource().secret_id("s").tag_keys("k").send().await), expected);
    let stage = client.update_secret_version_stage().secret_id("s").version_stage("X").move_to_version_id(token(1));
    assert_eq!(problem(stage.send().await), expected);
    let again = client.create_secret().name("s").secret_string("v").send().await;
    let already = "You can't create this secret because a secret with this name is already scheduled for deletion.";
    assert_eq!(problem(again), pair("InvalidRequestException", already));

    let description = client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(description.deleted_date, deleted.deletion_date);
    assert!(client.list_secrets().send().await.unwrap().secret_list.unwrap_or_default().is_empty());
    let listed = client.list_secrets().include_planned_deletion(true).send().await.unwrap();
    assert_eq!(listed.secret_list.unwrap().len(), 1);

    client.restore_secret().secret_id("s").send().await.unwrap();
    assert_eq!(world.value("s").await, "v1");
    client.delete_secret().secret_id(&arn).recovery_window_in_days(7).send().await.unwrap();
    world.sandbox.advance(8 * DAY).await.unwrap();
    assert_eq!(problem(client.describe_secret().secret_id("s").send().await).0, "ResourceNotFoundException");
}

#[tokio::test]
async fn a_forced_deletion_is_at_once_and_never_fails() {
    let world = world().await;
    world.secret("s").await;
    let force = || world.client.delete_secret().secret_id("s").force_delete_without_recovery(true);
    assert_eq!(problem(force().recovery_window_in_days(7).send().await).0, "InvalidParameterException");
    let short = world.client.delete_secret().secret_id("s").recovery_window_in_days(6).send().await;
    assert_eq!(problem(short).0, "InvalidParameterException");
    force().send().await.unwrap();
    force().send().await.unwrap();
    world.secret("s").await;
}

#[tokio::test]
async fn a_secret_is_found_by_name_arn_and_arn_without_its_suffix() {
    let world = world().await;
    let arn = world.secret("app/token").await;
    let (partial, suffix) = arn.rsplit_once('-').unwrap();
    assert_eq!(suffix.len(), 6);
    for id in ["app/token", &arn, partial] {
        assert_eq!(world.value(id).await, "v1");
    }
    // A name that looks like a complete ARN's end is not found by its partial ARN.
    let arn = world.secret("app/token-a1b2c3").await;
    let partial = arn.rsplit_once('-').unwrap().0;
    let get = world.client.get_secret_value().secret_id(partial).send().await;
    assert_eq!(problem(get), pair("ResourceNotFoundException", "Secrets Manager can't find the specified secret."));
}

#[tokio::test]
async fn names_are_taken_once_and_have_an_alphabet() {
    let world = world().await;
    let arn = world.secret("s").await;
    let create = |n, value: &str| {
        world.client.create_secret().name("s").client_request_token(token(n)).secret_string(value.to_owned())
    };
    let again = create(1, "v1").send().await.unwrap();
    assert_eq!(again.arn, Some(arn));
    let expected = pair("ResourceExistsException", "The operation failed because the secret s already exists.");
    assert_eq!(problem(create(1, "other").send().await), expected);
    assert_eq!(problem(create(2, "v1").send().await), expected);
    let expected =
        "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!";
    for name in ["Inv Name", " Inv*Name? ", " Inv *?!]Name\\-"] {
        let invalid = world.client.create_secret().name(name).send().await;
        assert_eq!(problem(invalid), pair("ValidationException", expected));
    }
    world.client.create_secret().name("Valid/_+=.@-Name").send().await.unwrap();
    let replica = ReplicaRegionType::builder().region("us-west-2").build();
    let replicated = world.client.create_secret().name("replicated").add_replica_regions(replica).send().await;
    assert_eq!(problem(replicated).0, "InvalidParameterException");
}

#[tokio::test]
async fn missing_token_is_refused_and_otherwise_by_rotate_secret() {
    let world = world().await;
    world.secret("s").await;
    let message = "You must provide a ClientRequestToken value. We recommend a UUID-type value.";
    for (operation, body, kind) in [
        ("CreateSecret", json!({ "Name": "t", "SecretString": "v" }), "InvalidRequestException"),
        ("UpdateSecret", json!({ "SecretId": "s", "SecretString": "v" }), "InvalidRequestException"),
        ("PutSecretValue", json!({ "SecretId": "s", "SecretString": "v" }), "InvalidRequestException"),
        ("RotateSecret", json!({ "SecretId": "s", "RotationLambdaARN": ROTATOR }), "InvalidParameterException"),
    ] {
        let (status, answer, _) = world.raw(operation, body).await;
        assert_eq!(status, 400);
        assert_eq!(answer["__type"], kind, "{operation}");
        assert_eq!(answer["Message"], message, "{operation}");
    }
    let (status, answer, _) = world.raw("DescribeSecret", json!({})).await;
    assert_eq!((status, answer["__type"].as_str()), (400, Some("ValidationException")));
    let (status, answer, _) = world.raw("ReplicateSecretToRegions", json!({})).await;
    assert_eq!((status, answer["__type"].as_str()), (400, Some("UnknownOperationException")));
    let (status, answer, _) = common::raw(&world.sandbox, "PutSecretValue", "{\"SecretString\": \"hush").await;
    assert_eq!((status, answer["__type"].as_str()), (400, Some("SerializationException")));
    assert!(!answer.to_string().contains("hush"));
}

#[tokio::test]
async fn rotation_without_a_function_is_refused_and_leaves_nothing() {
    let world = world().await;
    world.secret("s").await;
    let rotate = || world.client.rotate_secret().secret_id("s");
    let expected = "No Lambda rotation function ARN is associated with this secret.";
    assert_eq!(problem(rotate().send().await), pair("InvalidRequestException", expected));
    let unknown = "arn:aws:lambda:us-east-1:000000000000:function:nobody";
    let expected = "Secrets Manager cannot invoke the specified Lambda function. Ensure that the function policy \
                    grants access to the principal secretsmanager.amazonaws.com.";
    let refused = rotate().rotation_lambda_arn(unknown).send().await;
    assert_eq!(problem(refused), pair("AccessDeniedException", expected));
    let rules = RotationRulesType::builder().automatically_after_days(1).schedule_expression("rate(1 day)").build();
    let both = rotate().rotation_lambda_arn(ROTATOR).rotation_rules(rules).send().await;
    let expected = "You cannot specify both rotation frequency and schedule expression together.";
    assert_eq!(problem(both), pair("InvalidParameterException", expected));
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(description.rotation_enabled, None);
    assert_eq!(description.rotation_lambda_arn, None);
    assert_eq!(description.rotation_rules, None);
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT")]));
    assert!(world.functions.events().is_empty());
}

#[tokio::test]
async fn tags_are_appended_replaced_and_removed() {
    let world = world().await;
    world.secret("s").await;
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let tags = || async { world.client.describe_secret().secret_id("s").send().await.unwrap().tags };
    assert_eq!(tags().await, None);
    world.client.tag_resource().secret_id("s").tags(tag("a", "1")).send().await.unwrap();
    world.client.tag_resource().secret_id("s").tags(tag("b", "2")).tags(tag("a", "3")).send().await.unwrap();
    assert_eq!(tags().await, Some(vec![tag("a", "3"), tag("b", "2")]));
    let untag = world.client.untag_resource().secret_id("s").tag_keys("a").tag_keys("b").tag_keys("c");
    untag.send().await.unwrap();
    assert_eq!(tags().await, Some(vec![]));
    let reserved = world.client.tag_resource().secret_id("s").tags(tag("aws:mine", "1")).send().await;
    assert_eq!(problem(reserved).0, "InvalidParameterException");
}
