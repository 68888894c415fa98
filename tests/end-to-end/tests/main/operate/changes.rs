//! The actions that change something: rollback, revoke, abort, compromise.

use std::collections::BTreeMap;

use end_to_end::FIELD;
use rotation::keyring::Keyring;
use sandbox::{EventKind, Fault, FaultRule, Moment, PrivatePut};

use super::*;
use crate::keys::parsed;

mod compromise;

async fn ring(scene: &Scene, format: KeyFormat) -> Keyring {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    parsed(format, &value, true).1
}

/// The stages of this project's own that are left on versions of the secret, without what tells versions apart.
async fn marks(scene: &Scene) -> Vec<String> {
    let stages = scene.stages().await.unwrap().into_values().flatten();
    let stays = |stage: &str| stage.starts_with("ROTATION-ROLLBACK-") || stage == "ROTATION-RING";
    let marks = stages.filter(|stage| stage.starts_with("ROTATION-") && !stays(stage));
    let named = |mark: String| match mark.rsplit_once('-') {
        Some((name, of)) if of.len() == 8 && of.bytes().all(|byte| byte.is_ascii_hexdigit()) => name.to_owned(),
        _ => mark,
    };
    marks.map(named).collect()
}

async fn edit(scene: &Scene, old: &str, new: &str) {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    assert!(value.contains(old));
    let edited = value.replace(old, new);
    scene.client.put_secret_value().secret_id(scene.secret()).secret_string(edited).send().await.unwrap();
}

/// How many calls to Secrets Manager the function for operators has made.
pub(super) fn calls(scene: &Scene) -> u64 {
    let calls = scene.sandbox.calls_of(OPERATE).into_iter();
    calls
        .filter(|(operation, _)| !["PutMetricData", "FilterLogEvents"].contains(&operation.as_str()))
        .map(|(_, count)| count)
        .sum()
}

