//! Why a request was not done: every variant has one stable name, says what to do, and holds no value of a row or a secret.

use lambda_runtime::Diagnostic;
use rotation::census::ColumnName;
use rotation::error::RotationError;
use rotation::store::StoreError;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReencryptError {
    /// The event is not a request.
    #[error("event member {member}: {problem}")]
    InvalidRequest {
        /// The member.
        member: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration names a column that cannot be re-encrypted.
    #[error("column {column}: {problem}")]
    UnusableColumn {
        /// Which.
        column: ColumnName,
        /// What is wrong with it, or its table.
        problem: String,
    },
    /// Not every value of a column is as configured, or it does not show how a new one is to be written.
    #[error("column {column} is not understood, and none of its rows is written: {problem}")]
    ColumnNotUnderstood {
        /// Which.
        column: ColumnName,
        /// How many values, of which rows, and what to do.
        problem: String,
    },
    /// The table itself changes what is written, so that nobody could open it.
    #[error(
        "column {column} or a column of its aad is changed by the table when row {row} is written: the batch was undone; look at the table's triggers, rules and generated columns, and let them leave alone what re-encryption writes"
    )]
    ColumnChangesOnWrite {
        /// Which.
        column: ColumnName,
        /// The primary key of a row where it happened.
        row: String,
    },
    /// The secret with the database's user and password is not as expected.
    #[error(
        "secret {secret} (DATABASE_SECRET) holds no user and password of a database: expected a JSON object with the texts username and password"
    )]
    DatabaseSecretInvalid {
        /// The secret, as configured.
        secret: String,
    },
    /// There is no connection to the database, or it broke.
    #[error(
        "the database at {place} does not answer ({problem}): check DATABASE_HOST, DATABASE_PORT, DATABASE_CA_FILE, this function's subnets and security groups; rows that were written are written, and the request can be repeated"
    )]
    DatabaseUnavailable {
        /// Host and port.
        place: String,
        /// Why.
        problem: String,
    },
    /// The database refuses.
    #[error(
        "the database refuses ({problem}): check what the user in DATABASE_SECRET may do, and the table's constraints and triggers"
    )]
    DatabaseRefused {
        /// The SQLSTATE, and the message where it cannot hold a value.
        problem: String,
    },
    /// The database could not do it now, again and again.
    #[error("the database could not do that in time ({problem}): repeat the request")]
    DatabaseBusy {
        /// The SQLSTATE.
        problem: String,
    },
    /// What also ends rotations.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

impl From<StoreError> for ReencryptError {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

impl ReencryptError {
    /// The stable name: `errorType` of the invocation.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "InvalidRequest",
            Self::UnusableColumn { .. } => "UnusableColumn",
            Self::ColumnNotUnderstood { .. } => "ColumnNotUnderstood",
            Self::ColumnChangesOnWrite { .. } => "ColumnChangesOnWrite",
            Self::DatabaseSecretInvalid { .. } => "DatabaseSecretInvalid",
            Self::DatabaseUnavailable { .. } => "DatabaseUnavailable",
            Self::DatabaseRefused { .. } => "DatabaseRefused",
            Self::DatabaseBusy { .. } => "DatabaseBusy",
            Self::Rotation(error) => error.name(),
        }
    }
}

impl From<ReencryptError> for Diagnostic {
    fn from(error: ReencryptError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}
