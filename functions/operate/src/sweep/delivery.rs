//! Which current values a consumer lacks.

use rotation::delivery::Delivery;
use rotation::keyring::KEY_SETTINGS;
use rotation::policy::StackPolicy;
use rotation::session::Session;
use rotation::store::{Described, OperationStore};
use rotation::token::TOKEN_SETTINGS;

use crate::delivery::Undelivered;
use crate::error::OperateError;
use crate::kinds::{Kind, OperatedKind};
use crate::session::Operation;
use crate::sweep::context::Sweep;

/// Whether the listing leaves it open that a consumer lacks the current value.
pub(super) fn may_be_undelivered(stack: &StackPolicy, secret: &Described) -> bool {
    stack.has_consumers(&secret.name) && Delivery::of(&secret.versions) != Delivery::Delivered
}

impl Sweep<'_> {
    /// What a consumer lacks of a secret that the listing shows to need a look. The secret is described once more: the
    /// listing may be minutes old.
    ///
    /// # Errors
    /// Those of [`Operation::undelivered`], and a value that cannot be read.
    pub(super) async fn check_delivery<S: OperationStore>(
        &self,
        store: &S,
        secret: &Described,
    ) -> Result<Option<Undelivered>, OperateError> {
        match self.operator.kind_of(secret) {
            Some(Kind::Token) => {
                let stack = self.operator.stack.for_kind(TOKEN_SETTINGS);
                self.undelivered(&self.operator.token, store, &stack, secret).await
            }
            Some(Kind::Keyring) => {
                let stack = self.operator.stack.for_kind(KEY_SETTINGS);
                self.undelivered(self.operator.keyring()?, store, &stack, secret).await
            }
            Some(Kind::Issued) if let Some(kind) = &self.operator.issued => {
                let stack = self.operator.stack_of(Kind::Issued);
                self.undelivered(kind, store, &stack, secret).await
            }
            Some(Kind::Issued | Kind::Other) | None => Ok(None),
        }
    }

    async fn undelivered<K: OperatedKind, S: OperationStore>(
        &self,
        kind: &K,
        store: &S,
        stack: &StackPolicy,
        secret: &Described,
    ) -> Result<Option<Undelivered>, OperateError> {
        let (secret_id, deadline) = (secret.name.as_str(), self.deadline);
        let operation = Operation::new(Session { kind, store, stack, secret_id, deadline });
        let snapshot = operation.value_snapshot().await?;
        Ok(operation.undelivered(&snapshot).await?)
    }
}