fn freeze(scene: &Scene, frozen: bool) {
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(frozen));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_rollback_restores_the_old_one_and_keeps_the_new() {
    for (plan, json) in [(json_plan(), true), (text_plan(), false)] {
        let scene = with_operator(plan).await;
        let first = scene.token("AWSCURRENT").await.unwrap();
        assert_eq!(refused(&scene, "rollback").await.error_type, "NothingToGoBackTo", "it is not rotated yet");
        rotate(&scene).await;
        let second = scene.token("AWSCURRENT").await.unwrap();
        if json {
            // What a person edited since stays.
            edit(&scene, "2e3", "3e3").await;
        }
        let answer = done(&scene, "rollback").await;
        println!("{answer:#}");
        let current = scene.value("AWSCURRENT").await.unwrap();
        for answer in [done(&scene, "rollback").await, done(&scene, "rollback").await] {
            assert_eq!(answer["already"], true, "{answer:#}");
        }
        assert_eq!(scene.value("AWSCURRENT").await.unwrap(), current);
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), first);
        assert_eq!(scene.accepted(&first).await.unwrap(), [true, true]);
        assert_eq!(scene.accepted(&second).await.unwrap(), [true, true], "nobody is locked out");
        if json {
            assert!(current.unwrap().contains("3e3"), "the edit is gone");
            // An edit after it does not make the next request undo it either.
            edit(&scene, "3e3", "4e3").await;
            assert_eq!(done(&scene, "rollback").await["already"], true);
            assert_eq!(scene.token("AWSCURRENT").await.unwrap(), first);
        }
        // The next rotation works, and can be rolled back again.
        rotate(&scene).await;
        let third = scene.token("AWSCURRENT").await.unwrap();
        assert_eq!(scene.accepted(&third).await.unwrap(), [true, true]);
        assert_eq!(done(&scene, "rollback").await.get("already"), None);
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), first);
        assert_eq!(scene.accepted(&third).await.unwrap(), [true, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_to_a_refused_token_is_put_back() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let stages = scene.stages().await.unwrap();
        let (value, token) = (scene.value("AWSCURRENT").await.unwrap(), scene.token("AWSCURRENT").await.unwrap());
        // Its overlap is over, so that the application does not know the old token any more, and it loads nothing new.
        scene.sandbox.advance(25 * HOUR).await.unwrap();
        // The application's clock is that of the service's answers.
        scene.token("AWSCURRENT").await.unwrap();
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
        freeze(&scene, true);
        let error = refused(&scene, "rollback").await;
        assert_eq!(error.error_type, "DidNotVerify");
        assert!(error.message.contains("is AWSCURRENT again"), "{}", error.message);
        assert_eq!(scene.value("AWSCURRENT").await.unwrap(), value);
        assert_eq!(scene.accepted(&token).await.unwrap(), [true, true]);
        let mut after = scene.stages().await.unwrap();
        // AWSPENDING was on the current version, where it says nothing; a new version may have taken it away.
        let mut before = stages;
        [&mut before, &mut after].into_iter().for_each(|stages| {
            stages.values_mut().for_each(|stages| stages.retain(|stage| stage != "AWSPENDING"));
        });
        assert_eq!(after, before, "every stage is where it was");
        freeze(&scene, false);
        assert_eq!(done(&scene, "rollback").await.get("already"), None);
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), FIRST);
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [true, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_rollback_restores_the_old_primary_and_keeps_the_new_key() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = with_operator(keys(format)).await;
        rotate(&scene).await;
        assert_eq!(refused(&scene, "rollback").await.error_type, "NothingToGoBackTo");
        rotate(&scene).await;
        let before = ring(&scene, format).await;
        let load = scene.records(60, 1);
        eventually("records are written", || async { load.report().written >= 20 }).await;
        let answer = done(&scene, "rollback").await;
        println!("{answer:#}");
        assert_eq!(done(&scene, "rollback").await["already"], true);
        let after = ring(&scene, format).await;
        assert_eq!(after.primary().id(), before.secondary()[0].id());
        assert!(after.holds_all_of(&before) && before.holds_all_of(&after), "no key came or went");
        let written = load.report().written;
        eventually("more records are written", || async { load.report().written >= written + 20 }).await;
        let report = load.stop().await;
        assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
        let everywhere = scene.read_everywhere().await.unwrap();
        assert_eq!((everywhere.unreadable, everywhere.failed), (0, 0), "{everywhere:?}");
        rotate(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_ends_the_overlap_and_proves_the_old_token_refused() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let (old, new) = (FIRST, scene.token("AWSCURRENT").await.unwrap());
        assert_eq!(scene.accepted(old).await.unwrap(), [true, true]);
        let answer = done(&scene, "revoke").await;
        println!("{answer:#}");
        assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)));
        assert_eq!(scene.accepted(old).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), new);
        assert_eq!(marks(&scene).await, [""; 0]);
        // Once more is no harm, and there is nothing left to go back to.
        assert_eq!(done(&scene, "revoke").await["tokensRevoked"], 0);
        assert_eq!(refused(&scene, "rollback").await.error_type, "NothingToGoBackTo");
        rotate(&scene).await;
    }
    let scene = with_operator(keys(KeyFormat::Raw)).await;
    rotate(&scene).await;
    let error = refused(&scene, "revoke").await;
    assert_eq!(error.error_type, "NotForThisKind");
    assert!(error.message.contains("compromise"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_was_not_proven_stays_unproven_until_it_is() {
    for (plan, mark) in [(json_plan(), "ROTATION-PREVIOUS-REVOKED"), (text_plan(), "ROTATION-REVOKED")] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let new = scene.token("AWSCURRENT").await.unwrap();
        freeze(&scene, true);
        for _ in 0..2 {
            let error = refused(&scene, "revoke").await;
            assert_eq!(error.error_type, "TargetAcceptsRevoked", "{}", error.message);
            assert_eq!(marks(&scene).await, [mark]);
            assert_eq!(done(&scene, "status").await["rotation"]["unfinished"], "revoke");
            // Nobody makes it current again meanwhile.
            assert!(["NothingToGoBackTo", "Compromised"].contains(&&*refused(&scene, "rollback").await.error_type));
        }
        freeze(&scene, false);
        let answer = done(&scene, "revoke").await;
        assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)));
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        assert_eq!(marks(&scene).await, [""; 0]);
    }
}

