//! A configured column as the database knows it, and the statements about its rows.
//!
//! Configured names reach the database only as parameters of a query on its catalogue. Statements contain only names
//! that the catalogue returns, quoted by the server itself. So a name with a meaning in SQL is only a name that no
//! table has.
//!
//! A statement compares a row by its version `xmin`, the id of the transaction that wrote the row. Every write changes
//! `xmin`, so `xmin` stands for the ciphertext and for the columns of its associated data. Comparing ciphertexts would
//! send each one twice, and take a tenth of the server's time. If a session writes another column of a row, the
//! function reads the row once more.
//!
//! Tables that other tables inherit from are refused: there neither key nor version identifies a row.

use std::collections::HashSet;

use bytes::BytesMut;
use rotation::keyring::Ciphers;
use rotation::rows::{Encoding, RowCodec};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::database::{CHANGED, CHANGED_END, Parameter, Rows, Session, Trouble};
use crate::error::ReencryptError;
use crate::request::Range;
use crate::settings::Column;
use crate::understood::Understood;

/// The bytes of a value in the database's binary format. For a text or a `bytea` they are the value itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Raw<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The type of a column with ciphertexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bytes,
}

/// A column with rows that can be read and written.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) column: &'a Column,
    kind: Kind,
    /// Quoted, like all names below.
    table: String,
    value: String,
    key: String,
    /// The type and collation of the primary key, to which a text is cast before a comparison. The collation of the
    /// column need not be that of its type.
    key_type: String,
    /// The columns that a read returns: the primary key as text, the version, the value, the columns of the associated
    /// data.
    read: String,
    aad: Vec<(Kind, String)>,
    /// Whether the table has triggers or rules. Their effects after a statement are not visible to that statement.
    pub(crate) has_triggers: bool,
}

const TABLE: &str = "\
SELECT c.oid::pg_catalog.int8, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), c.relkind::pg_catalog.text,
    EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
    c.relhasrules OR EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE NOT g.tgisinternal
        AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid))))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2";

/// A domain counts as its base type.
const ATTRIBUTE: &str = "\
SELECT pg_catalog.quote_ident(a.attname),
    CASE WHEN b.oid = 'pg_catalog.bytea'::pg_catalog.regtype THEN 'bytes' WHEN b.typcategory = 'S' THEN 'text' ELSE 'other' END,
    a.attgenerated::pg_catalog.text
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
WHERE a.attrelid = $1::pg_catalog.int8::pg_catalog.oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";

