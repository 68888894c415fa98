//! Accepts three tokens: current, pending, and previous until its time. For a JSON secret.
use aws_sdk_secretsmanager::Client;
use jiff::Timestamp;
use subtle::{Choice, ConstantTimeEq as _};

use super::secret::{Failure, read, text};

/// The tokens that are accepted. Read them at start, on a refresh, and every few minutes; keep the old ones when a read fails.
pub(crate) struct Tokens(Vec<(String, Option<Timestamp>)>);

impl Tokens {
    pub(crate) async fn read(client: &Client, secret_id: &str, member: &str) -> Result<Self, Failure> {
        let current = read(client, secret_id, "AWSCURRENT").await?.ok_or("the secret has no value")?;
        let pending = read(client, secret_id, "AWSPENDING").await?;
        let unlimited = [Some(&current), pending.as_ref()].into_iter().flatten().filter_map(|one| text(one, member));
        let mut tokens: Vec<_> = unlimited.map(|token| (token.to_owned(), None)).collect();
        let previous = text(&current, &format!("{member}_PREVIOUS"));
        let until = text(&current, &format!("{member}_PREVIOUS_UNTIL")).and_then(|until| until.parse().ok());
        tokens.extend(previous.zip(until).map(|(token, until)| (token.to_owned(), Some(until))));
        Ok(Self(tokens))
    }

    pub(crate) fn accepts(&self, token: &str) -> bool {
        let accepted = self.0.iter().filter(|(_, until)| until.is_none_or(|until| Timestamp::now() < until));
        // Each comparison is made, and each takes the same time.
        accepted.fold(Choice::from(0), |any, (one, _)| any | one.as_bytes().ct_eq(token.as_bytes())).into()
    }
}