/// An application that accepts a leaked token for ever, from a file of its own: however often it is asked for, the leaked token
/// is not forgotten, and nothing is claimed.
#[tokio::test(flavor = "multi_thread")]
async fn compromise_whose_proof_keeps_failing_forgets_no_token() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let leaked = scene.token("AWSCURRENT").await.unwrap();
        scene.instances[0].also_accept(Some(&leaked));
        let rotations = |scene: &Scene| {
            let events = scene.sandbox.events();
            events.iter().filter(|event| matches!(event.kind, EventKind::RotationStarted)).count()
        };
        let before = rotations(&scene);
        for _ in 0..3 {
            let error = refused(&scene, "compromise").await;
            assert_eq!(error.error_type, "TargetAcceptsRevoked", "{}", error.message);
            assert_eq!(done(&scene, "status").await["rotation"]["unfinished"], "compromise");
            assert!(marks(&scene).await.contains(&"ROTATION-COMPROMISED".to_owned()));
        }
        // Later it takes itself for another incident, and still knows the first.
        scene.sandbox.advance(2 * HOUR).await.unwrap();
        assert_eq!(refused(&scene, "compromise").await.error_type, "TargetAcceptsRevoked");
        assert_eq!(rotations(&scene) - before, 2, "the same incident is one rotation");
        scene.instances[0].also_accept(None);
        let answer = done(&scene, "compromise").await;
        assert_eq!(answer["provenRefused"], true);
        assert_eq!(scene.accepted(&leaked).await.unwrap(), [false, false]);
        assert_eq!(marks(&scene).await, [""; 0]);
    }
}

/// A rollback that was proven stays, though the application does not answer when somebody asks for it again.
#[tokio::test(flavor = "multi_thread")]
async fn proven_rollback_is_not_undone_by_a_later_failure() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        done(&scene, "rollback").await;
        let value = scene.value("AWSCURRENT").await.unwrap();
        scene.sandbox.host().set_environment(OPERATE, "TARGET_VERIFY_URL", "http://127.0.0.1:9/down").unwrap();
        assert_eq!(refused(&scene, "rollback").await.error_type, "TargetUnavailable");
        assert_eq!(scene.value("AWSCURRENT").await.unwrap(), value);
    }
}

/// After a rotation, a revocation that was not proven condemns the token that it took away, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_was_not_proven_condemns_no_later_token() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let second = scene.token("AWSCURRENT").await.unwrap();
        scene.instances[0].also_accept(Some(FIRST));
        assert_eq!(refused(&scene, "revoke").await.error_type, "TargetAcceptsRevoked");
        rotate(&scene).await;
        done(&scene, "rollback").await;
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), second);
        scene.instances[0].also_accept(None);
        done(&scene, "revoke").await;
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
        assert_eq!(marks(&scene).await, [""; 0]);
    }
}

/// One instance of two goes on accepting the token: the refusals of the other do not outvote it.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_not_proven_by_some_instances() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    scene.instances[1].freeze_refresh(true);
    assert_eq!(refused(&scene, "revoke").await.error_type, "TargetAcceptsRevoked");
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, true]);
    scene.instances[1].freeze_refresh(false);
    done(&scene, "revoke").await;
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_takes_nothing_from_a_current_value_that_fails() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    freeze(&scene, true);
    let token = scene.token("AWSCURRENT").await.unwrap();
    edit(&scene, &token, "a-token-that-no-instance-has-loaded-012345678").await;
    let broken = scene.value("AWSCURRENT").await.unwrap();
    assert_eq!(refused(&scene, "revoke").await.error_type, "CurrentDoesNotVerify");
    assert_eq!(scene.value("AWSCURRENT").await.unwrap(), broken);
    assert_eq!(marks(&scene).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_ends_an_old_stuck_rotation_and_the_next_works() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(once(plan)).await;
        rotate(&scene).await;
        freeze(&scene, true);
        fail_to_rotate(&scene).await;
        let pending = scene.token("AWSPENDING").await.unwrap();
        for action in ["rollback", "revoke"] {
            assert_eq!(refused(&scene, action).await.error_type, "RotationOpen");
        }
        let error = refused(&scene, "abort").await;
        assert_eq!(error.error_type, "TooYoungToAbort", "{}", error.message);
        scene.sandbox.advance(HOUR).await.unwrap();
        freeze(&scene, false);
        assert_eq!(done(&scene, "doctor").await["healthy"], false);
        let answer = done(&scene, "abort").await;
        println!("{answer:#}");
        assert_eq!(answer["verified"], true);
        assert!(scene.value("AWSPENDING").await.unwrap().is_none());
        assert_eq!(scene.accepted(&pending).await.unwrap(), [false, false], "the application has dropped it");
        rotate(&scene).await;
        assert_eq!(done(&scene, "abort").await["aborted"], Value::Null, "nothing is open any more");
    }
    let scene = with_operator(once(keys(KeyFormat::Raw))).await;
    rotate(&scene).await;
    scene.instances[0].freeze_refresh(true);
    fail_to_rotate(&scene).await;
    scene.sandbox.advance(HOUR).await.unwrap();
    scene.instances[0].freeze_refresh(false);
    assert_eq!(done(&scene, "abort").await["verified"], true);
    rotate(&scene).await;
}

