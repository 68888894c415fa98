//! Whether every instance refuses a token: already, or by the end of the time.

use rotation::target::refusal::{is_refused, prove_refused};

use super::*;

async fn already<F: Fn(&Call) -> Reply + Sync>(fake: &Fake<F>) -> Result<bool, RotationError> {
    is_refused(fake, NAME, &secret(OLD), Deadline::after(LONG)).await
}

#[tokio::test(start_paused = true)]
async fn one_acceptance_says_at_once_that_a_token_is_not_refused() {
    let fake = Fake::new(2, seconds(10.0), |call| match call.number {
        0 => At(Verdict::Refused, "a"),
        _ => At(Verdict::Accepted, "b"),
    });
    assert_eq!(already(&fake).await, Ok(false));
    assert_eq!((fake.calls().len(), fake.elapsed()), (2, Duration::ZERO));
    // Who was told to load the secret may refuse it later, and is waited for.
    let end = prove_refused(&fake, NAME, &secret(OLD), Deadline::after(LONG)).await;
    assert_eq!(end, Err(RotationError::TargetAcceptsRevoked));
    assert!(fake.elapsed() >= seconds(10.0), "{:?}", fake.elapsed());
}

#[tokio::test(start_paused = true)]
async fn every_instance_has_to_refuse_a_token() {
    let fake = Fake::new(2, seconds(10.0), |call| At(Verdict::Refused, INSTANCES[call.number % 2]));
    assert_eq!((already(&fake).await, fake.calls().len()), (Ok(true), 2));
    // Without ids one refusal says nothing of the other instances.
    let fake = Fake::new(0, seconds(10.0), |_| Anonymous(Verdict::Refused));
    assert_eq!((already(&fake).await, fake.calls().len()), (Ok(true), 5));
    let fake = Fake::new(0, seconds(10.0), |call| {
        Anonymous(if call.number == 4 { Verdict::Accepted } else { Verdict::Refused })
    });
    assert_eq!(already(&fake).await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn silence_is_no_refusal() {
    let fake = Fake::new(1, seconds(10.0), |_| Broken("refused"));
    assert_eq!(already(&fake).await.unwrap_err().name(), "TargetUnavailable");
    let fake = Fake::new(2, seconds(10.0), |_| At(Verdict::Refused, "a"));
    let missing = RotationError::InstanceMissing { operation: "verify", seen: 1, expected: 2 };
    assert_eq!(already(&fake).await, Err(missing));
}
