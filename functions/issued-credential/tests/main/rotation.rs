//! Whole rotations: what is alive at the provider is what the secret's versions name.

use std::time::Duration;

use issued_credential::IssuedCredential;
use rotation::document::{Document, FieldName};
use rotation::event::Step;
use rotation::protocol::Outcome;
use rotation::secret::SecretText;
use rotation::versions::Stage;
use serde_json::json;

use crate::json;
use crate::provider::{Provider, Reply};
use crate::store::{Store, version};

const HOUR: Duration = Duration::from_secs(60 * 60);
const FIRST: &str =
    "{ \"DATABASE_URL\": \"postgres:\\/\\/x\",\n  \"KEY\": \"first\", \"KEY_ID\": \"id-0\", \"n\": 1.50 }";

fn secret() -> (Store, Provider) {
    (Store::with(FIRST), Provider::with("first"))
}

#[tokio::test(start_paused = true)]
async fn members_rotate_together_and_others_stay_as_they_are() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    let expected = FIRST.replace("\"first\"", "\"made-1-c4naryVALUE\"").replace("id-0", "id-1");
    assert_eq!(store.current(), expected);
    assert_eq!(provider.alive(), ["first", "made-1-c4naryVALUE"], "the old one works in the overlap");
    assert_eq!(store.labels(1), [Stage::issued(&version(1)).as_str()]);
}

