//! The associated data of a value: bytes that are authenticated with the value and stored elsewhere in its row. So a
//! ciphertext that is moved to another row does not open there.
//!
//! It is made from columns that the configuration names, in that order:
//!
//! - no column: there is no associated data;
//! - one column: the column's value;
//! - several columns: the [netstring](https://cr.yp.to/proto/netstrings.txt) of each value, one after the other. A
//!   netstring is the length in bytes in decimal digits, a colon, the value, a comma. For `tenant` and `42` that is
//!   `6:tenant,2:42,`. Rows that differ in one of the columns never have the same associated data.
//!
//! The value of a column is the bytes of a `bytea`. For any other type it is the result of `CAST(column AS text)`, in
//! UTF-8. That is not always the text that a client shows:
//!
//! | type | text |
//! | --- | --- |
//! | `integer`, `bigint`, `numeric` | decimal digits: `42`, `-1.50` |
//! | `uuid` | lower case, with hyphens |
//! | `boolean` | `true`, `false`, where clients show `t` and `f` |
//! | `inet` | always with the length of the network: `10.0.0.1/32`, where clients show `10.0.0.1` |
//! | `character(n)` | without the blanks at its end, though clients show them |
//! | `timestamp with time zone` | in UTC: `2026-01-01 12:00:00.5+00` |
//! | `date`, `interval` | `2026-01-01`, `1 day 03:00:00` |
//! | `double precision` | the shortest digits that give the same number back: `0.1` |
//! | `jsonb` | as PostgreSQL writes it: `{"a": 1}` |
//! | an enumeration | its label |
//!
//! A row with a null among the columns has no associated data.

/// The associated data of the columns' values.
#[must_use]
pub fn associated_data(columns: &[&[u8]]) -> Vec<u8> {
    match columns {
        [] => vec![],
        [column] => column.to_vec(),
        columns => {
            let netstring = |column: &&[u8]| [column.len().to_string().as_bytes(), b":", column, b","].concat();
            columns.iter().flat_map(netstring).collect()
        }
    }
}
