//! What a secret with consumers holds.

use std::time::SystemTime;

use admin_token::AdminToken;
use encryption_key::{Consumers, EncryptionKey};
use issued_credential::issuer::NoIssuer;
use issued_credential::{ISSUED_SETTINGS, IssuedCredential};
use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{KEY_SETTINGS, Keyring};
use rotation::kind::SecretKind;
use rotation::marked_ring::MarkedRing;
use rotation::members::is_same_value;
use rotation::policy::{RotationPolicy, Settings};
use rotation::secret::SecretText;
use rotation::store::{Described, SecretStore};
use rotation::target::http::HttpTarget;
use rotation::token::TOKEN_SETTINGS;

use crate::error::DeliverError;

/// The kinds of secrets. No kind asks an application or an issuer here.
#[derive(Debug)]
pub struct Kinds {
    token: AdminToken<HttpTarget>,
    keys: EncryptionKey<HttpTarget>,
    issued: IssuedCredential<NoIssuer>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self {
            token: AdminToken::new(None),
            keys: EncryptionKey::new(None, Consumers::default()),
            issued: IssuedCredential::new(NoIssuer),
        }
    }
}

/// What a secret holds, by the name of the function that rotates it.
///
/// Of a secret that people rotate nobody knows which members belong together, so the whole value counts.
#[derive(Clone, Copy, Debug)]
pub enum SourceKind<'a> {
    /// A token.
    Token(&'a AdminToken<HttpTarget>),
    /// A keyring.
    Keyring(&'a EncryptionKey<HttpTarget>),
    /// A credential that an issuer makes.
    Issued(&'a IssuedCredential<NoIssuer>),
    /// What people store: nobody rotates it.
    ByHand,
}

/// Calls a method of the kind. What people store has another answer.
macro_rules! of_kind {
    ($self:ident, $kind:ident => $call:expr, by hand => $other:expr) => {
        match $self {
            SourceKind::Token($kind) => $call,
            SourceKind::Keyring($kind) => $call,
            SourceKind::Issued($kind) => $call,
            SourceKind::ByHand => $other,
        }
    };
}

impl<'a> SourceKind<'a> {
    /// The kind of a described secret.
    ///
    /// # Errors
    /// [`DeliverError::SourceUnknown`].
    pub(crate) fn of(kinds: &'a Kinds, secret: &Described) -> Result<Self, DeliverError> {
        match secret {
            _ if secret.is_rotated_by("admin-token") => Ok(Self::Token(&kinds.token)),
            _ if secret.is_rotated_by("encryption-key") => Ok(Self::Keyring(&kinds.keys)),
            _ if secret.is_rotated_by("issued-credential") => Ok(Self::Issued(&kinds.issued)),
            Described { rotation_function: None, rotation_enabled: false, .. } => Ok(Self::ByHand),
            _ => Err(DeliverError::SourceUnknown { name: secret.name.clone() }),
        }
    }

    /// The settings of the kind.
    pub(crate) fn settings(self) -> Settings {
        match self {
            Self::Token(_) => TOKEN_SETTINGS,
            Self::Keyring(_) => KEY_SETTINGS,
            Self::Issued(_) => ISSUED_SETTINGS,
            Self::ByHand => &[],
        }
    }

    pub(crate) fn parse(self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        of_kind!(self, kind => kind.parse(policy, text), by hand => Document::whole(text))
    }

    pub(crate) fn members(self, policy: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        of_kind!(self, kind => kind.members(policy, value), by hand => vec![])
    }

    pub(crate) fn ring(self, policy: &RotationPolicy, value: &Document) -> Result<Option<Keyring>, RotationError> {
        of_kind!(self, kind => kind.ring(policy, value), by hand => Ok(None))
    }

    /// Requires that `current`, the value of `version`, has every key of the marked ring. No read while it is marked.
    pub(crate) async fn require_all_keys<S: SecretStore>(
        self,
        marked: MarkedRing<'_, S>,
        policy: &RotationPolicy,
        (version, current): (&VersionId, &Document),
    ) -> Result<(), RotationError> {
        of_kind!(
            self,
            kind => marked.require_all(kind, policy, version, current).await.map(drop),
            by hand => Ok(())
        )
    }

    pub(crate) fn needs_no_delivery(
        self,
        policy: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        now: SystemTime,
    ) -> Result<bool, RotationError> {
        of_kind!(
            self,
            kind => kind.needs_no_delivery(policy, delivered, current, now),
            by hand => Ok(is_same_value(delivered.text(), current.text()))
        )
    }
}