#[tokio::test(start_paused = true)]
async fn only_the_named_members_are_handed_to_the_issuer() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(25 * HOUR);
    store.rotate(2, &provider).await.unwrap();
    let requests = provider.state().requests.clone();
    assert_eq!(requests[0]["members"], json!({ "KEY": "first", "KEY_ID": "id-0" }));
    assert_eq!(requests[0]["version_id"], version(1).as_str());
    for request in requests {
        assert!(!request.to_string().contains("postgres") && request["secret"] == "shop/provider", "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn verify_is_asked_before_after_and_once_with_damage() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    let state = provider.state();
    let verified = state.requests.iter().filter(|request| request["operation"] == "verify");
    let made = |key: &str| key == "made-1-c4naryVALUE";
    let asked: Vec<_> = verified.map(|request| made(request["members"]["KEY"].as_str().unwrap())).collect();
    let expected = [false, false, true, true, true];
    assert_eq!(
        asked, expected,
        "setSecret with damage and with the old one, testSecret, finishSecret before and after"
    );
}

#[tokio::test(start_paused = true)]
async fn a_repeated_create_secret_issues_nothing_again() {
    let (store, provider) = secret();
    store.open(1);
    assert_eq!(store.step(1, Step::CreateSecret, &provider).await, Ok(Outcome::Created));
    assert_eq!(store.step(1, Step::CreateSecret, &provider).await, Ok(Outcome::Adopted));
    assert_eq!(provider.asked("create"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_discards_what_a_lost_answer_left() {
    let (store, provider) = secret();
    provider.reply("create", Reply::Lost);
    assert_eq!(store.rotate(1, &provider).await.unwrap_err().name(), "IssuerTimedOut");
    assert_eq!(provider.alive(), ["first", "made-1-c4naryVALUE"]);
    assert!(store.is_at(1, &Stage::Pending), "the retry goes on");
    store.go_on(1, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["first", "made-2-c4naryVALUE"]);
    // The first try may be at work still, so that the record stays for its longest time.
    assert!(store.labels(0).iter().any(|label| label.starts_with("ROTATION-ISSUING-")));
    store.wait(25 * HOUR);
    store.rotate(2, &provider).await.unwrap();
    assert!([0, 1, 2].iter().all(|number| store.labels(*number).len() <= 1), "no record is left");
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_attempt_is_discarded_by_a_later_rotation() {
    let (store, provider) = secret();
    provider.reply("create", Reply::Lost);
    store.rotate(1, &provider).await.unwrap_err();
    // A person stores another member, which abandons the rotation.
    store.edit(2, &FIRST.replace("1.50", "2"));
    store.rotate(3, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["first", "made-1-c4naryVALUE", "made-2-c4naryVALUE"], "too early");
    store.wait(25 * HOUR);
    store.rotate(4, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["made-2-c4naryVALUE", "made-3-c4naryVALUE"]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_revoked_after_its_overlap_and_not_before() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(23 * HOUR);
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(provider.asked("revoke"), 0);
    store.wait(25 * HOUR);
    store.rotate(3, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["made-2-c4naryVALUE", "made-3-c4naryVALUE"]);
    assert_eq!((store.labels(0), store.labels(1)), (vec![], vec![]), "the marks are gone");
}

/// What has leaked is replaced although a consumer may still use the credential before it.
#[tokio::test(start_paused = true)]
async fn a_compromise_revokes_nothing_that_a_consumer_may_use() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(25 * HOUR);
    store.state().consumed = true;
    let leaked = Stage::Other("ROTATION-COMPROMISED-01234567".to_owned());
    store.state().stages.move_stage(&leaked, None, Some(&version(1)), |_| true).unwrap();
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["first", "made-1-c4naryVALUE", "made-2-c4naryVALUE"]);
    assert_eq!(provider.asked("revoke"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_has_to_wait_keeps_its_mark() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(25 * HOUR);
    provider.reply("revoke", Reply::Says(r#"{"version":1,"status":"later"}"#.to_owned()));
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(store.labels(0), [Stage::issued(&version(0)).as_str()]);
    assert!(!store.is_at(0, &Stage::Previous));
    store.wait(25 * HOUR);
    store.rotate(3, &provider).await.unwrap();
    assert_eq!(store.labels(0), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_another_member_revokes_nothing() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.edit(2, &store.current().replace("1.50", "2"));
    store.wait(48 * HOUR);
    store.open(3);
    store.step(3, Step::CreateSecret, &provider).await.unwrap();
    assert!(provider.alive().contains(&"made-1-c4naryVALUE".to_owned()), "{:?}", provider.alive());
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_does_not_work_is_given_up_and_marked() {
    let (store, provider) = secret();
    store.open(1);
    store.step(1, Step::CreateSecret, &provider).await.unwrap();
    provider.reply("verify", refused());
    assert_eq!(store.step(1, Step::TestSecret, &provider).await.unwrap_err().name(), "CredentialRefused");
    assert!(!store.is_at(1, &Stage::Pending));
    assert_eq!(store.labels(1), [Stage::issued(&version(1)).as_str()]);
    assert_eq!(store.current(), FIRST);
    store.rotate(2, &provider).await.unwrap();
    store.wait(25 * HOUR);
    store.rotate(3, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["made-2-c4naryVALUE", "made-3-c4naryVALUE"]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_dies_when_it_is_current_is_put_back() {
    let (store, provider) = secret();
    let ok = || Reply::Says(r#"{"version":1,"status":"ok"}"#.to_owned());
    for reply in [refused(), ok(), ok(), ok(), refused()] {
        provider.reply("verify", reply);
    }
    assert_eq!(store.rotate(1, &provider).await.unwrap_err().name(), "VerificationFailed");
    assert_eq!(store.current(), FIRST);
    assert!(!store.is_at(1, &Stage::Pending) && !store.is_at(1, &Stage::Previous));
    assert_eq!(store.labels(1), [Stage::issued(&version(1)).as_str()], "its credential is revoked later");
}

/// An operator may revoke it when a retry of the rotation has succeeded, while the first try still waits for an answer.
#[tokio::test(start_paused = true)]
async fn no_rotation_goes_back_to_a_dead_credential() {
    let (refused, lost) = (|| vec![refused()], || vec![Reply::Lost, Reply::Lost]);
    let ok = || Reply::Says(r#"{"version":1,"status":"ok"}"#.to_owned());
    // What the issuer says of the new one, what of the old one, and how the rotation ends.
    for (new, old, name) in [
        (refused(), refused(), "RollbackFailed"),
        (refused(), lost(), "VerificationFailed"),
        (refused(), vec![ok()], "VerificationFailed"),
        (lost(), refused(), "RollbackFailed"),
        (lost(), lost(), "RollbackFailed"),
        (lost(), vec![ok()], "VerificationFailed"),
    ] {
        let case = format!("{new:?}, {old:?}");
        let (store, provider) = secret();
        for reply in refused().into_iter().chain([ok(), ok(), ok()]).chain(new).chain(old) {
            provider.reply("verify", reply);
        }
        assert_eq!(store.rotate(1, &provider).await.unwrap_err().name(), name, "{case}");
        assert_eq!(store.is_at(1, &Stage::Current), name == "RollbackFailed", "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_lost_answer_of_verify_undoes_no_promotion() {
    let (store, provider) = secret();
    for _ in 0..3 {
        provider.reply("verify", Reply::Lost);
        provider.reply("verify", Reply::Says(r#"{"version":1,"status":"ok"}"#.to_owned()));
    }
    store.open(1);
    store.step(1, Step::CreateSecret, &provider).await.unwrap();
    store.step(1, Step::TestSecret, &provider).await.unwrap();
    store.step(1, Step::FinishSecret, &provider).await.unwrap();
    assert!(store.is_at(1, &Stage::Current));
}

#[tokio::test(start_paused = true)]
async fn an_empty_secret_gets_its_first_credential() {
    let (store, provider) = (Store::with("{}"), Provider::default());
    provider.reply("create", Reply::Lost);
    store.rotate(1, &provider).await.unwrap_err();
    store.go_on(1, &provider).await.unwrap();
    assert_eq!(json(&store.current()), json!({ "KEY": "made-2-c4naryVALUE", "KEY_ID": "id-2" }));
    assert_eq!(provider.alive(), ["made-2-c4naryVALUE"]);
    assert_eq!(provider.state().requests[0]["members"], json!({}));
}

fn refused() -> Reply {
    Reply::Says(r#"{"version":1,"status":"refused"}"#.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_first_credential_is_current_only_if_it_works() {
    let (store, provider) = (Store::with("{}"), Provider::default());
    (0..2).for_each(|_| provider.reply("verify", refused()));
    assert_eq!(store.rotate(1, &provider).await.unwrap_err().name(), "CredentialRefused");
    assert!(!store.is_at(1, &Stage::Pending));
    assert_eq!(store.current(), "{}");
    assert_eq!(store.labels(1), [Stage::issued(&version(1)).as_str()], "it is revoked later");
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(json(&store.current())["KEY"], "made-2-c4naryVALUE");
}

/// Secrets Manager may make the first version current as soon as it is stored.
#[tokio::test(start_paused = true)]
async fn a_first_credential_that_is_current_at_once_is_proven_too() {
    let (store, provider) = (Store::without_value(), Provider::default());
    store.open(1);
    store.put_unmarked(1, r#"{"KEY":"dead","KEY_ID":"id-1"}"#);
    store.state().stages.move_stage(&Stage::Current, None, Some(&version(1)), |_| true).unwrap();
    assert_eq!(store.go_on(1, &provider).await.unwrap_err().name(), "CredentialRefused");
    let (store, provider) = (Store::with("{}"), Provider::default());
    provider.reply("verify", Reply::Says(r#"{"version":1,"status":"ok"}"#.to_owned()));
    assert_eq!(store.rotate(1, &provider).await.unwrap_err().name(), "IssuerAcceptsAny");
}

/// A changed tag is no reason to forget what was made under the former one.
#[tokio::test(start_paused = true)]
async fn a_version_without_the_members_keeps_its_mark() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(25 * HOUR);
    store.state().tags.insert("rotation:fields".to_owned(), "OTHER".to_owned());
    store.edit(2, r#"{"OTHER":"o"}"#);
    provider.reply("create", Reply::Says(r#"{"version":1,"members":{"OTHER":"made"}}"#.to_owned()));
    store.open(3);
    store.step(3, Step::CreateSecret, &provider).await.unwrap();
    assert_eq!((store.labels(0), provider.asked("revoke")), (vec![Stage::issued(&version(0)).as_str().to_owned()], 0));
}

/// A rollback that does not verify puts the version before back.
#[tokio::test(start_paused = true)]
async fn nothing_is_revoked_while_an_action_may_put_it_back() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(25 * HOUR);
    let begun = Stage::Other("ROTATION-OPERATION-01234567".to_owned());
    store.state().stages.move_stage(&begun, None, Some(&version(1)), |_| true).unwrap();
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(provider.asked("revoke"), 0);
}

/// It may be all that consumers have.
#[tokio::test(start_paused = true)]
async fn an_older_credential_lives_while_the_current_one_is_dead() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(25 * HOUR);
    provider.state().alive.remove("made-1-c4naryVALUE");
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["first", "made-2-c4naryVALUE"]);
    store.wait(25 * HOUR);
    store.rotate(3, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["made-2-c4naryVALUE", "made-3-c4naryVALUE"]);
}

/// A provider may have room for two credentials only.
#[tokio::test(start_paused = true)]
async fn what_was_made_for_no_value_goes_before_another_is_made() {
    for stored in [true, false] {
        let (store, provider) = (Store::with("{}"), Provider::default());
        if stored {
            (0..2).for_each(|_| provider.reply("verify", refused()));
        } else {
            provider.reply("create", Reply::Lost);
        }
        store.rotate(1, &provider).await.unwrap_err();
        store.abort(1);
        store.wait(2 * HOUR);
        store.rotate(2, &provider).await.unwrap();
        assert_eq!(provider.alive(), ["made-2-c4naryVALUE"], "stored: {stored}");
        let operations: Vec<_> = provider.state().requests.iter().map(|one| one["operation"].clone()).collect();
        let made = operations.iter().rposition(|one| one == "create").unwrap();
        let ended = operations.iter().position(|one| one == if stored { "revoke" } else { "discard" }).unwrap();
        assert!(ended < made, "{operations:?}");
        assert_eq!((store.labels(0), store.labels(1)), (vec![], vec![]), "stored: {stored}");
    }
}

/// The attempt died between the storing and the mark, in a secret that has no version yet.
#[tokio::test(start_paused = true)]
async fn a_value_without_a_mark_is_no_reason_to_keep_it() {
    let (store, provider) = (Store::without_value(), Provider::default());
    provider.reply("create", Reply::Lost);
    store.rotate(1, &provider).await.unwrap_err();
    store.put_unmarked(1, r#"{"KEY":"made-1-c4naryVALUE","KEY_ID":"id-1"}"#);
    store.abort(1);
    store.wait(2 * HOUR);
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(provider.alive(), ["made-2-c4naryVALUE"]);
    assert_eq!(store.labels(1), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_was_emptied_twice_is_still_lost() {
    let (store, provider) = secret();
    store.rotate(1, &provider).await.unwrap();
    store.wait(HOUR);
    store.edit(2, "{}");
    store.edit(3, "{}");
    assert_eq!(store.rotate(4, &provider).await.unwrap_err().name(), "ValueLost");
    assert_eq!(provider.asked("create"), 1);
}

#[tokio::test(start_paused = true)]
async fn hanging_revocations_leave_time_for_the_rotation() {
    let (store, provider) = secret();
    for number in 1..=4 {
        store.rotate(number, &provider).await.unwrap();
    }
    store.wait(25 * HOUR);
    // Four credentials are to be revoked, and each question takes five seconds.
    (0..4).for_each(|_| provider.reply("revoke", Reply::Hangs));
    store.state().time_left = Duration::from_secs(24);
    store.rotate(5, &provider).await.unwrap();
    assert_eq!(json(&store.current())["KEY"], "made-5-c4naryVALUE");
    assert!((1..4).contains(&provider.asked("revoke")), "{}", provider.asked("revoke"));
}

#[tokio::test(start_paused = true)]
async fn without_enough_time_nothing_is_issued_or_recorded() {
    let (store, provider) = secret();
    store.open(1);
    store.state().time_left = Duration::from_secs(20);
    assert_eq!(store.step(1, Step::CreateSecret, &provider).await.unwrap_err().name(), "TimeTooShort");
    assert_eq!((provider.asked("create"), store.labels(0)), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_no_value_has_fails_the_configuration() {
    let (store, provider) = secret();
    store.state().tags.insert("rotation:fields".to_owned(), "KEY OTHER".to_owned());
    store.open(1);
    let error = store.step(1, Step::TestSecret, &provider).await.unwrap_err();
    assert!(error.name() == "FieldMissing" && error.to_string().contains("OTHER"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_test_of_the_configuration_issues_nothing() {
    let (store, provider) = secret();
    store.open(1);
    assert_eq!(store.step(1, Step::TestSecret, &provider).await, Ok(Outcome::ConfigurationTested));
    assert_eq!((provider.asked("create"), provider.asked("verify")), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_credential_is_a_member_and_in_the_report() {
    let (store, provider) = secret();
    let answer = r#"{"version":1,"members":{"KEY":"MADE","KEY_ID":"id"},"expires":"2030-01-01T00:00:00Z"}"#;
    provider.reply("create", Reply::Adds(answer));
    let Ok(Outcome::Promoted(promotion)) = store.rotate(1, &provider).await else { panic!("not promoted") };
    assert_eq!(json!(promotion.of_kind), json!({ "expires": "2030-01-01T00:00:00Z" }));
    assert_eq!(json(&store.current())["KEY_EXPIRES"], "2030-01-01T00:00:00Z");
    let value = Document::parse(SecretText::new(store.current()), FieldName::new("KEY").as_ref()).unwrap();
    assert!(IssuedCredential::<&Provider>::expires(&value).is_some());
    // The next one has no end, so that the member goes.
    store.rotate(2, &provider).await.unwrap();
    assert_eq!(json(&store.current()).get("KEY_EXPIRES"), None);
}
