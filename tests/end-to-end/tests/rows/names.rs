//! Names as people give them, keys of every type that has an order, and names that are meant to do harm.

use rotation::keyring::KeyFormat;
use rotation::rows::RowFormat;
use serde_json::{Value, json};

use crate::bench::{Bench, assert_adds_up};
use crate::keys::{id, opened, stored, token};

const OLD: u64 = 1;
const NEW: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn quoted_and_mixed_case_names_are_taken_as_stored() {
    let bench = Bench::new(KeyFormat::Fernet, &[NEW, OLD]).await;
    let (table, column, key) = ("OAuth \"Tokens\"; SELECT 1 --", "To.ken 'ä' $1", "select");
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    bench
        .run(&format!(
            "CREATE TABLE {{schema}}.{} ({} text PRIMARY KEY, {} text)",
            quoted(table),
            quoted(key),
            quoted(column)
        ))
        .await;
    bench.grant(&quoted(table), &quoted(column)).await;
    for number in 0..50 {
        let insert = format!("INSERT INTO {}.{} VALUES ($1, $2)", bench.schema, quoted(table));
        let text = format!("text {number}");
        bench.sql.execute(&insert, &[&format!("Key'\"{number} ö"), &token(OLD, &text, number)]).await.unwrap();
    }
    bench.register(json!([{ "schema": bench.schema, "table": table, "column": column, "format": "fernet" }]), &[]);
    let plan = bench.ask(json!({ "action": "plan", "slices": 3 })).await;
    assert_eq!(plan["ranges"].as_array().unwrap().len(), 3);
    let mut rewrapped = 0;
    for range in plan["ranges"].as_array().unwrap() {
        let answer = bench.ask(json!({ "action": "slice", "range": range })).await;
        assert_adds_up(&answer);
        rewrapped += answer["rewrapped"].as_u64().unwrap();
    }
    assert_eq!(rewrapped, 50);
    let select = format!("SELECT {}, {} FROM {}.{}", quoted(key), quoted(column), bench.schema, quoted(table));
    for row in bench.sql.query(&select, &[]).await.unwrap() {
        let (key, token): (String, String) = (row.get(0), row.get(1));
        let number = key.trim_start_matches("Key'\"").trim_end_matches(" ö");
        assert_eq!(opened(&token, &[NEW]), Some((NEW, format!("text {number}"))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_be_statements_are_names_of_no_table() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[(1, Some(token(OLD, "text 1", 1)))]).await;
    bench.run("GRANT ALL ON SCHEMA {schema} TO {schema}; GRANT ALL ON {schema}.rows TO {schema}; ALTER TABLE {schema}.rows OWNER TO {schema}").await;
    let harm = [
        "rows; DROP TABLE rows; --",
        "rows\"; DROP TABLE rows; --",
        "rows' OR '1'='1",
        "rows$1",
        "rows AS t, pg_catalog.pg_class",
        "(SELECT 1)",
        "ROWS",
        "\"rows\"",
        "rows ",
        "%I",
        "\\",
    ];
    for name in harm {
        for member in ["schema", "table", "column"] {
            let mut column = bench.tokens_column();
            column[member] = json!(name);
            bench.register_as("harm", json!([column]), &[]);
            let range = json!({ "schema": column["schema"], "table": column["table"], "column": column["column"] });
            for request in [
                json!({ "action": "plan" }),
                json!({ "action": "census" }),
                json!({ "action": "slice", "range": range }),
            ] {
                let (kind, message) = bench.invoke_as("harm", &request).await.expect_err(name);
                assert_eq!(kind, "UnusableColumn", "{message}");
                assert!(message.contains("there is no such table") || message.contains("has no column"), "{message}");
            }
        }
        let mut column = bench.tokens_column();
        (column["aad"], column["format"]) = (json!([name]), json!("aes-gcm"));
        let raw = Bench::new(KeyFormat::Raw, &[NEW]).await;
        raw.run(&format!("GRANT USAGE ON SCHEMA {} TO {{schema}}", bench.schema)).await;
        raw.register(json!([column]), &[]);
        assert_eq!(raw.refusal(json!({ "action": "census" })).await.0, "UnusableColumn");
    }
    // Keys of a range are parameters.
    for key in ["1; DROP TABLE rows", "1'", "x"] {
        let mut range = bench.planned().await;
        range["after"] = json!(key);
        let (kind, message) = bench.refusal(json!({ "action": "slice", "range": range })).await;
        assert_eq!(kind, "DatabaseRefused");
        assert!(message.contains("22P02") && !message.contains(key), "{message}");
    }
    assert_eq!(bench.slice().await["rewrapped"], 1, "the table is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_any_type_that_has_an_order_will_do() {
    let bench = Bench::new(KeyFormat::Fernet, &[NEW, OLD]).await;
    bench.run("CREATE DOMAIN {schema}.number AS bigint CHECK (value > 0); CREATE TYPE {schema}.\"Mood\" AS ENUM ('sad', 'ok', 'happy')").await;
    let types = [
        ("smallint", "n::smallint"),
        ("bigint", "-n"),
        ("numeric", "n / 7.0"),
        ("uuid", "md5(n::text)::uuid"),
        ("text", "'key ' || md5(n::text)"),
        ("text COLLATE \"C\"", "chr(65 + n * 7 % 50) || n"),
        ("character varying(40)", "'ä' || n"),
        ("character(12)", "'fixed' || n"),
        ("name", "'name' || n"),
        ("date", "date '2026-01-01' + n * 3"),
        (
            "timestamp with time zone",
            "timestamptz '2026-01-01 12:00:00.123456+02' + n * interval '1 hour 1 microsecond'",
        ),
        ("interval", "n * interval '1 day 3 hours'"),
        ("double precision", "n / 3.0"),
        ("bytea", "decode(md5(n::text), 'hex')"),
        ("inet", "inet '10.0.0.0' + n"),
        ("boolean", "n > 1"),
        ("{schema}.number", "n"),
        ("{schema}.\"Mood\"", "(enum_range(NULL::{schema}.\"Mood\"))[n]"),
    ];
    for (number, (of_type, value)) in types.into_iter().enumerate() {
        let count: u64 = match of_type {
            "boolean" => 2,
            "{schema}.\"Mood\"" => 3,
            _ => 60,
        };
        let table = format!("keys_{number}");
        bench.run(&format!("CREATE TABLE {{schema}}.{table} (id {of_type} PRIMARY KEY, token text)")).await;
        let fill = format!(
            "INSERT INTO {{schema}}.{table} SELECT {value}, '{}' FROM generate_series(1, {count}) n",
            token(OLD, "text", 1)
        );
        bench.run(&fill).await;
        bench.grant(&table, "token").await;
        let column = json!({ "schema": bench.schema, "table": table, "column": "token", "format": "fernet" });
        bench.register_as("keys", json!([column]), &[("REENCRYPT_BATCH_ROWS", "7")]);
        let plan = bench.invoke_as("keys", &json!({ "action": "plan", "slices": 4 })).await.unwrap();
        let mut rewrapped = 0;
        for range in plan["ranges"].as_array().unwrap() {
            let answer = bench.invoke_as("keys", &json!({ "action": "slice", "range": range })).await;
            let answer = answer.unwrap_or_else(|error| panic!("{of_type}: {error:?}"));
            assert_adds_up(&answer);
            rewrapped += answer["rewrapped"].as_u64().unwrap();
        }
        assert_eq!(rewrapped, count, "{of_type}");
        let census = bench.invoke_as("keys", &json!({ "action": "census" })).await.unwrap();
        assert_eq!(census["columns"][0]["keys"], json!({ id(OLD): 0, id(NEW): count }), "{of_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_rewritten_through_their_table() {
    let bench = Bench::new(KeyFormat::Fernet, &[NEW, OLD]).await;
    bench
        .run(
            "CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, token text) PARTITION BY RANGE (id);
        CREATE TABLE {schema}.low PARTITION OF {schema}.rows FOR VALUES FROM (0) TO (100);
        CREATE TABLE {schema}.high PARTITION OF {schema}.rows FOR VALUES FROM (100) TO (1000)",
        )
        .await;
    bench.fill(&crate::worker::tokens(OLD, 300)).await;
    bench.grant("rows", "token").await;
    bench.register(json!([bench.tokens_column()]), &[]);
    let plan = bench.ask(json!({ "action": "plan", "slices": 3 })).await;
    assert_eq!((plan["ranges"].as_array().unwrap().len(), &plan["rows"]), (3, &json!(300)));
    assert_eq!(plan["invocations"], 193, "so many for each range, in one execution");
    assert_eq!(bench.slice().await["rewrapped"], 300);
    crate::worker::assert_all_under(&bench, NEW, 300).await;
}

/// Asks for everything of one column, and expects the same refusal each time.
async fn unusable(bench: &Bench, column: Value, problem: &str) {
    bench.register_as("unusable", json!([column]), &[]);
    let range = json!({ "schema": column["schema"], "table": column["table"], "column": column["column"] });
    for request in
        [json!({ "action": "plan" }), json!({ "action": "census" }), json!({ "action": "slice", "range": range })]
    {
        let (kind, message) = bench.invoke_as("unusable", &request).await.expect_err(problem);
        assert_eq!(kind, "UnusableColumn", "{message}");
        assert!(message.contains(problem), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unwritable_tables_and_columns_are_refused_by_name_and_reason() {
    let bench = Bench::new(KeyFormat::Fernet, &[NEW, OLD]).await;
    bench.run("CREATE TABLE {schema}.composite (tenant int, id int, token text, PRIMARY KEY (tenant, id));
        CREATE TABLE {schema}.included (id int, tenant int, token text, PRIMARY KEY (id) INCLUDE (tenant));
        CREATE TABLE {schema}.keyless (id int UNIQUE NOT NULL, token text);
        CREATE TABLE {schema}.rows (id int PRIMARY KEY, token text, number int, code text GENERATED ALWAYS AS (token) STORED);
        CREATE TABLE {schema}.itself (token text PRIMARY KEY);
        CREATE VIEW {schema}.view AS SELECT id, token FROM {schema}.rows;
        CREATE TABLE {schema}.parent (id int PRIMARY KEY, token text);
        CREATE TABLE {schema}.child (PRIMARY KEY (id)) INHERITS ({schema}.parent);
        GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {schema}").await;
    let column = |table: &str, column: &str| json!({ "schema": bench.schema, "table": table, "column": column, "format": "fernet" });
    unusable(
        &bench,
        column("composite", "token"),
        "the table's primary key has 2 columns, and only keys of one column are supported",
    )
    .await;
    unusable(&bench, column("keyless", "token"), "has no primary key").await;
    unusable(&bench, column("view", "token"), "is not in a table but in a view").await;
    unusable(&bench, column("parent", "token"), "other tables inherit from its table").await;
    unusable(&bench, column("rows", "number"), "is neither a text nor a bytea").await;
    unusable(&bench, column("rows", "code"), "is generated by the database").await;
    unusable(&bench, column("rows", "nothing"), "the table has no column nothing").await;
    unusable(&bench, column("rows", "ctid"), "the table has no column ctid").await;
    unusable(&bench, column("itself", "token"), "is the table's primary key").await;
    unusable(&bench, column("nothing", "token"), "there is no such table").await;
    bench.register(json!([column("included", "token"), column("child", "token")]), &[]);
    assert_eq!(bench.census().await["columns"][0]["rows"], 0, "columns beside the key do not matter");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_policy_would_hide_are_an_error_and_no_zero() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[(1, Some(token(OLD, "text 1", 1)))]).await;
    bench.run("ALTER TABLE {schema}.rows ENABLE ROW LEVEL SECURITY").await;
    let (kind, message) = bench.refusal(json!({ "action": "census" })).await;
    assert_eq!(kind, "DatabaseRefused");
    assert!(message.contains("row-level security"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_domain_has_another_collation_will_do() {
    let bench = Bench::new(KeyFormat::Fernet, &[NEW, OLD]).await;
    bench.run("CREATE DOMAIN {schema}.code AS text COLLATE \"C\"; CREATE TABLE {schema}.rows (id {schema}.code COLLATE \"POSIX\" PRIMARY KEY, token text)").await;
    bench.grant("rows", "token").await;
    let insert = format!("INSERT INTO {}.rows VALUES ('key ' || $1::int8, $2)", bench.schema);
    for id in 1..=50_i64 {
        bench.sql.execute(&insert, &[&id, &token(OLD, &format!("text {id}"), 1)]).await.unwrap();
    }
    bench.register(json!([bench.tokens_column()]), &[("REENCRYPT_BATCH_ROWS", "7")]);
    let plan = bench.ask(json!({ "action": "plan", "slices": 3 })).await;
    let mut rewrapped = 0;
    for range in plan["ranges"].as_array().unwrap() {
        rewrapped += bench.slice_of(range).await["rewrapped"].as_u64().unwrap();
    }
    assert_eq!(rewrapped, 50);
    // Also where a row is looked at again.
    assert_eq!(bench.census().await["onOldKeys"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn aad_of_every_type_is_its_cast_to_text() {
    let bench = Bench::new(KeyFormat::Raw, &[NEW, OLD]).await;
    bench.run("CREATE TYPE {schema}.mood AS ENUM ('sad', 'ok')").await;
    // Whoever configures the role cannot change what a value is bound to.
    bench.run("ALTER ROLE {schema} SET TimeZone = 'Asia/Tokyo'; ALTER ROLE {schema} SET DateStyle = 'German'; ALTER ROLE {schema} SET extra_float_digits = -10; ALTER ROLE {schema} SET IntervalStyle = 'iso_8601'").await;
    let types = [
        ("bigint", "42", "42"),
        ("numeric", "-1.50", "-1.50"),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("boolean", "true", "true"),
        ("inet", "'10.0.0.1'", "10.0.0.1/32"),
        ("cidr", "'10.0.0.0/8'", "10.0.0.0/8"),
        ("character(8)", "'ab'", "ab"),
        ("varchar(8)", "'ab '", "ab "),
        ("timestamp with time zone", "'2026-01-01 14:00:00.5+02'", "2026-01-01 12:00:00.5+00"),
        ("date", "'2026-01-31'", "2026-01-31"),
        ("interval", "'27 hours'", "27:00:00"),
        ("double precision", "0.1", "0.1"),
        ("jsonb", "'{\"a\":1}'", "{\"a\": 1}"),
        ("\"char\"", "'x'", "x"),
        ("text[]", "'{a,b c}'", "{a,\"b c\"}"),
        ("{schema}.mood", "'ok'", "ok"),
        ("bytea", "'\\x00ff'", "\u{0}\u{ff}"),
    ];
    for (number, (of_type, value, text)) in types.into_iter().enumerate() {
        // A `bytea` is its bytes: here each character stands for one.
        let aad = if of_type == "bytea" { vec![0, 255] } else { text.as_bytes().to_vec() };
        let sealed = String::from_utf8(stored(RowFormat::AesGcm, OLD, b"text", &aad, 1)).unwrap();
        let table = format!("aad_{number}");
        bench
            .run(&format!(
                "CREATE TABLE {{schema}}.{table} (id int PRIMARY KEY, bound {of_type}, token text);
                 INSERT INTO {{schema}}.{table} VALUES (1, {value}, '{sealed}')"
            ))
            .await;
        bench.grant(&table, "token").await;
        let column =
            json!({ "schema": bench.schema, "table": table, "column": "token", "format": "aes-gcm", "aad": ["bound"] });
        bench.register(json!([column]), &[]);
        assert_eq!(bench.slice().await["rewrapped"], 1, "{of_type}");
        assert_eq!(bench.census().await["columns"][0]["keys"][id(NEW)], 1, "{of_type}");
    }
}
