//! The result of a plan about a whole column, before any row of the column is written. Every value is in the configured
//! encoding and format, and the result says how the values are written.
//!
//! A base64 value without `-` and `_` is also base64url. So a wrong `encoding` would rewrite some rows and not others.
//! Therefore a plan reads every row before one row is written. The same read finds the bounds of the ranges, so no
//! estimate can be wrong.

use rotation::census::{Tally, Unreadable};
use rotation::rows::{Encoding, Form, RowFormat};
use serde::{Deserialize, Serialize};

use crate::error::ReencryptError;
use crate::settings::Column;

/// How a column was read from its first row to its last. Without it, a slice writes nothing. A slice also writes
/// nothing when the column's configuration has changed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Understood {
    format: RowFormat,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aad: Vec<String>,
    form: Form,
}

impl Understood {
    /// The result from the counts of a whole column.
    ///
    /// # Errors
    /// [`ReencryptError::ColumnNotUnderstood`] when a value is not as configured.
    pub fn of(column: &Column, tally: &Tally) -> Result<Self, ReencryptError> {
        if tally.foreign == 0 {
            let Column { format, encoding, aad, .. } = column.clone();
            return Ok(Self { format, encoding, aad, form: tally.form });
        }
        let foreign = tally.unreadable.iter().filter(|row| row.state == Unreadable::Foreign);
        let keys: Vec<&str> = foreign.map(|row| row.key.as_str()).collect();
        let problem = format!(
            "{} of {} values are not {}: correct format and encoding in REENCRYPT_COLUMNS, repair these rows, or name them in the column's leave. Their keys begin with {}",
            tally.foreign,
            tally.rows - tally.nulls,
            expected(column),
            keys.join(", ")
        );
        Err(not_understood(column, problem))
    }

    /// The form in which a slice may write, from the plan and the configuration.
    ///
    /// # Errors
    /// [`ReencryptError::ColumnNotUnderstood`] without a plan, or when the configuration differs from the plan's.
    pub fn form(understood: Option<&Self>, column: &Column) -> Result<Form, ReencryptError> {
        let again = |problem: &str| Err(not_understood(column, format!("{problem}: take the ranges of a new plan")));
        let Some(Self { format, encoding, aad, form }) = understood else {
            return again("the range does not come from a plan, which reads the column first");
        };
        if (*format, *encoding, aad) != (column.format, column.encoding, &column.aad) {
            return again("its format, encoding or aad in REENCRYPT_COLUMNS is not the one that the plan read it by");
        }
        let padding = column.padding.map_or((form.padded, form.unpadded), |padded| (padded, !padded));
        Ok(Form {
            padded: padding.0,
            unpadded: padding.1,
            alphabet: form.alphabet || column.encoding.is_some(),
            lines: form.lines,
        })
    }
}

/// The error for a value that came after the plan and is not as configured.
pub(crate) fn has_changed(column: &Column, key: &str) -> ReencryptError {
    let problem = format!("the value of row {key} is not {} any more: make a new plan", expected(column));
    not_understood(column, problem)
}

/// The error for a value, when neither the value nor the other values show how to write the new one.
pub(crate) fn untold(column: &Column, key: &str, untold: rotation::rows::Untold) -> ReencryptError {
    use rotation::rows::Untold;
    let problem = match untold {
        Untold::Padding => {
            "whether its new value is padded: set the column's padding to true or false in REENCRYPT_COLUMNS"
        }
        Untold::Alphabet => "the alphabet of its new value: set the column's encoding in REENCRYPT_COLUMNS",
        Untold::Lines => "where its new value breaks into lines: let the application write it anew",
    };
    not_understood(column, format!("neither row {key} nor the other rows tell {problem}"))
}

fn not_understood(column: &Column, problem: String) -> ReencryptError {
    ReencryptError::ColumnNotUnderstood { column: column.name.clone(), problem }
}

fn expected(column: &Column) -> String {
    let format = match column.format {
        RowFormat::Fernet => "fernet tokens",
        RowFormat::Tink => "tink ciphertexts",
        RowFormat::AesGcm => "aes-gcm ciphertexts",
        RowFormat::AesGcmHex => "aes-gcm-hex ciphertexts",
    };
    let encoding = match column.encoding {
        _ if !column.format.takes_encoding() => "",
        None => " in the usual encoding (binary in a bytea, base64 in a text)",
        Some(Encoding::Binary) => " in binary",
        Some(Encoding::Base64) => " in base64",
        Some(Encoding::Base64Url) => " in base64url",
    };
    format!("{format}{encoding}")
}
