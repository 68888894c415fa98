//! What an error means to the pending version of a rotation.

/// When a rotation gives its own pending version up because of an error. Either no retry can ever promote the version,
/// or the version would block the repair. testSecret is a special case: it may be a test of the configuration, and
/// Secrets Manager removes that version itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivesUp {
    /// In no step: a retry may promote the version.
    Never,
    /// In createSecret. A pending version without a value would block `revoke`, `rollback` and the end of the overlap
    /// for as long as the reason lasts. After it is given up, the retries of Secrets Manager end at `UnknownVersion`,
    /// which points to the first error. In a later step the version stays: it has a value, and a retry promotes it
    /// after the end of a hold.
    InCreate,
    /// In createSecret, setSecret and finishSecret.
    UnlessTested,
    /// In every step.
    Always,
}