/// The process is killed before and after every call that changes something; the same request once more finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn action_that_dies_at_any_call_is_finished_by_a_repeat() {
    let mut deaths = BTreeMap::<&str, u32>::new();
    for action in ["rollback", "revoke", "compromise"] {
        for operation in ["PutSecretValue", "UpdateSecretVersionStage", "RotateSecret"] {
            'calls: for which in 1.. {
                for when in [Moment::Before, Moment::After] {
                    let scene = with_operator(json_plan()).await;
                    rotate(&scene).await;
                    let known = scene.token("AWSCURRENT").await.unwrap();
                    let kill = Fault::KillFunction { function: OPERATE.to_owned(), when };
                    let rule = FaultRule { first: which, ..FaultRule::on(operation, kill).from_caller(OPERATE) };
                    scene.sandbox.faults().add(rule);
                    let died = operate(&scene, action).await.is_err();
                    scene.sandbox.faults().clear();
                    let what = format!("{action}, {operation} {which} {when:?}");
                    let current = scene.token("AWSCURRENT").await.unwrap();
                    assert!(scene.accepted(&current).await.unwrap().contains(&true), "{what}");
                    if !died {
                        assert_eq!(when, Moment::Before, "{what}");
                        break 'calls;
                    }
                    *deaths.entry(action).or_default() += 1;
                    // The rotation that it may have begun goes on without it.
                    eventually("the rotation ends", || async {
                        let secret = scene.client.describe_secret().secret_id(SECRET).send().await.unwrap();
                        let stages = secret.version_ids_to_stages.unwrap_or_default();
                        let pending = stages.values().find(|stages| stages.iter().any(|stage| stage == "AWSPENDING"));
                        pending.is_none_or(|stages| stages.iter().any(|stage| stage == "AWSCURRENT"))
                    })
                    .await;
                    done(&scene, action).await;
                    done(&scene, "verify").await;
                    let current = scene.token("AWSCURRENT").await.unwrap();
                    assert_eq!(scene.accepted(&current).await.unwrap(), [true, true], "{what}");
                    let (of_known, of_first) =
                        (scene.accepted(&known).await.unwrap(), scene.accepted(FIRST).await.unwrap());
                    match action {
                        "rollback" => assert_eq!((current, of_known), (FIRST.to_owned(), vec![true, true]), "{what}"),
                        "revoke" => assert_eq!((current, of_first), (known, vec![false, false]), "{what}"),
                        _ => assert_eq!((of_known, of_first), (vec![false; 2], vec![false; 2]), "{what}"),
                    }
                }
            }
        }
    }
    println!("{deaths:?}");
    assert!(deaths.values().all(|deaths| *deaths >= 4), "{deaths:?}");
}

/// Promise 4: whichever of the two comes first, nothing is mixed.
#[tokio::test(flavor = "multi_thread")]
async fn an_action_beside_a_rotation_ends_as_one_of_the_two() {
    for step in [sandbox::Step::Create, sandbox::Step::Set, sandbox::Step::Test, sandbox::Step::Finish] {
        for action in ["rollback", "revoke"] {
            let scene = with_operator(json_plan()).await;
            rotate(&scene).await;
            let rule = hold_before(&scene, step, 400);
            begin_until(&scene, rule).await;
            let answer = operate(&scene, action).await;
            let outcome = end(&scene).await;
            assert_eq!(answer.unwrap_err().error_type, "RotationOpen", "{step:?}");
            assert!(outcome.is_success(), "{step:?}: {outcome:?}");
            let current = scene.token("AWSCURRENT").await.unwrap();
            assert_eq!(scene.accepted(&current).await.unwrap(), [true, true]);
        }
    }
}

