//! Unlisted copies: columns that look like ciphertexts of the ring but are not in the configuration. Examples are an
//! audit table, a backup of a column, or a forgotten table. The function does not rewrap their rows, so they still need
//! a key after it is retired.
//!
//! The function samples only columns that its database user may read. It cannot recognise a value with associated data
//! in a format that names no key.
//!
//! A found column blocks the retirement of a key, until `REENCRYPT_COLUMNS` lists or excuses the column by name.
//!
//! A column that could not be sampled (`notLookedAt`) does not block it:
//!
//! - A sample proves no absence either. Columns that the user may not read, or in another database, are not even
//!   counted.
//! - If it blocked, a database with more columns than a census samples could never retire a key. The way out would be
//!   to revoke the user's `SELECT`, and then the function finds less.
//! - So the census reports the number of such columns, and the log names them. An engineer who knows the database lists
//!   or excuses those that hold ciphertexts. A retired key stays in the archive for `KEY_ARCHIVE_RETENTION`.

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

/// The most columns that one census samples.
const MOST_COLUMNS: usize = 1000;
/// The most names of columns in an answer or a log line.
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

/// The columns that the search found, and those it could not sample.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Columns that look like ciphertexts of the ring, and that the configuration neither lists nor excuses.
    pub(crate) unlisted: Vec<String>,
    /// The number of columns without a sample: too many columns, no time left, or refused by the database.
    pub(crate) not_looked_at: usize,
}

/// Samples every text and `bytea` column that the user may read, until `stop`.
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

/// Up to 20 values of 28 to 100,000 bytes, from up to 1,000 rows. `None` when the column cannot be read.
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

/// Whether the ring opens a value, or the value names a key of the ring, or its form belongs to ciphertexts only.
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
