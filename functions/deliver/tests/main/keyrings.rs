//! Copies of keyrings in every format: a key is never lost, and a retirement restarts nobody.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::{Document, FieldName};
use rotation::keyring::{Key, KeyFormat, Keyring};
use rotation::marked_ring;
use rotation::versions::Stage;
use serde_json::{Value, json};

use crate::world::{HOUR, World};

const KEY: &str = "shop/key";
const APP: &str = "shop/app";
const FORMATS: [(&str, KeyFormat); 3] =
    [("raw", KeyFormat::Raw), ("fernet", KeyFormat::Fernet), ("tink", KeyFormat::Tink)];

/// A keyring in a secret with a copy and a service, which are delivered.
struct Stored {
    world: World,
    format: KeyFormat,
    rng: StdRng,
    ring: Keyring,
}

fn field() -> FieldName {
    FieldName::new("KEY").unwrap()
}

impl Stored {
    async fn delivered(name: &str, format: KeyFormat) -> Self {
        let world = World::new(&json!({"key": [{"copy": "app"}, {"ecs": "blue/web"}]}));
        let mut rng = StdRng::seed_from_u64(7);
        let first = Key::generate(world.now(), &mut rng);
        let value = Document::first(&format.wire().first(&first), Some(&field())).unwrap();
        world.secret(KEY, Some("encryption-key"), Some("KEY"), value.text().expose());
        world.lock().secrets.get_mut(KEY).unwrap().tags.insert("rotation:key-format".to_owned(), name.to_owned());
        world.secret(APP, None, None, r#"{"URL":"u"}"#);
        world.service("web", &[APP]);
        let ring = Keyring::new(first).unwrap();
        let mut stored = Self { world, format, rng, ring };
        stored.stage();
        stored.world.run_to_the_end().await;
        stored
    }

    fn write(&self, name: &str, ring: &Keyring) {
        let current = rotation::secret::SecretText::new(self.world.value(name));
        let current = Document::parse(current, Some(&field())).unwrap();
        self.world.store(name, self.format.wire().write(&current, ring).unwrap().text().expose());
    }

    fn new_key(&mut self) -> Key {
        Key::generate(self.world.now(), &mut self.rng)
    }

    fn stage(&mut self) {
        let key = self.new_key();
        self.ring = self.ring.clone().stage(key).unwrap();
        self.write(KEY, &self.ring);
    }

    fn promote(&mut self) {
        self.ring = self.ring.clone().promote(self.world.now()).unwrap();
        self.stage();
    }

    /// Marks the current ring as complete, as a rotation does.
    fn mark(&self) {
        let mut state = self.world.lock();
        let stages = &mut state.secrets.get_mut(KEY).unwrap().stages;
        let current = stages.holder(&Stage::Current).cloned();
        let marked = stages.holder(&marked_ring::stage()).cloned();
        stages.move_stage(&marked_ring::stage(), marked.as_ref(), current.as_ref(), |_| true).unwrap();
    }

    /// The ring of the copy.
    fn copied(&self) -> Keyring {
        let copy = rotation::secret::SecretText::new(self.world.value(APP));
        self.format.wire().parse(&Document::parse(copy, Some(&field())).unwrap()).unwrap()
    }

    fn is_copied(&self) -> bool {
        self.copied() == self.format.wire().parse(&self.source()).unwrap()
    }

    fn source(&self) -> Document {
        Document::parse(rotation::secret::SecretText::new(self.world.value(KEY)), Some(&field())).unwrap()
    }
}

fn copy(answer: &Value) -> &Value {
    &answer["secrets"][0]["consumers"][0]
}

#[tokio::test(start_paused = true)]
async fn staged_key_is_delivered_in_every_format() {
    for (name, format) in FORMATS {
        let mut stored = Stored::delivered(name, format).await;
        assert!(stored.is_copied() && stored.copied().staged().is_some(), "{name}");
        assert_eq!(stored.world.deployments("web"), 1);
        stored.promote();
        assert_eq!(stored.world.run().await["pending"], 1, "{name}: the new staged key is a new key");
        stored.world.run_to_the_end().await;
        assert!(stored.is_copied() && stored.world.is_delivered(KEY), "{name}");
        assert_eq!(stored.world.deployments("web"), 2, "{name}");
        assert!(stored.world.value(APP).starts_with(r#"{"URL":"u","#), "{name}: other members stay");
    }
}

#[tokio::test(start_paused = true)]
async fn retirement_rewrites_the_copy_and_restarts_nobody() {
    for (name, format) in FORMATS {
        let mut stored = Stored::delivered(name, format).await;
        let old = stored.ring.primary().id();
        stored.promote();
        stored.world.run_to_the_end().await;
        let deployments = stored.world.deployments("web");
        stored.ring = stored.ring.clone().retire(old).unwrap();
        stored.write(KEY, &stored.ring);
        assert_eq!(stored.world.run().await["delivered"], 1, "{name}");
        assert!(stored.is_copied() && stored.copied().get(old).is_none(), "{name}");
        assert!(stored.world.is_delivered(KEY), "{name}");
        assert_eq!(stored.world.deployments("web"), deployments, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn copy_with_a_key_that_the_source_lacks_is_never_written() {
    for (name, format) in FORMATS {
        let mut stored = Stored::delivered(name, format).await;
        let theirs = stored.new_key();
        let id = theirs.id().to_string();
        let with_theirs = stored.copied().with_secondary(theirs).unwrap();
        stored.write(APP, &with_theirs);
        let before = stored.world.value(APP);
        stored.promote();
        let answer = stored.world.run().await;
        assert_eq!(copy(&answer)["error"], "CopyDiffers", "{name}: {answer}");
        assert!(copy(&answer)["reason"].as_str().unwrap().contains(&id), "{name}: the key is named: {answer}");
        assert_eq!(stored.world.value(APP), before, "{name}");
        // The repair: the source gets the key.
        let with_all = stored.ring.clone().with_keys_of(&with_theirs).unwrap();
        stored.write(KEY, &with_all);
        stored.world.run_to_the_end().await;
        assert!(stored.is_copied(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn ring_that_lacks_keys_reaches_no_consumer() {
    for (name, format) in FORMATS {
        let mut stored = Stored::delivered(name, format).await;
        let first = Document::first(&format.wire().first(stored.ring.primary()), Some(&field())).unwrap();
        stored.promote();
        stored.world.run_to_the_end().await;
        stored.mark();
        stored.world.take_calls();
        stored.world.run().await;
        assert_eq!(stored.world.take_calls(), ["DescribeSecret", "GetSecretValue"].repeat(2), "the mark costs no call");
        let (copied, deployments) = (stored.world.value(APP), stored.world.deployments("web"));
        // Infrastructure code writes the first value again.
        stored.world.store(KEY, first.text().expose());
        for _ in 0..3 {
            let answer = stored.world.run().await;
            assert_eq!((&answer["secrets"][0]["error"], &answer["failed"]), (&json!("KeysMissing"), &json!(1)));
            tokio::time::advance(HOUR).await;
        }
        assert_eq!((stored.world.value(APP), stored.world.deployments("web")), (copied, deployments), "{name}");
        stored.write(KEY, &stored.ring);
        stored.world.run_to_the_end().await;
        assert!(stored.is_copied(), "{name}: a restored ring is delivered before it is marked");
        let started = stored.world.deployments("web") - deployments;
        assert_eq!(started, 1, "{name}: a task may have started with the ring that lacked keys");
    }
}

#[tokio::test(start_paused = true)]
async fn copy_with_some_of_the_keys_gets_all() {
    for (name, format) in FORMATS {
        let mut stored = Stored::delivered(name, format).await;
        let staged = stored.ring.staged().unwrap().id();
        // Somebody writes a ring of the primary alone into the copy.
        let alone = Keyring::new(stored.ring.primary().clone()).unwrap();
        stored.write(APP, &alone);
        stored.promote();
        stored.world.run_to_the_end().await;
        assert!(stored.is_copied() && stored.copied().get(staged).is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_key_of_two_secrets_moves_into_a_secret_of_its_own() {
    let world = World::new(&json!({"key": [{"copy": "app"}, {"copy": "worker"}]}));
    let mut rng = StdRng::seed_from_u64(3);
    let key = Key::generate(world.now(), &mut rng);
    let text = KeyFormat::Raw.wire().first(&key);
    let layout = |other: &str| format!(r#"{{"DATABASE_URL":"{other}","KEY":"{}","TIKTOK_KEY":"k"}}"#, text.expose());
    world.secret(APP, None, None, &layout("app"));
    world.secret("shop/worker", None, None, &layout("worker"));
    let own = Document::first(&text, Some(&field())).unwrap();
    world.secret(KEY, Some("encryption-key"), Some("KEY"), own.text().expose());
    assert_eq!(world.run().await["delivered"], 1, "the key has not changed: nothing is written");
    assert!(!world.take_calls().contains(&"PutSecretValue"));
    let ring = Keyring::new(key).unwrap().stage(Key::generate(world.now(), &mut rng)).unwrap();
    world.store(KEY, KeyFormat::Raw.wire().write(&own, &ring).unwrap().text().expose());
    world.run_to_the_end().await;
    for (name, other) in [(APP, "app"), ("shop/worker", "worker")] {
        let value = world.value(name);
        assert!(value.starts_with(&format!(r#"{{"DATABASE_URL":"{other}","KEY":""#)), "{name}");
        assert!(value.ends_with(r#""TIKTOK_KEY":"k"}"#) && value.contains("KEY_STAGED"), "{name}");
    }
}
