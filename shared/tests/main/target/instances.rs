//! What each instance behind a balancer answers, and the keys that it reports.

use super::*;

#[tokio::test(start_paused = true)]
async fn instance_that_still_refuses_is_told_from_a_missing_one() {
    // The time may be up after any answer; whichever was the last, one instance keeps refusing.
    let mut names = BTreeSet::new();
    for step in 0..200 {
        let timeout = Duration::from_millis(1_000 + 11 * step);
        let fake = Fake::new(2, timeout, |call| match call.number % 2 {
            0 => At(Verdict::Accepted, "a"),
            _ => At(Verdict::Refused, "b"),
        });
        names.insert(fake.prove(LONG).await.unwrap_err().name());
    }
    assert_eq!(names, BTreeSet::from(["TargetRefused"]));

    // One that refused at first and accepts by now is not blamed for another that is missing.
    let fake = Fake::new(3, seconds(10.0), |call| match call.number {
        0 => At(Verdict::Refused, "b"),
        number if number % 2 == 0 => At(Verdict::Accepted, "b"),
        _ => At(Verdict::Accepted, "a"),
    });
    let missing = RotationError::InstanceMissing { operation: "verify", seen: 2, expected: 3 };
    assert_eq!(fake.prove(LONG).await, Err(missing));
}

#[tokio::test(start_paused = true)]
async fn silent_instance_is_missing_when_the_others_accept() {
    // The time is up while it is asked, or while another one is.
    for timeout in [3.0, 10.0, 10.5] {
        let fake = Fake::new(2, seconds(timeout), |call| {
            if call.number % 2 == 0 { At(Verdict::Accepted, "a") } else { Slow(seconds(3.0), Verdict::Unwell(503)) }
        });
        let missing = RotationError::InstanceMissing { operation: "refresh", seen: 1, expected: 2 };
        assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Err(missing), "{timeout} s");
    }
}

