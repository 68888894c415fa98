//! Rows that other software has written, and that it reads when they are under the new key: Python's `cryptography` and `tink`, and
//! Node's `crypto`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rotation::keyring::KeyFormat;
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

use crate::bench::Bench;
use crate::keys::{id, key, ring};
use crate::programs::Program;

const OLD: u64 = 1;
const NEW: u64 = 2;
const ROWS: i64 = 40;

fn text(id: i64) -> String {
    // Of every length around the block and the padding of base64.
    format!("{}ä{id}", "x".repeat(id.unsigned_abs() as usize % 35))
}

/// Makes a table whose column has this type, and fills it.
async fn table<T: ToSql + Sync>(bench: &Bench, of_type: &str, values: &[T]) {
    bench.run(&format!("CREATE TABLE {{schema}}.rows (id bigint PRIMARY KEY, tenant text, token {of_type})")).await;
    bench.grant("rows", "token").await;
    for (id, value) in (1_i64..).zip(values) {
        let insert = format!("INSERT INTO {}.rows VALUES ($1::int8, 'tenant ' || ($1::int8 % 3), $2)", bench.schema);
        bench.sql.execute(&insert, &[&id, value]).await.unwrap();
    }
}

/// Re-encrypts everything, and returns the rows.
async fn rewrapped<T: for<'a> tokio_postgres::types::FromSql<'a>>(bench: &Bench, format: &str, more: &Value) -> Vec<T> {
    let mut column = bench.tokens_column();
    column["format"] = json!(format);
    for (member, value) in more.as_object().unwrap() {
        column[member] = value.clone();
    }
    bench.register(json!([column]), &[]);
    let before = bench.census().await;
    assert_eq!(before["columns"][0]["keys"], json!({ id(NEW): 0, id(OLD): ROWS }), "{before}");
    let answer = bench.slice().await;
    assert_eq!(answer["keys"], json!({ id(OLD): ROWS }), "{answer}");
    let select = format!("SELECT token FROM {}.rows ORDER BY id", bench.schema);
    bench.sql.query(&select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_fernet_tokens_keep_their_text_and_time() {
    let mut python = Program::start("python3", "multi_fernet.py");
    for bytea in [false, true] {
        let bench = Bench::new(KeyFormat::Fernet, &[NEW, OLD]).await;
        let (old, new) = (ring(KeyFormat::Fernet, &[OLD]), ring(KeyFormat::Fernet, &[NEW]));
        let time = 1_600_000_000;
        let tokens: Vec<String> = (1..=ROWS)
            .map(|id| {
                let request =
                    json!({ "op": "encrypt", "keys": old, "plaintext": STANDARD.encode(text(id)), "time": time + id });
                python.expect(&request, "token")
            })
            .collect();
        let written: Vec<String> = if bytea {
            table(&bench, "bytea", &tokens.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
            let bytes: Vec<Vec<u8>> = rewrapped(&bench, "fernet", &json!({})).await;
            bytes.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
        } else {
            table(&bench, "text", &tokens).await;
            rewrapped(&bench, "fernet", &json!({})).await
        };
        for (id, token) in (1..).zip(&written) {
            let plaintext = python.expect(&json!({ "op": "decrypt", "keys": new, "token": token }), "plaintext");
            assert_eq!(plaintext, STANDARD.encode(text(id)));
            let made = python.ask(&json!({ "op": "time", "keys": new, "token": token }));
            assert_eq!(made["time"], time + id);
        }
        let stranger = json!({ "op": "decrypt", "keys": new, "token": tokens[0] });
        assert_eq!(python.ask(&stranger)["error"], "InvalidToken", "the check can fail");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tink_ciphertexts_stay_bound_to_their_rows() {
    let mut python = Program::start("python3", "tink_aead.py");
    for (prefix, bytea) in [("TINK", true), ("TINK", false), ("RAW", true), ("RAW", false)] {
        let bench = Bench::new(KeyFormat::Tink, &[NEW, OLD]).await;
        let keyset = |seeds: &[u64]| ring(KeyFormat::Tink, seeds).replace("\"TINK\"", &format!("\"{prefix}\""));
        let secret = bench.secrets.put_secret_value().secret_id(crate::bench::KEY_SECRET);
        secret.secret_string(keyset(&[NEW, OLD])).send().await.unwrap();
        // Two columns as netstrings, or one as it is.
        let aad = |id: i64| {
            if bytea { format!("8:tenant {},{}:{id},", id % 3, id.to_string().len()) } else { id.to_string() }
        };
        let more = if bytea { json!({ "aad": ["tenant", "id"] }) } else { json!({ "aad": ["id"] }) };
        let sealed: Vec<String> = (1..=ROWS)
            .map(|id| {
                let (plaintext, aad) = (STANDARD.encode(text(id)), STANDARD.encode(aad(id)));
                let request = json!({ "op": "encrypt", "keyset": keyset(&[OLD]), "plaintext": plaintext, "associated_data": aad });
                python.expect(&request, "ciphertext")
            })
            .collect();
        let written: Vec<String> = if bytea {
            table(&bench, "bytea", &sealed.iter().map(|text| STANDARD.decode(text).unwrap()).collect::<Vec<_>>()).await;
            let bytes: Vec<Vec<u8>> = rewrapped(&bench, "tink", &more).await;
            bytes.into_iter().map(|bytes| STANDARD.encode(bytes)).collect()
        } else {
            table(&bench, "character varying(200)", &sealed).await;
            rewrapped(&bench, "tink", &more).await
        };
        for (id, ciphertext) in (1..).zip(&written) {
            let decrypt = |aad: String| json!({ "op": "decrypt", "keyset": keyset(&[NEW]), "ciphertext": ciphertext, "associated_data": STANDARD.encode(aad) });
            assert_eq!(python.expect(&decrypt(aad(id)), "plaintext"), STANDARD.encode(text(id)));
            assert_eq!(python.ask(&decrypt(aad(id + 1)))["error"], "TinkError", "it opens in another row");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_decrypts_rewritten_values_with_the_new_key() {
    let mut node = Program::start("node", "aes_gcm.js");
    for (format, bytea, bound) in [
        ("aes-gcm", false, false),
        ("aes-gcm", false, true),
        ("aes-gcm", true, true),
        ("aes-gcm-hex", false, false),
        ("aes-gcm-hex", false, true),
        ("aes-gcm-hex", true, false),
    ] {
        let bench = Bench::new(KeyFormat::Raw, &[NEW, OLD]).await;
        let secret = |seed| STANDARD.encode(key(seed).material().expose());
        let form = if format == "aes-gcm" { "base64" } else { "hex" };
        let aad = |id: i64| STANDARD.encode(if bound { id.to_string() } else { String::new() });
        let sealed: Vec<String> = (1..=ROWS)
            .map(|id| {
                let request = json!({ "op": "encrypt", "key": secret(OLD), "plaintext": STANDARD.encode(text(id)), "aad": aad(id), "form": form });
                node.expect(&request, "ciphertext")
            })
            .collect();
        let more = if bound { json!({ "aad": ["id"] }) } else { json!({}) };
        let written: Vec<String> = match (bytea, form) {
            (false, _) => {
                table(&bench, "text", &sealed).await;
                rewrapped(&bench, format, &more).await
            }
            (true, "base64") => {
                table(&bench, "bytea", &sealed.iter().map(|text| STANDARD.decode(text).unwrap()).collect::<Vec<_>>())
                    .await;
                let bytes: Vec<Vec<u8>> = rewrapped(&bench, format, &more).await;
                bytes.into_iter().map(|bytes| STANDARD.encode(bytes)).collect()
            }
            (true, _) => {
                table(&bench, "bytea", &sealed.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
                let bytes: Vec<Vec<u8>> = rewrapped(&bench, format, &more).await;
                bytes.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
            }
        };
        for (id, ciphertext) in (1..).zip(&written) {
            let decrypt = |key: String, aad: String| json!({ "op": "decrypt", "keys": [key], "ciphertext": ciphertext, "aad": aad, "form": form });
            assert_eq!(node.expect(&decrypt(secret(NEW), aad(id)), "plaintext"), STANDARD.encode(text(id)));
            assert_eq!(node.ask(&decrypt(secret(OLD), aad(id)))["error"], "InvalidCiphertext", "the check can fail");
            if bound {
                assert_eq!(node.ask(&decrypt(secret(NEW), aad(id + 1)))["error"], "InvalidCiphertext");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_columns_in_two_formats_are_each_rewritten_in_its_own() {
    let mut node = Program::start("node", "aes_gcm.js");
    let bench = Bench::new(KeyFormat::Raw, &[NEW, OLD]).await;
    bench
        .run("CREATE TABLE {schema}.rows (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), access text, refresh text)")
        .await;
    bench.run("GRANT SELECT, UPDATE (access, refresh) ON {schema}.rows TO {schema}").await;
    let secret = |seed| STANDARD.encode(key(seed).material().expose());
    for _ in 0..20 {
        let mut sealed = |form| {
            let request =
                json!({ "op": "encrypt", "key": secret(OLD), "plaintext": STANDARD.encode("text"), "form": form });
            node.expect(&request, "ciphertext")
        };
        let insert = format!("INSERT INTO {}.rows (access, refresh) VALUES ($1, $2)", bench.schema);
        bench.sql.execute(&insert, &[&sealed("base64"), &sealed("hex")]).await.unwrap();
    }
    let column =
        |name: &str, format: &str| json!({ "schema": bench.schema, "table": "rows", "column": name, "format": format });
    bench.register(json!([column("access", "aes-gcm"), column("refresh", "aes-gcm-hex")]), &[]);
    let plan = bench.ask(json!({ "action": "plan", "slices": 2 })).await;
    assert_eq!(plan["ranges"].as_array().unwrap().len(), 4);
    for range in plan["ranges"].as_array().unwrap() {
        assert_eq!(bench.ask(json!({ "action": "slice", "range": range })).await["rewrapped"], 10);
    }
    let census = bench.census().await;
    for (number, name) in ["access", "refresh"].into_iter().enumerate() {
        let counted = &census["columns"][number];
        assert_eq!(counted["column"], name);
        assert_eq!(counted["keys"], json!({ id(OLD): 0, id(NEW): 20 }));
    }
    let rows = bench.sql.query(&format!("SELECT access, refresh FROM {}.rows", bench.schema), &[]).await.unwrap();
    for row in rows {
        for (column, form) in [(0, "base64"), (1, "hex")] {
            let ciphertext: String = row.get(column);
            let request = json!({ "op": "decrypt", "keys": [secret(NEW)], "ciphertext": ciphertext, "form": form });
            assert_eq!(node.expect(&request, "plaintext"), STANDARD.encode("text"));
        }
    }
}
