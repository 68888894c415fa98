//! The report, as a table, as data and as a page.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn report_is_a_table_data_or_a_page() {
    let person = Person::new().await.with_token().await;
    person.empty(KEY, "encryption-key", KEY_FIELD).await;
    person.unmanaged("shop/production/providers", "{}").await;
    let tags = [("rotation:remind", "META:90d"), ("owner", "red \u{1b}[31m <b>team"), ("contact", "web@example.org")];
    let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build()).to_vec();
    person
        .scene
        .client
        .tag_resource()
        .secret_id("shop/production/providers")
        .set_tags(Some(tags))
        .send()
        .await
        .unwrap();
    assert_eq!(person.run(&["rotate", "admin-token", "--wait", "-y"]).await.code, 0);

    let table = person.run(&["report"]).await;
    assert!(table.code == 0 && table.out.starts_with("SECRET ") && !table.out.contains('\u{1b}'), "{table:?}");
    for line in [
        "shop/production/providers: due by hand: META, last never recorded",
        "rotation put shop/production/providers META",
    ] {
        assert!(table.out.contains(line), "{line}: {}", table.out);
    }
    let data = person.run(&["report", "--json"]).await;
    assert_eq!((data.code, data.json()["secrets"].as_array().unwrap().len()), (0, 3), "{data:?}");
    assert_eq!(data.json()["secrets"][0]["overlap"], "24h");
    let page = person.run(&["report", "--html"]).await;
    assert!(page.code == 0 && page.out.starts_with("<!doctype html>\n<html lang=en>"), "{page:?}");
    for text in [SECRET, KEY, "&#60;b&#62;team", "web@example.org", "the platform team"] {
        assert!(page.out.contains(text), "{text}: {}", page.out);
    }
    for name in [SECRET, KEY] {
        let value = person.value(name).await;
        for (run, form) in [(&table, "table"), (&data, "data"), (&page, "page")] {
            let value: Value = serde_json::from_str(&value).unwrap();
            let texts = value.as_object().unwrap().values().filter_map(Value::as_str).filter(|text| text.len() > 20);
            assert!(texts.into_iter().all(|text| !run.out.contains(text)), "{name} in the {form}");
        }
    }
}
