//! The proof that an application refuses a token.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Asked, Operation, Round, Target};
use crate::deadline::Deadline;
use crate::error::RotationError;
use crate::secret::SecretText;

/// This number of refusals in a row counts for all instances, if no instance ids tell the instances apart.
const REFUSALS_IN_A_ROW: usize = 5;

/// Proves that every instance refuses `token`. No number of refusals outvotes an instance that accepts the token. That
/// instance must refuse the token itself. If instances have no ids, five answers in a row must be refusals.
///
/// # Errors
/// [`RotationError::TargetAcceptsRevoked`] if an instance still accepts the token at the end of the time, and those of
/// [`refresh`](super::refresh).
pub async fn prove_refused(
    target: &impl Target,
    secret_name: &str,
    token: &SecretText,
    deadline: Deadline,
) -> Result<(), RotationError> {
    hear_refusals(target, secret_name, token, Acceptance::MayEnd, deadline).await
}

/// Whether every instance refuses `token` already. `false` as soon as one accepts it: nothing was done that could change
/// that. The refusals that count are those of [`prove_refused`].
///
/// # Errors
/// Those of [`refresh`](super::refresh).
pub async fn is_refused(
    target: &impl Target,
    secret_name: &str,
    token: &SecretText,
    deadline: Deadline,
) -> Result<bool, RotationError> {
    match hear_refusals(target, secret_name, token, Acceptance::Stays, deadline).await {
        Ok(()) => Ok(true),
        Err(RotationError::TargetAcceptsRevoked) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The expectation for an instance that accepts a token which all instances have to refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acceptance {
    /// The instance may refuse the token a moment later, because it was told to load the secret.
    MayEnd,
    /// The instance was told nothing.
    Stays,
}

/// Asks until every instance has refused `token`.
async fn hear_refusals(
    target: &impl Target,
    secret_name: &str,
    token: &SecretText,
    acceptance: Acceptance,
    deadline: Deadline,
) -> Result<(), RotationError> {
    let expected = target.settings().expected_instances();
    let told_apart = target.settings().instances.is_some();
    let mut round = Round::new(target, Operation::Verify, secret_name, deadline);
    let (mut refusing, mut accepting) = (BTreeSet::new(), BTreeSet::new());
    let mut in_a_row = 0;
    loop {
        let asked = round.ask(token).await?;
        let instance = round.last_instance.take();
        match asked {
            Asked::Accepted if acceptance == Acceptance::Stays => return Err(RotationError::TargetAcceptsRevoked),
            Asked::Accepted => {
                in_a_row = 0;
                refusing.remove(&instance);
                accepting.insert(instance);
            }
            Asked::Refused => {
                in_a_row += 1;
                if instance.is_some() || in_a_row >= REFUSALS_IN_A_ROW {
                    accepting.remove(&instance);
                }
                refusing.insert(instance);
            }
            Asked::NoAnswer => {}
        }
        let enough = if told_apart {
            accepting.is_empty() && refusing.len() >= expected
        } else {
            in_a_row >= REFUSALS_IN_A_ROW && accepting.is_empty()
        };
        if enough {
            return Ok(());
        }
        round.turn += 1;
        // Every instance gets its turn without a pause.
        let at_once = asked == Asked::Refused && (!told_apart || !round.turn.is_multiple_of(expected));
        let pause = if at_once { Duration::ZERO } else { round.longer_pause() };
        if !round.is_in_vain() && round.deadline.pause(pause).await {
            continue;
        }
        let (operation, seen) = (round.operation.name(), refusing.len());
        return Err(match asked {
            _ if !accepting.is_empty() => RotationError::TargetAcceptsRevoked,
            Asked::NoAnswer if seen == 0 => {
                RotationError::TargetUnavailable { operation, problem: round.last_problem.clone() }
            }
            _ => RotationError::InstanceMissing { operation, seen, expected },
        });
    }
}
