//! Parts of messages.

use crate::key::KeyId;
use crate::versions::VersionId;

pub(super) fn list(keys: &[KeyId]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn pending_elsewhere(holder: &Option<VersionId>) -> String {
    holder.as_ref().map_or(String::new(), |holder| {
        format!(" ({holder} is AWSPENDING, which this rotation did not create; it has to go first: `aws secretsmanager update-secret-version-stage --version-stage AWSPENDING --remove-from-version-id {holder}`)")
    })
}
