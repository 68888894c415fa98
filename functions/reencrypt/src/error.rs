//! Errors of the worker. Each variant has one stable name and says what to do. No error holds a value of a row or a
//! secret.

use lambda_runtime::Diagnostic;
use rotation::census::ColumnName;
use rotation::error::RotationError;
use rotation::store::StoreError;

rotation::named_errors! {
    /// Why a request failed.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum ReencryptError {
        /// The event is not a request.
        #[error("event member {member}: {problem}")]
        InvalidRequest {
            /// The member of the event.
            member: &'static str,
            /// The rule that it breaks.
            problem: String,
        },
        /// The configuration names a column that cannot be re-encrypted.
        #[error("column {column}: {problem}")]
        UnusableColumn {
            /// The column.
            column: ColumnName,
            /// The fault of the column, or of its table.
            problem: String,
        },
        /// A value of a column is not as configured, or no value shows how to write a new one.
        #[error("column {column} is not understood, and none of its rows is written: {problem}")]
        ColumnNotUnderstood {
            /// The column.
            column: ColumnName,
            /// The number of values, the rows, and the repair.
            problem: String,
        },
        /// The table itself changes a written value, so that no reader could open it.
        #[error(
            "column {column} or a column of its aad is changed by the table when row {row} is written: the batch was undone; look at the table's triggers, rules and generated columns, and let them leave alone what re-encryption writes"
        )]
        ColumnChangesOnWrite {
            /// The column.
            column: ColumnName,
            /// The primary key of one such row.
            row: String,
        },
        /// The secret has no user and password of a database.
        #[error(
            "secret {secret} (DATABASE_SECRET) holds no user and password of a database: expected a JSON object with the texts username and password"
        )]
        DatabaseSecretInvalid {
            /// The secret's name or ARN, as configured.
            secret: String,
        },
        /// The database does not answer, or the connection broke.
        #[error(
            "the database at {place} does not answer ({problem}): check DATABASE_HOST, DATABASE_PORT, DATABASE_CA_FILE, this function's subnets and security groups; rows that were written are written, and the request can be repeated"
        )]
        DatabaseUnavailable {
            /// Host and port.
            place: String,
            /// The cause.
            problem: String,
        },
        /// The database refuses a statement.
        #[error(
            "the database refuses ({problem}): check what the user in DATABASE_SECRET may do, and the table's constraints and triggers"
        )]
        DatabaseRefused {
            /// The SQLSTATE, with the message where it cannot hold a value.
            problem: String,
        },
        /// The database was busy in every try.
        #[error("the database could not do that in time ({problem}): repeat the request")]
        DatabaseBusy {
            /// The SQLSTATE.
            problem: String,
        },
        /// An error that a rotation can also have.
        #[error(transparent)]
        Rotation(#[from] RotationError),
    }
}

impl From<StoreError> for ReencryptError {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

impl ReencryptError {
    /// The stable name, which is the `errorType` of the invocation.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rotation(error) => error.name(),
            own => own.variant(),
        }
    }
}

impl From<ReencryptError> for Diagnostic {
    fn from(error: ReencryptError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}