/// An instance that is refreshed knows one of the tokens, and refuses the others.
#[tokio::test(start_paused = true)]
async fn refusals_by_a_refreshed_instance_hide_no_silence() {
    for step in 0..200 {
        let fake = Fake::new(2, Duration::from_millis(1_000 + 11 * step), |call| {
            let verdict = if call.token == OLD { Verdict::Accepted } else { Verdict::Refused };
            if call.number % 2 == 0 { At(verdict, "a") } else { Slow(seconds(0.3), Verdict::Unwell(503)) }
        });
        let missing = RotationError::InstanceMissing { operation: "refresh", seen: 1, expected: 2 };
        assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Err(missing), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_in_step_do_not_hide_instances_from_each_other() {
    let fake = Fake::new(2, seconds(10.0), |call| At(only_new(&call.token), INSTANCES[call.number % 2]));
    let (one, other) = tokio::join!(fake.prove(LONG), fake.prove(LONG));
    assert_eq!((one, other), (Ok(()), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn every_instance_behind_a_balancer_reports_its_keys() {
    for instances in 1..=5 {
        let fake =
            Fake::new(instances, seconds(10.0), |call| Reports(INSTANCES[call.number % instances], BOTH, &[ONE]));
        assert_eq!(fake.prove_keys(&needed()).await, Ok(()));
        let calls = fake.calls();
        assert_eq!(calls.len(), instances, "no request more than there are instances");
        assert!(calls.iter().all(|call| call.operation == Operation::Keys && call.token == NEW));
    }
}

#[tokio::test(start_paused = true)]
async fn more_keys_and_no_word_on_what_is_encrypted_with_are_enough() {
    for (decrypts_with, encrypts_with) in
        [(&[ONE, TWO, "0000000f"][..], &[ONE][..]), (BOTH, &[]), (BOTH, &["0000000f", ONE])]
    {
        let fake = Fake::new(1, seconds(10.0), |_| Reports("a", decrypts_with, encrypts_with));
        assert_eq!(fake.prove_keys(&needed()).await, Ok(()), "{encrypts_with:?}");
    }
    let anyone = NeededKeys { encrypts_with: None, ..needed() };
    let fake = Fake::new(1, seconds(10.0), |_| Reports("a", BOTH, &[TWO]));
    assert_eq!(fake.prove_keys(&anyone).await, Ok(()), "nothing is asked of it");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_gets_a_key_later_is_asked_until_it_has_it() {
    let fake = Fake::new(2, seconds(10.0), |call| match call.number % 2 {
        0 => Reports("a", BOTH, &[ONE]),
        _ if call.number < 9 => Reports("b", &[ONE], &[ONE]),
        _ => Reports("b", BOTH, &[ONE]),
    });
    assert_eq!(fake.prove_keys(&needed()).await, Ok(()));
    assert_eq!(fake.calls().len(), 10);
    // One that had it and lost it again, because another program rolled it back, is asked again as well.
    let fake = Fake::new(2, seconds(10.0), |call| match call.number {
        0 | 4 => Reports("a", BOTH, &[ONE]),
        1 | 2 => Reports("a", &[ONE], &[]),
        _ => Reports("b", BOTH, &[]),
    });
    assert_eq!(fake.prove_keys(&needed()).await, Ok(()));
    assert_eq!(fake.calls().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn instance_that_never_gets_a_key_is_named_with_what_it_lacks() {
    for (reports, problem) in [
        ((&[ONE][..], &[ONE][..]), "instance b does not report 00000002: it must load the keyring first"),
        ((&[], &[]), "instance b does not report 00000001, 00000002: it must load the keyring first"),
        ((BOTH, &[TWO]), "instance b does not encrypt with the new primary key 00000001"),
    ] {
        // The time may be up after any answer; whichever was the last, it is b that lacks something.
        for (first, step) in (0..2).flat_map(|first| (0..200).map(move |step| (first, step))) {
            let timeout = Duration::from_millis(1_000 + 11 * step);
            let fake = Fake::new(2, timeout, |call| match call.number % 2 {
                turn if turn == first => Reports("a", BOTH, &[ONE]),
                _ => Reports("b", reports.0, reports.1),
            });
            assert_eq!(fake.prove_keys(&needed()).await, unproven(problem), "{first} {timeout:?}");
            assert_eq!(fake.elapsed(), timeout);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_without_instance_ids_is_named_as_such() {
    let fake = Fake::new(0, seconds(1.0), |_| Reports("", &[ONE], &[]));
    let problem = "the target does not report 00000002: it must load the keyring first";
    assert_eq!(fake.prove_keys(&needed()).await, unproven(problem));
}

#[tokio::test(start_paused = true)]
async fn silence_about_keys_counts_only_with_a_declaration() {
    let silent = || Fake::new(1, seconds(1.0), |_| Anonymous(Verdict::Accepted));
    let error = silent().prove_keys(&needed()).await.unwrap_err();
    assert_eq!(error.name(), "ConsumersUnproven");
    assert!(error.to_string().contains("declare with CONSUMERS_KEYRING_AWARE=true"), "{error}");
    let accepted = NeededKeys { silence_is_accepted: true, ..needed() };
    assert_eq!(silent().prove_keys(&accepted).await, Ok(()));
    // What is said is never overheard.
    let fake = Fake::new(1, seconds(1.0), |_| Reports("a", &[], &[]));
    assert_eq!(fake.prove_keys(&accepted).await.unwrap_err().name(), "ConsumersUnproven");
}

#[tokio::test(start_paused = true)]
async fn target_that_reports_keys_and_refuses_or_misses_is_told_apart() {
    let fake = Fake::new(1, seconds(1.0), |_| At(Verdict::Refused, "a"));
    assert_eq!(fake.prove_keys(&needed()).await, Err(refused()));
    let fake = Fake::new(2, seconds(1.0), |_| Reports("a", BOTH, &[]));
    let missing = RotationError::InstanceMissing { operation: "verify", seen: 1, expected: 2 };
    assert_eq!(fake.prove_keys(&needed()).await, Err(missing));
    let fake = Fake::new(1, seconds(1.0), |_| Silence);
    assert_eq!(fake.prove_keys(&needed()).await.unwrap_err().name(), "TargetUnavailable");
    let fake = Fake::new(1, seconds(1.0), |_| At(Verdict::Failed(404), "a"));
    assert_eq!(fake.prove_keys(&needed()).await, Err(RotationError::TargetFailed { operation: "verify", status: 404 }));
}
