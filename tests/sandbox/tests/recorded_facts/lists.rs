//! Lists, policies, random passwords, and the dates of answers.

use super::*;

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let world = world().await;
    for (name, description) in [
        ("testing1/one", "a secret"),
        ("/testing2/two", "an secret"),
        ("testing3/three", "asecret"),
        ("/testing4/four", "thesecret"),
    ] {
        world.client.create_secret().name(name).description(description).send().await.unwrap();
    }
    let tag = Tag::builder().key("rotation:field").value("x").build();
    world.client.tag_resource().secret_id("testing1/one").tags(tag).send().await.unwrap();
    let list = |filters: Vec<(FilterNameStringType, &'static str)>| {
        let list = world.client.list_secrets();
        let filters = filters.into_iter().map(|(key, value)| Filter::builder().key(key).values(value).build());
        let list = filters.fold(list, |list, filter| list.filters(filter));
        async move {
            let found = list.send().await.unwrap().secret_list.unwrap_or_default();
            found.into_iter().map(|secret| secret.name.unwrap()).collect::<Vec<_>>()
        }
    };
    use FilterNameStringType::{Description, Name, TagKey};
    assert_eq!(list(vec![(Name, "/")]).await, ["/testing2/two", "/testing4/four"]);
    assert_eq!(list(vec![(Name, "!/")]).await, ["testing1/one", "testing3/three"]);
    assert!(list(vec![(Name, "testing1 one")]).await.is_empty());
    assert_eq!(list(vec![(Description, "a")]).await, ["testing1/one", "/testing2/two", "testing3/three"]);
    assert_eq!(list(vec![(Description, "a secret")]).await, ["testing1/one", "/testing2/two"]);
    assert_eq!(list(vec![(Description, "!a")]).await, ["/testing4/four"]);
    assert!(list(vec![(Description, "a"), (Name, "secret")]).await.is_empty());
    assert_eq!(list(vec![(TagKey, "rotation:")]).await, ["testing1/one"]);

    let pages = world.client.list_secrets().max_results(3).into_paginator().send();
    let pages = pages.try_collect().await.unwrap();
    let sizes: Vec<usize> = pages.iter().map(|page| page.secret_list().len()).collect();
    assert_eq!(sizes, [3, 1]);
    let bad = world.client.list_secrets().next_token("what").send().await;
    assert_eq!(problem(bad).0, "InvalidNextTokenException");
}

#[tokio::test]
async fn names_and_tags_match_by_case_and_prefix_and_all_filters() {
    use FilterNameStringType::{Name, TagKey, TagValue};
    let world = world().await;
    for (name, tags) in [
        ("Data/one", &[("rotation:field", "TOKEN"), ("team", "shop")][..]),
        ("Data/two", &[("rotation:hold", "2027-01-01"), ("Team", "Shop")]),
        ("data/three", &[("my-rotation:field", "token"), ("team", "workshop")]),
        ("MyData", &[]),
    ] {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
        world.client.create_secret().name(name).set_tags(Some(tags)).send().await.unwrap();
    }
    let filter = |(key, values): (FilterNameStringType, &[&str])| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Filter::builder().key(key).set_values(Some(values)).build()
    };
    let list = |filters: &[(FilterNameStringType, &[&str])]| {
        let filters = filters.iter().cloned().map(filter).collect();
        world.client.list_secrets().set_filters(Some(filters)).send()
    };
    let (one, two, three, none) = ("Data/one", "Data/two", "data/three", "MyData");
    for (filters, expected) in [
        // From the User Guide: "Name: Data returns a secret named DatabaseSecret, but not databaseSecret or MyData."
        (&[(Name, &["Data"][..])][..], &[one, two][..]),
        (&[(Name, &["data"])], &[three]),
        (&[(Name, &["!Data"])], &[three, none]),
        (&[(Name, &[""])], &[one, two, three, none]),
        (&[(TagKey, &["rotation:"])], &[one, two]),
        (&[(TagKey, &["rotation:field"])], &[one]),
        (&[(TagKey, &["Rotation:"])], &[]),
        (&[(TagKey, &["!rotation:"])], &[three, none]),
        (&[(TagValue, &["shop"])], &[one]),
        (&[(TagValue, &["Sh"])], &[two]),
        (&[(TagValue, &["!shop"])], &[two, three, none]),
        // Any value of one filter, and all filters.
        (&[(TagKey, &["rotation:field", "rotation:hold"])], &[one, two]),
        (&[(Name, &["Data"]), (TagKey, &["rotation:"]), (TagValue, &["TOKEN"])], &[one]),
        (&[(TagKey, &["rotation:"]), (TagKey, &["!rotation:hold"])], &[one]),
        (&[(Name, &["data"]), (TagKey, &["rotation:"])], &[]),
        // A key and a value need not be of one tag.
        (&[(TagKey, &["rotation:field"]), (TagValue, &["shop"])], &[one]),
    ] {
        let found = list(filters).await.unwrap().secret_list.unwrap_or_default();
        let found: Vec<&str> = found.iter().map(|secret| secret.name().unwrap()).collect();
        assert_eq!(found, expected, "{filters:?}");
    }

    // A secret that is scheduled for deletion is listed only on request, filtered or not.
    world.client.delete_secret().secret_id(one).recovery_window_in_days(7).send().await.unwrap();
    assert_eq!(list(&[(TagKey, &["rotation:"])]).await.unwrap().secret_list().len(), 1);
    let all = world.client.list_secrets().filters(filter((TagKey, &["rotation:"]))).include_planned_deletion(true);
    assert_eq!(all.send().await.unwrap().secret_list().len(), 2);

    let long = "x".repeat(513);
    for refused in [&["*"][..], &["a,b"], &["ä"], &[&long], &[], &["x"; 11]] {
        assert_eq!(problem(list(&[(Name, refused)]).await).0, "ValidationException", "{refused:?}");
    }
    let eleven = vec![(Name, &["x"][..]); 11];
    assert_eq!(problem(list(&eleven).await).0, "ValidationException");
}

