//! Tables that do something themselves when a row is written: what is stored is what was meant, or nothing is.

use rotation::keyring::KeyFormat;
use rotation::rows::{Encoding, Opened, RowCodec, RowFormat};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::keys::{ciphers, stored};

const OLD: u64 = 1;
const NEW: u64 = 2;
const ROWS: i64 = 20;

/// A table whose values are bound to the column `rev`, and what its triggers are made of.
async fn bound() -> Bench {
    let bench = Bench::new(KeyFormat::Raw, &[NEW, OLD]).await;
    bench.run("CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, rev int NOT NULL, token text)").await;
    bench.grant("rows", "token").await;
    let insert = format!("INSERT INTO {}.rows VALUES ($1, $2, $3)", bench.schema);
    for id in 1..=ROWS {
        let rev = i32::try_from(id).unwrap() * 10;
        let text = format!("text {id}");
        let aad = rev.to_string();
        let value = stored(RowFormat::AesGcm, OLD, text.as_bytes(), aad.as_bytes(), id.unsigned_abs());
        bench.sql.execute(&insert, &[&id, &rev, &String::from_utf8(value).unwrap()]).await.unwrap();
    }
    let mut column = bench.tokens_column();
    (column["format"], column["aad"]) = (json!("aes-gcm"), json!(["rev"]));
    bench.register(json!([column]), &[]);
    bench
}

impl Bench {
    async fn trigger(&self, when: &str, body: &str) {
        self.run(&format!(
            "CREATE FUNCTION {{schema}}.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE {when} ON {{schema}}.rows FOR EACH ROW EXECUTE FUNCTION {{schema}}.f()"
        ))
        .await;
    }

    /// How many rows open with what stands beside them.
    async fn readable(&self) -> usize {
        let select = format!("SELECT id, rev, token FROM {}.rows", self.schema);
        let ciphers = ciphers(KeyFormat::Raw, &[NEW, OLD]);
        let codec = RowCodec::new(RowFormat::AesGcm, Encoding::Base64, &ciphers);
        let opens = |row: &tokio_postgres::Row| {
            let (id, rev, token): (i64, i32, String) = (row.get(0), row.get(1), row.get(2));
            let opened = codec.open(token.as_bytes(), rev.to_string().as_bytes());
            matches!(opened, Opened::Under(_, text) if *text == format!("text {id}").into_bytes())
        };
        self.sql.query(&select, &[]).await.unwrap().iter().filter(|row| opens(row)).count()
    }
}

async fn refused(when: &str, body: &str) {
    let bench = bound().await;
    bench.trigger(when, body).await;
    let range = bench.planned().await;
    let (kind, message) = match bench.invoke(&json!({ "action": "slice", "range": range })).await {
        Ok(answer) => (answer.to_string(), String::new()),
        Err(error) => error,
    };
    assert_eq!(bench.readable().await as i64, ROWS, "rows can be read after {when}: {kind}");
    assert_eq!(kind, "ColumnChangesOnWrite", "{message}");
    assert!(message.contains("rows.token") && message.contains("row "), "{message}");
    let census = bench.census().await;
    assert_eq!((&census["onOldKeys"], &census["unknown"]), (&json!(ROWS), &json!(0)), "the batch was undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_on_an_aad_column_costs_no_value() {
    refused("TRIGGER f BEFORE UPDATE", "NEW.rev := OLD.rev + 1; RETURN NEW;").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_on_the_column_itself_costs_no_value() {
    refused("TRIGGER f BEFORE UPDATE", "NEW.token := lower(NEW.token); RETURN NEW;").await;
    refused("TRIGGER f BEFORE UPDATE", "NEW.token := NULL; RETURN NEW;").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_acts_after_the_statement_costs_no_value() {
    // As the table's owner, with a subtransaction, and only where there is something to do.
    let body = "IF NEW.rev = OLD.rev THEN BEGIN UPDATE {schema}.rows SET rev = rev + 1 WHERE id = NEW.id; EXCEPTION WHEN division_by_zero THEN NULL; END; END IF; RETURN NULL;";
    for when in
        ["TRIGGER f AFTER UPDATE", "CONSTRAINT TRIGGER f AFTER UPDATE ON {schema}.rows DEFERRABLE INITIALLY DEFERRED"]
    {
        let bench = bound().await;
        let on = if when.contains(" ON ") { "" } else { " ON {schema}.rows" };
        bench
            .run(&format!(
                "CREATE FUNCTION {{schema}}.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {body} END $$;
                 CREATE {when}{on} FOR EACH ROW EXECUTE FUNCTION {{schema}}.f()"
            ))
            .await;
        let range = bench.planned().await;
        let answer = bench.invoke(&json!({ "action": "slice", "range": range })).await;
        assert_eq!(bench.readable().await as i64, ROWS, "rows can be read after {when}: {answer:?}");
        assert_eq!(answer.expect_err(when).0, "ColumnChangesOnWrite");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_changes_nothing_of_it_is_no_obstacle() {
    let bench = bound().await;
    bench.run("ALTER TABLE {schema}.rows ADD changed timestamptz; CREATE TABLE {schema}.audit (id bigint)").await;
    bench.run("GRANT INSERT ON {schema}.audit TO {schema}").await;
    let body = "NEW.changed := now(); INSERT INTO {schema}.audit VALUES (NEW.id); RETURN NEW;";
    bench.trigger("TRIGGER f BEFORE UPDATE", body).await;
    let answer = bench.slice().await;
    assert_eq!((&answer["rewrapped"], &answer["next"]), (&json!(ROWS), &Value::Null));
    assert_eq!(bench.readable().await as i64, ROWS);
}
