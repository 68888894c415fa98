//! The errors of a credential that an issuer makes.

use super::gives_up::GivesUp;
use crate::versions::VersionId;

crate::named_errors! {
    [GivesUp]
    /// What is wrong with an issuer, or with what it issued. Messages name the function, members and shapes, never a
    /// value. No message repeats a text of the issuer: such a text may hold a value.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum IssuerError {
        /// The issuer's function does not exist.
        #[error(
            "the issuer {function} does not exist: deploy the function, or correct ISSUER_FUNCTION; nothing was issued"
        )]
        IssuerMissing {
            /// The function.
            function: String,
        } => InCreate,
        /// The role may not invoke the issuer, or Lambda refuses the call.
        #[error(
            "the issuer {function} cannot be invoked ({problem}): correct ISSUER_FUNCTION, or give this function's role lambda:InvokeFunction on it; nothing was issued"
        )]
        IssuerDenied {
            /// The function.
            function: String,
            /// The service's words.
            problem: String,
        } => InCreate,
        /// The issuer's concurrency is used up.
        #[error("the issuer {function} is throttled: Secrets Manager will repeat the rotation; nothing was issued")]
        IssuerThrottled {
            /// The function.
            function: String,
        },
        /// The issuer did not answer in time.
        #[error(
            "the issuer {function} did not answer {operation} in time: give it a timeout below ISSUER_TIMEOUT, and look into its log{}",
            made_all_the_same(.operation)
        )]
        IssuerTimedOut {
            /// The function.
            function: String,
            /// The operation of the contract.
            operation: &'static str,
        },
        /// The issuer threw, or could not be reached.
        #[error(
            "the issuer {function} failed at {operation} ({problem}): look into its log{}",
            made_all_the_same(.operation)
        )]
        IssuerFailed {
            /// The function.
            function: String,
            /// The operation of the contract.
            operation: &'static str,
            /// The class of the failure.
            problem: String,
        },
        /// The issuer's answer is not what the contract says.
        #[error(
            "the issuer {function} answered {operation} with {problem}: correct it, functions/issued-credential/contract has the form of every answer; nothing was stored"
        )]
        IssuerAnswer {
            /// The function.
            function: String,
            /// The operation of the contract.
            operation: &'static str,
            /// The shape of the answer.
            problem: String,
        } => InCreate,
        /// The issuer says of a damaged credential that it works.
        #[error(
            "the issuer {function} accepts a damaged credential, so that its answer proves nothing: have verify ask the provider with the members that it is given"
        )]
        IssuerAcceptsAny {
            /// The function.
            function: String,
        } => Always,
        /// The issuer answered create with the credential that is current.
        #[error(
            "the issuer {function} answered with the credential that is already current, so nothing would be rotated: have create make a new one beside it. A provider with one live credential is not for this function: use the action put of operate"
        )]
        CredentialUnchanged {
            /// The function.
            function: String,
        } => InCreate,
        /// The issuer says that a credential does not work.
        #[error(
            "the issuer {function} says that the {which} credential does not work (a pending one is given up): look into the issuer's log, then run rotate-secret again"
        )]
        CredentialRefused {
            /// The function.
            function: String,
            /// `pending`, `new` or `current`.
            which: &'static str,
        } => Always,
        /// The credential in use does not work while a new one is brought in. It stops no rotation: only the new credential
        /// ends the outage. It is told in the log.
        #[error(
            "the issuer {function} says that the credential in use does not work any more: consumers fail until they have the new one, and the rotation goes on; if the provider kills a credential when it makes another one, it is not for this function: use the action put of operate"
        )]
        CurrentRefused {
            /// The function.
            function: String,
        },
        /// The credential ends before anybody could use it.
        #[error("the issuer {function} made a credential for version {version} that has expired already: nothing was stored; correct expires, or the provider's lifetime")]
        CredentialExpired {
            /// The function.
            function: String,
            /// The version.
            version: VersionId,
        } => InCreate,
    }
}

fn made_all_the_same(operation: &str) -> &'static str {
    if operation == "create" { "; a credential that it made all the same is revoked later" } else { "" }
}

impl IssuerError {
    /// The stable name, see `RotationError::name`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.variant()
    }

    /// Whether the issuer is known not to have run.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        matches!(self, Self::IssuerMissing { .. } | Self::IssuerDenied { .. } | Self::IssuerThrottled { .. })
    }

    /// Whether the next try may get an answer.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::IssuerThrottled { .. } | Self::IssuerTimedOut { .. } | Self::IssuerFailed { .. })
    }

    pub(crate) fn gives_up_pending(&self) -> GivesUp {
        self.annotation()
    }
}