/// A rotation that begins when the action has looked already, whether a put under a stage of one's own abandons it or not.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_during_an_action_ends_as_one_of_the_two() {
    let actions = ["rollback", "revoke"].into_iter().flat_map(|action| {
        [PrivatePut::Abandons, PrivatePut::Leaves].into_iter().map(move |private_put| (action, private_put))
    });
    for (action, private_put) in actions {
        for operation in ["PutSecretValue", "UpdateSecretVersionStage"] {
            let mut plan = json_plan();
            plan.sandbox.private_put = private_put;
            let scene = with_operator(plan).await;
            rotate(&scene).await;
            let known = scene.token("AWSCURRENT").await.unwrap();
            let slow = FaultRule::on(operation, Fault::Delay { millis: 700 }).from_caller(OPERATE);
            let rule = scene.sandbox.faults().add(slow);
            let request = request(&scene, action);
            let (answer, rotated) = tokio::join!(ask(&scene, request), async {
                until_matched(&scene, rule, 1).await;
                scene.rotate().await.unwrap()
            });
            let what = format!("{action}, {private_put:?}, {operation}: {answer:?}, {rotated:?}");
            println!("{what}");
            assert!(answer.is_ok() || rotated.is_success(), "{what}");
            let current = scene.token("AWSCURRENT").await.unwrap();
            assert_eq!(scene.accepted(&current).await.unwrap(), [true, true], "{what}");
            if rotated.is_success() {
                assert!(current != known && current != FIRST, "{what}");
            }
            // Whatever happened, the next request says what is.
            let again = operate(&scene, action).await;
            assert!(again.is_ok() || again.as_ref().unwrap_err().error_type == "RotationOpen", "{what}; {again:?}");
            scene.sandbox.advance(HOUR).await.unwrap();
            done(&scene, "abort").await;
            rotate(&scene).await;
        }
    }
}

/// The most calls to Secrets Manager that an action makes on a token, and on a keyring whose application is asked with another secret.
const MOST_CALLS: [(&str, [u64; 2]); 8] = [
    ("status", [3, 4]),
    ("verify", [2, 3]),
    ("rollback", [6, 8]),
    ("revoke", [9, 1]),
    ("compromise", [14, 12]),
    ("abort", [2, 3]),
    ("doctor", [5, 6]),
    ("sweep", [2, 3]),
];

/// By the AWS CLI, as people do it: every action, on both kinds, with the calls to Secrets Manager that each makes.
#[tokio::test(flavor = "multi_thread")]
async fn every_action_by_the_aws_cli_on_both_kinds_and_what_it_calls() {
    for plan in [json_plan(), keys(KeyFormat::Raw)] {
        let token = plan.field == Some(FIELD);
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        rotate(&scene).await;
        for (action, most) in MOST_CALLS {
            let event = match action {
                "sweep" => json!({ "action": "sweep" }),
                _ => request(&scene, action),
            };
            let before = calls(&scene);
            let (status, answer) = Cli::new(&scene).invoke(OPERATE, &event).await;
            let made = calls(&scene) - before;
            println!("$ aws lambda invoke --function-name operate --payload '{event}'   ({made} calls)\n{answer:#}");
            assert!(made <= most[usize::from(!token)], "{action} makes {made} calls");
            let refused = action == "revoke" && !token;
            assert_eq!(status.get("FunctionError").is_some(), refused, "{action}: {answer}");
        }
    }
}

/// A secret has 20 staging labels: where none is left, RotateSecret is refused however often it is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_compromise_does_not_repeat_what_is_refused_for_good() {
    let scene = with_operator(no_target(json_plan())).await;
    rotate(&scene).await;
    let kill = Fault::KillFunction { function: OPERATE.to_owned(), when: Moment::Before };
    scene.sandbox.faults().add(FaultRule::on("RotateSecret", kill).from_caller(OPERATE));
    assert!(operate(&scene, "compromise").await.is_err());
    scene.sandbox.faults().clear();
    let (version, _) = current(&scene).await.unwrap();
    // Where AWSPENDING is on a version already, RotateSecret takes no further label.
    let off = scene.client.update_secret_version_stage().secret_id(scene.secret()).version_stage("AWSPENDING");
    off.remove_from_version_id(&version).send().await.unwrap();
    fill_stages(&scene, &version, 20).await;
    scene.sandbox.reset_calls();
    let begun = std::time::Instant::now();
    let error = refused(&scene, "compromise").await;
    assert!(error.error_type == "CallRejected" && error.message.contains("LimitExceededException"), "{error:?}");
    // The SDK takes this error for throttling, and makes four attempts of one request.
    assert_eq!(scene.sandbox.calls()["RotateSecret"], 4, "asked once, in {:?}", begun.elapsed());
}