/// With -1 for its length, a `char(n)` is named `bpchar`. A cast to `bpchar` cuts nothing off.
const PRIMARY_KEY: &str = "\
SELECT i.indnkeyatts::pg_catalog.int8, pg_catalog.quote_ident(a.attname),
    pg_catalog.format_type(a.atttypid, -1) || COALESCE(' COLLATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname), ''),
    a.attname::pg_catalog.text
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
WHERE i.indrelid = $1::pg_catalog.int8::pg_catalog.oid AND i.indisprimary";

const NOT_AS_ASKED: &str = "the catalogue does not answer as PostgreSQL's does";

impl<'a> Source<'a> {
    /// Looks up the column in the catalogue.
    pub(crate) async fn find(session: &Session, column: &'a Column) -> Result<Self, ReencryptError> {
        let name = &column.name;
        let unusable = |problem: String| ReencryptError::UnusableColumn { column: name.clone(), problem };
        let tables = session.query(TABLE, &[(&name.schema, Type::TEXT), (&name.table, Type::TEXT)]).await?;
        let Some(row) = tables.first() else {
            let problem = "there is no such table; REENCRYPT_COLUMNS takes names as the database stores them, in their case and without quotes";
            return Err(unusable(problem.to_owned()));
        };
        let (oid, table, kind, has_children): (i64, String, String, bool) =
            (get(row, 0)?, get(row, 1)?, get(row, 2)?, get(row, 3)?);
        let has_triggers = get(row, 4)?;
        match (kind.as_str(), has_children) {
            ("r", false) | ("p", _) => {}
            ("r", true) => {
                let problem = "other tables inherit from its table, whose rows the primary key does not tell apart";
                return Err(unusable(problem.to_owned()));
            }
            _ => return Err(unusable("is not in a table but in a view or something else".to_owned())),
        }
        let attribute = async |column: &String| -> Result<(String, String, String), ReencryptError> {
            let found = session.query(ATTRIBUTE, &[(&oid, Type::INT8), (column, Type::TEXT)]).await?;
            let row = found.first().ok_or_else(|| unusable(format!("the table has no column {column}")))?;
            Ok((get(row, 0)?, get(row, 1)?, get(row, 2)?))
        };
        let (value, kind, generated) = attribute(&name.column).await?;
        let kind = match kind.as_str() {
            "text" => Kind::Text,
            "bytes" => Kind::Bytes,
            _ => return Err(unusable("is neither a text nor a bytea".to_owned())),
        };
        if !generated.is_empty() {
            return Err(unusable("is generated by the database".to_owned()));
        }
        if kind == Kind::Text && column.format.takes_encoding() && column.encoding == Some(Encoding::Binary) {
            return Err(unusable("is a text, which cannot hold the encoding binary".to_owned()));
        }
        let keys = session.query(PRIMARY_KEY, &[(&oid, Type::INT8)]).await?;
        let Some(row) = keys.first() else {
            return Err(unusable("the table has no primary key, by which its rows could be told apart".to_owned()));
        };
        let (columns, key, key_type, key_name): (i64, String, String, String) =
            (get(row, 0)?, get(row, 1)?, get(row, 2)?, get(row, 3)?);
        if columns != 1 {
            return Err(unusable(format!(
                "the table's primary key has {columns} columns, and only keys of one column are supported"
            )));
        }
        if key_name == name.column {
            return Err(unusable("is the table's primary key".to_owned()));
        }
        let mut read = vec![format!("t.{key}::pg_catalog.text"), "t.xmin".to_owned(), value_of(kind, &value)];
        let mut aad = vec![];
        for column in &column.aad {
            let (quoted, kind, _) = attribute(column).await?;
            let kind = if kind == "bytes" { Kind::Bytes } else { Kind::Text };
            read.push(value_of(kind, &quoted));
            aad.push((kind, quoted));
        }
        Ok(Self { column, kind, table, value, key, key_type, read: read.join(", "), aad, has_triggers })
    }

    /// The codec of the column.
    pub(crate) fn codec<'c>(&self, ciphers: &'c Ciphers) -> RowCodec<'c> {
        let usual = if self.kind == Kind::Text { Encoding::Base64 } else { Encoding::Binary };
        RowCodec::new(self.column.format, self.column.encoding.unwrap_or(usual), ciphers)
    }

    /// Whether the configuration leaves the row with this primary key unchanged.
    pub(crate) fn leaves(&self, key: &str) -> bool {
        self.column.leave.contains(key)
    }

    /// The next rows of a range, in the order of their primary keys.
    pub(crate) async fn read(
        &self,
        session: &Session,
        after: Option<&str>,
        through: Option<&str>,
        rows: usize,
    ) -> Result<Rows, Trouble> {
        let Self { table, key, key_type, read, .. } = self;
        let bounds = [after.map(|key| (">", key)), through.map(|key| ("<=", key))];
        let bounds: Vec<_> = bounds.into_iter().flatten().collect();
        let conditions = (1..)
            .zip(&bounds)
            .map(|(number, (operator, _))| format!("t.{key} {operator} ${number}::pg_catalog.text::{key_type}"));
        let conditions: Vec<_> = conditions.collect();
        let condition =
            if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
        let statement = format!("SELECT {read} FROM {table} AS t {condition} ORDER BY t.{key} LIMIT {rows}");
        let parameters: Vec<Parameter<'_>> =
            bounds.iter().map(|(_, key)| (key as &(dyn ToSql + Sync), Type::TEXT)).collect();
        session.query_some(&statement, &parameters).await
    }

    /// The rows with these primary keys.
    pub(crate) async fn read_again(&self, session: &Session, keys: &[&str]) -> Result<Vec<Row>, Trouble> {
        let Self { table, key, key_type, read, .. } = self;
        let statement = format!(
            "SELECT {read} FROM {table} AS t WHERE t.{key} IN (SELECT pg_catalog.unnest($1::pg_catalog.text[])::{key_type}) ORDER BY t.{key}"
        );
        session.query(&statement, &[(&keys, Type::TEXT_ARRAY)]).await
    }

    /// Replaces the values of rows that nobody has written since the read. Returns the keys of the replaced rows.
    ///
    /// Every write of a row makes a new version, with the id of another transaction. `busy` sets whether the statement
    /// waits for a row that another transaction has locked, or leaves it out. The database stores exactly the new
    /// values, or nothing.
    ///
    /// # Errors
    /// [`ReencryptError::ColumnChangesOnWrite`] when a trigger, a rule or the column's type stores another value. The
    /// same error when the stored associated data is not the data that the value is bound to.
    pub(crate) async fn write(
        &self,
        session: &Session,
        changes: &[Change<'_>],
        busy: Busy,
    ) -> Result<Vec<Row>, Trouble> {
        let written = if self.has_triggers {
            self.write_and_look(session, changes, busy).await
        } else {
            self.update(session, changes, busy).await
        };
        written.map_err(|trouble| match trouble {
            Trouble::Changed(row) => {
                Trouble::Failed(ReencryptError::ColumnChangesOnWrite { column: self.column.name.clone(), row })
            }
            other => other,
        })
    }

    /// One `UPDATE` that compares the rows that it returns. The changes are in the order of their keys. To join them,
    /// the database searches only between the first key and the last key, not in the whole table.
    async fn update(&self, session: &Session, changes: &[Change<'_>], busy: Busy) -> Result<Vec<Row>, Trouble> {
        let Self { table, value, key, key_type, .. } = self;
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return Ok(vec![]) };
        let meant = Meant::of(self, changes);
        let versions: Vec<Raw<'_>> = changes.iter().map(|change| Raw(change.version)).collect();
        let (first, last) = (first.key, last.key);
        let mut parameters = meant.parameters();
        parameters.extend([
            (&versions as &(dyn ToSql + Sync), Type::XID_ARRAY),
            (&first, Type::TEXT),
            (&last, Type::TEXT),
        ]);
        let number = parameters.len();
        let between = |row: &str| {
            format!(
                "{row}.{key} >= ${}::pg_catalog.text::{key_type} AND {row}.{key} <= ${number}::pg_catalog.text::{key_type}",
                number - 1
            )
        };
        let free = match busy {
            Busy::Wait => String::new(),
            Busy::Skip => format!(
                " AND t.{key} IN (SELECT l.{key} FROM {table} AS l WHERE {} \
                 AND l.{key} IN (SELECT pg_catalog.unnest($1::pg_catalog.text[])::{key_type}) FOR NO KEY UPDATE SKIP LOCKED)",
                between("l")
            ),
        };
        let statement = format!(
            "UPDATE {table} AS t SET {value} = v.new \
             FROM (SELECT {}, pg_catalog.unnest(${}::pg_catalog.xid[]) AS version) AS v \
             WHERE t.{key} = v.id::{key_type} AND {} AND t.xmin OPERATOR(pg_catalog.=) v.version{free} \
             RETURNING CASE WHEN {} THEN v.id ELSE {} END",
            meant.columns(),
            number - 2,
            between("t"),
            self.as_meant(),
            changed("v.id")
        );
        session.query(&statement, &parameters).await
    }

    /// [`update`](Self::update) for a table with triggers or rules. It reads the rows again before any other session
    /// sees them.
    async fn write_and_look(&self, session: &Session, changes: &[Change<'_>], busy: Busy) -> Result<Vec<Row>, Trouble> {
        session.execute("BEGIN").await?;
        let looking = async {
            let written = self.update(session, changes, busy).await?;
            session.execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
            self.look(session, changes, &written).await?;
            Ok(written)
        };
        match looking.await {
            Ok(written) => session.execute("COMMIT").await.map(|()| written),
            Err(trouble) => {
                // If the ROLLBACK fails too, the connection has ended, and the transaction with it.
                let _ = session.execute("ROLLBACK").await;
                Err(trouble)
            }
        }
    }

    /// Compares the written rows with the intended values.
    async fn look(&self, session: &Session, changes: &[Change<'_>], written: &[Row]) -> Result<(), Trouble> {
        let Self { table, key, key_type, .. } = self;
        let written: Result<HashSet<&str>, _> = written.iter().map(|row| get(row, 0)).collect();
        let written = written.map_err(Trouble::Failed)?;
        let changes: Vec<&Change<'_>> = changes.iter().filter(|change| written.contains(change.key)).collect();
        let meant = Meant::of(self, changes);
        let statement = format!(
            "SELECT {} FROM (SELECT {}) AS v LEFT JOIN {table} AS t ON t.{key} = v.id::{key_type} \
             WHERE ({}) IS NOT TRUE LIMIT 1",
            changed("v.id"),
            meant.columns(),
            self.as_meant()
        );
        session.query(&statement, &meant.parameters()).await.map(drop)
    }

    /// The condition that the row `t` equals `v` byte for byte, even if the collation of a column treats other bytes as
    /// equal.
    fn as_meant(&self) -> String {
        let value = equal(self.kind, &self.value, "v.new");
        let aad =
            self.aad.iter().enumerate().map(|(number, (kind, quoted))| equal(*kind, quoted, &format!("v.aad{number}")));
        std::iter::once(value).chain(aad).collect::<Vec<_>>().join(" AND ")
    }
}

/// The intended values of rows, as parameters of a statement.
struct Meant<'a> {
    keys: Vec<&'a str>,
    kind: Kind,
    new: Vec<Raw<'a>>,
    aad: Vec<(Kind, Vec<Raw<'a>>)>,
}

impl<'a> Meant<'a> {
    fn of(source: &Source<'_>, changes: impl IntoIterator<Item = &'a Change<'a>>) -> Self {
        let aad = source.aad.iter().map(|(kind, _)| (*kind, vec![])).collect();
        let mut meant = Self { keys: vec![], kind: source.kind, new: vec![], aad };
        for change in changes {
            meant.keys.push(change.key);
            meant.new.push(Raw(&change.new));
            for ((_, values), value) in meant.aad.iter_mut().zip(&change.aad) {
                values.push(Raw(value));
            }
        }
        meant
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        let aad = self.aad.iter().map(|(kind, values)| (values as &(dyn ToSql + Sync), kind.array()));
        [(&self.keys as &(dyn ToSql + Sync), Type::TEXT_ARRAY), (&self.new, self.kind.array())]
            .into_iter()
            .chain(aad)
            .collect()
    }

    /// The columns `id`, `new`, `aad0` and so on of these parameters.
    fn columns(&self) -> String {
        let of = |number: usize, kind: Kind, name: &str| {
            format!("pg_catalog.unnest(${number}::pg_catalog.{}[]) AS {name}", kind.name())
        };
        let aad = self.aad.iter().enumerate().map(|(place, (kind, _))| of(place + 3, *kind, &format!("aad{place}")));
        [of(1, Kind::Text, "id"), of(2, self.kind, "new")].into_iter().chain(aad).collect::<Vec<_>>().join(", ")
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bytes => "bytea",
        }
    }

    fn array(self) -> Type {
        match self {
            Self::Text => Type::TEXT_ARRAY,
            Self::Bytes => Type::BYTEA_ARRAY,
        }
    }
}

/// The condition that a column of `t` and a value have the same bytes.
fn equal(kind: Kind, quoted: &str, value: &str) -> String {
    let collation = match kind {
        Kind::Text => " COLLATE pg_catalog.\"C\"",
        Kind::Bytes => "",
    };
    format!("{}{collation} OPERATOR(pg_catalog.=) {value}", value_of(kind, quoted))
}

/// The expression that makes the statement fail, see [`CHANGED`].
fn changed(key: &str) -> String {
    format!("pg_catalog.current_setting('{CHANGED}' || {key} || '{CHANGED_END}')")
}

/// How a statement treats rows that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// The statement waits up to `lock_timeout`, and then fails as a whole.
    Wait,
    /// The statement leaves these rows out.
    Skip,
}