#[tokio::test]
async fn many_values_are_read_at_once_and_missing_ones_are_named() {
    let world = world().await;
    world.secret("a").await;
    world.client.create_secret().name("empty").send().await.unwrap();
    let batch = world.client.batch_get_secret_value();
    let batch = batch.secret_id_list("a").secret_id_list("empty").secret_id_list("nowhere").send().await.unwrap();
    assert_eq!(batch.secret_values()[0].secret_string(), Some("v1"));
    let errors: Vec<_> = batch.errors().iter().map(|error| error.secret_id().unwrap()).collect();
    assert_eq!(errors, ["empty", "nowhere"]);
}

#[tokio::test]
async fn binary_values_come_back_as_they_went() {
    let world = world().await;
    let value = Blob::new([0, 1, 2, 255, b'-', 254]);
    world.client.create_secret().name("s").secret_binary(value.clone()).send().await.unwrap();
    let read = world.client.get_secret_value().secret_id("s").send().await.unwrap();
    assert_eq!(read.secret_binary, Some(value));
    assert_eq!(read.secret_string, None);
}

#[tokio::test]
async fn policies_are_json_documents() {
    let world = world().await;
    world.secret("s").await;
    let policy = r#"{"Version":"2012-10-17","Statement":[]}"#;
    world.client.put_resource_policy().secret_id("s").resource_policy(policy).send().await.unwrap();
    let read = world.client.get_resource_policy().secret_id("s").send().await.unwrap();
    assert_eq!(read.resource_policy.as_deref(), Some(policy));
    let broken = world.client.put_resource_policy().secret_id("s").resource_policy("{").send().await;
    assert_eq!(problem(broken).0, "MalformedPolicyDocumentException");
    world.client.delete_resource_policy().secret_id("s").send().await.unwrap();
    let read = world.client.get_resource_policy().secret_id("s").send().await.unwrap();
    assert_eq!(read.resource_policy, None);
}

#[tokio::test]
async fn random_passwords_are_of_the_kinds_that_were_asked_for() {
    let world = world().await;
    let password = || world.client.get_random_password();
    let default = password().send().await.unwrap().random_password.unwrap();
    assert_eq!(default.len(), 32);
    let digits = password().password_length(100).exclude_lowercase(true).exclude_uppercase(true);
    let digits = digits.exclude_punctuation(true).exclude_characters("0").send().await.unwrap();
    let digits = digits.random_password.unwrap();
    assert!(digits.len() == 100 && digits.chars().all(|c| ('1'..='9').contains(&c)), "{digits}");
    let short = password().password_length(3).send().await;
    assert_eq!(problem(short).0, "InvalidParameterException");
}

#[tokio::test]
async fn every_answer_carries_the_sandboxs_time_and_dates_follow_it() {
    let world = world().await;
    world.secret("s").await;
    world.sandbox.advance(90 * DAY).await.unwrap();
    let ahead = SystemTime::now() + 90 * DAY;
    let (_, _, date) = world.raw("ListSecrets", json!({})).await;
    let date = httpdate::parse_http_date(&date).unwrap();
    let distance = ahead.duration_since(date).unwrap_or_else(|error| error.duration());
    assert!(distance < Duration::from_secs(60), "{date:?}");

    put(&world, 2, &[]).await;
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    let changed = SystemTime::try_from(description.last_changed_date.unwrap()).unwrap();
    let created = SystemTime::try_from(description.created_date.unwrap()).unwrap();
    assert!(changed.duration_since(created).unwrap() >= 90 * DAY);
    let value = world.client.get_secret_value().secret_id("s").send().await.unwrap();
    let version_created = SystemTime::try_from(value.created_date.unwrap()).unwrap();
    assert!(version_created.duration_since(created).unwrap() >= 90 * DAY);
}

#[tokio::test]
async fn the_date_of_the_last_access_is_a_day() {
    let world = world().await;
    world.secret("s").await;
    world.value("s").await;
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    let accessed = description.last_accessed_date.unwrap();
    assert_eq!((accessed.secs() % 86_400, accessed.subsec_nanos()), (0, 0));
    let changed = description.last_changed_date.unwrap();
    assert!(accessed < changed, "reading is no change");
}
