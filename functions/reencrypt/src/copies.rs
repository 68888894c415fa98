//! Columns that look like ciphertexts of the ring and are not in the configuration: an audit table, a backup of a column, a table that
//! somebody forgot. Their rows do not follow the key, and need it after it is retired.
//!
//! Only what the function's user may read is looked at. A value that is bound to associated data, of a format that names no key, looks
//! like anything.
//!
//! A column that was found keeps a key from being retired, until it is listed, or excused by name in `REENCRYPT_COLUMNS`. One that could
//! not be looked at (`notLookedAt`) does not. It is no evidence: a sample proves no absence either, and what the user may not read, or is in another
//! database, is not even counted. Were it to refuse a retirement, a database with more columns than a census looks at would never retire a
//! key, and the way out would be to take `SELECT` away from the user, which finds less. So a census says how many there were, and the log
//! which; whoever knows the database lists or excuses those that hold ciphertexts, and a key that leaves the ring stays in the archive for
//! `KEY_ARCHIVE_RETENTION`.

use rotation::census::ColumnName;
use rotation::deadline::Deadline;
use rotation::keyring::{Ciphers, KeyFormat};
use rotation::rows::{Encoding, Opened, RowCodec, RowFormat};
use tokio_postgres::Row;

use crate::database::Session;
use crate::error::ReencryptError;
use crate::job::LOG;
use crate::settings::Settings;
use crate::table::{Raw, get};

/// More columns than these are not looked at.
const MOST_COLUMNS: usize = 1000;
/// So many names are told.
const MOST_TOLD: usize = 20;

const COLUMNS: &str = "\
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.attname::pg_catalog.text,
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), pg_catalog.quote_ident(a.attname),
    b.oid = 'pg_catalog.bytea'::pg_catalog.regtype
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
    AND (b.oid = 'pg_catalog.bytea'::pg_catalog.regtype OR b.typcategory = 'S')
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY 1, 2, 3";

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Columns that look like ciphertexts of the ring, are not in the configuration, and are not excused in it.
    pub(crate) unlisted: Vec<String>,
    /// Columns that could not be looked at: there was no time, or the database refused.
    pub(crate) not_looked_at: usize,
}

/// Looks at a sample of every text and `bytea` that the user may read, until `stop`.
pub(crate) async fn find(
    session: &Session,
    settings: &Settings,
    ciphers: &Ciphers,
    stop: Deadline,
) -> Result<Copies, ReencryptError> {
    let columns = session.query(COLUMNS, &[]).await?;
    let mut copies = Copies { not_looked_at: columns.len().saturating_sub(MOST_COLUMNS), ..Copies::default() };
    let mut unread = vec![];
    for row in columns.iter().take(MOST_COLUMNS) {
        let name = ColumnName { schema: get(row, 0)?, table: get(row, 1)?, column: get(row, 2)? };
        if settings.column(&name).is_some() || settings.excused.contains(&name) {
            continue;
        }
        match sample(session, row, stop).await? {
            None => {
                copies.not_looked_at += 1;
                unread.push(name.to_string());
            }
            Some(values) if copies.unlisted.len() < MOST_TOLD => {
                if values.iter().any(|value| looks_like(settings, ciphers, value)) {
                    copies.unlisted.push(name.to_string());
                }
            }
            Some(_) => break,
        }
    }
    if !unread.is_empty() {
        unread.truncate(MOST_TOLD);
        let columns = unread.join(", ");
        tracing::warn!(target: LOG, columns, "columns were not looked at: whether they hold ciphertexts of the ring is not known");
    }
    Ok(copies)
}

/// Some values of a column; `None` when they cannot be read.
async fn sample(session: &Session, column: &Row, stop: Deadline) -> Result<Option<Vec<Vec<u8>>>, ReencryptError> {
    if stop.left().is_zero() {
        return Ok(None);
    }
    let (table, quoted, is_bytes): (String, String, bool) = (get(column, 3)?, get(column, 4)?, get(column, 5)?);
    let value = if is_bytes { format!("t.{quoted}") } else { format!("t.{quoted}::pg_catalog.text") };
    let statement = format!(
        "SELECT s.value FROM (SELECT {value} AS value FROM {table} AS t LIMIT 1000) AS s \
         WHERE pg_catalog.octet_length(s.value) OPERATOR(pg_catalog.>=) 28 AND pg_catalog.octet_length(s.value) OPERATOR(pg_catalog.<=) 100000 LIMIT 20"
    );
    let Ok(rows) = session.query(&statement, &[]).await else { return Ok(None) };
    rows.iter().map(|row| Ok(get::<Raw<'_>>(row, 0)?.0.to_vec())).collect::<Result<_, _>>().map(Some)
}

/// Whether a value is a ciphertext that the ring opens, that names one of its keys, or that has a form which nothing else has.
fn looks_like(settings: &Settings, ciphers: &Ciphers, value: &[u8]) -> bool {
    use Encoding::{Base64, Base64Url, Binary};
    let ring = settings.columns.first().map(|column| column.format.ring());
    let forms: &[(RowFormat, Encoding)] = match ring {
        Some(KeyFormat::Fernet) => &[(RowFormat::Fernet, Base64Url)],
        Some(KeyFormat::Tink) => &[(RowFormat::Tink, Binary), (RowFormat::Tink, Base64), (RowFormat::Tink, Base64Url)],
        Some(KeyFormat::Raw) => &[
            (RowFormat::AesGcmHex, Binary),
            (RowFormat::AesGcm, Binary),
            (RowFormat::AesGcm, Base64),
            (RowFormat::AesGcm, Base64Url),
        ],
        None => &[],
    };
    forms.iter().any(|(format, encoding)| match RowCodec::new(*format, *encoding, ciphers).open(value, &[]) {
        Opened::Under(..) | Opened::Damaged => true,
        Opened::Unknown => matches!(format, RowFormat::Fernet | RowFormat::AesGcmHex),
        Opened::Foreign => false,
    })
}
