//! Whether the key that encrypts is worn: AES-GCM allows 2^32 values under one key with nonces that are drawn.
//!
//! The values that are stored are the least that a key has encrypted. The function `reencrypt` counts them and logs what it found; this one
//! has no way to the database, and reads the log. A key that encrypts nothing any more may have as many as it likes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rotation::census::MOST_VALUES;
use rotation::keyring::KeyId;
use rotation::time::format_timestamp;
use serde::Deserialize;

use crate::findings::Findings;

/// What a census of all columns has logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedCensus {
    /// When, by the clock of CloudWatch Logs.
    pub at: SystemTime,
    /// The secret with the keyring.
    pub secret: String,
    /// The key that encrypted then.
    pub primary_key: KeyId,
    /// The keys with half of the values that they may encrypt, or more.
    pub worn_keys: BTreeMap<KeyId, u64>,
}

impl LoggedCensus {
    /// Reads a line that was logged at this time; `None` when it is another's.
    #[must_use]
    pub fn read(line: &str, at: SystemTime) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line {
            message: String,
            secret: String,
            primary_key: KeyId,
            worn_keys: String,
        }
        let Line { message, secret, primary_key, worn_keys } = serde_json::from_str(line).ok()?;
        let worn_keys = serde_json::from_str(&worn_keys).ok()?;
        (message == rotation::census::LOGGED).then_some(Self { at, secret, primary_key, worn_keys })
    }

    /// What that means for the secret, which was last rotated then.
    #[must_use]
    pub fn findings(&self, last_rotated: Option<SystemTime>) -> Findings {
        let (mut findings, at) = (Findings::default(), format_timestamp(self.at));
        let Some(values) = self.worn_keys.get(&self.primary_key) else {
            let half = MOST_VALUES / 2;
            findings.good("nonces", format!("the census of {at} found fewer than {half} values under the primary key"));
            return findings;
        };
        let detail = format!(
            "key {} has encrypted {values} values or more, by the census of {at}, of the {MOST_VALUES} that nonces allow which are drawn",
            self.primary_key
        );
        if last_rotated.is_some_and(|rotated| rotated > self.at) {
            findings.good("nonces", format!("{detail}; the secret was rotated since, and the next census tells"));
        } else {
            let repair = format!(
                "aws secretsmanager rotate-secret --secret-id {} # one more time where the ring had no staged key",
                self.secret
            );
            findings.bad("nonces", detail, repair);
        }
        findings
    }
}