/// The new value for one version of a row.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a str,
    pub(crate) version: &'a [u8],
    pub(crate) new: Vec<u8>,
    /// The associated data of the value, column by column.
    pub(crate) aad: Vec<&'a [u8]>,
}

/// A row as [`Source::read`] returns it.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a>(pub(crate) &'a Row);

impl<'a> Stored<'a> {
    /// The primary key as text.
    pub(crate) fn key(self) -> Result<&'a str, ReencryptError> {
        get(self.0, 0)
    }

    /// The version of the row.
    pub(crate) fn version(self) -> Result<&'a [u8], ReencryptError> {
        Ok(get::<Raw<'a>>(self.0, 1)?.0)
    }

    /// The value; `None` when it is null or empty. `NOT NULL` columns store an empty value instead of null.
    pub(crate) fn value(self) -> Result<Option<&'a [u8]>, ReencryptError> {
        Ok(get::<Option<Raw<'a>>>(self.0, 2)?.map(|raw| raw.0).filter(|value| !value.is_empty()))
    }

    /// The columns of the associated data; `None` when one is null.
    pub(crate) fn aad(self) -> Result<Option<Vec<&'a [u8]>>, ReencryptError> {
        let columns = (3..self.0.len()).map(|column| Ok(get::<Option<Raw<'a>>>(self.0, column)?.map(|raw| raw.0)));
        columns.collect()
    }
}

/// A column of a row.
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, ReencryptError> {
    row.try_get(column).map_err(|_| refused(NOT_AS_ASKED))
}

fn refused(problem: &str) -> ReencryptError {
    ReencryptError::DatabaseRefused { problem: problem.to_owned() }
}

fn value_of(kind: Kind, quoted: &str) -> String {
    match kind {
        Kind::Text => format!("t.{quoted}::pg_catalog.text"),
        Kind::Bytes => format!("t.{quoted}"),
    }
}

/// The ranges between the bounds, before the first and behind the last.
pub(crate) fn ranges(column: &Column, bounds: Vec<String>, understood: &Understood) -> Vec<Range> {
    let starts = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let ends = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    let range =
        |(after, through)| Range { column: column.name.clone(), after, through, understood: Some(understood.clone()) };
    starts.zip(ends).map(range).collect()
}
