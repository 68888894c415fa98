//! The worker that re-encrypts an application's stored rows under the primary key of their keyring: one Lambda function, invoked
//! with `{"action": …}`.
//!
//! | action | does |
//! | --- | --- |
//! | `plan` | parts the tables into ranges of about equal size |
//! | `slice` | encrypts the rows of one range again that are not under the primary key |
//! | `census` | counts rows by key, of one range or of all columns |
//!
//! An answer has a member `next`: the request that goes on, when time was up, or null; a plan is made in one go. A census of all columns
//! brings along what it has counted. Which columns there are, in which format, and where the database is, says the function's
//! environment, never the event. The function reads the keyring and writes no secret.

mod census;
mod database;
pub mod error;
pub mod history;
mod pace;
mod reader;
pub mod request;
mod ring;
pub mod settings;
mod slice;
mod table;
mod tally;
mod tls;

use std::time::Duration;

use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::lambda::{Function, Invocation, randomness};
use rotation::store::SecretStore;
use rotation::telemetry::{Datum, Unit};
use rotation::time::format_timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::database::{Access, Session, User};
use crate::error::ReencryptError;
use crate::request::{Range, Request, Resumed};
use crate::ring::Ring;
use crate::settings::Settings;
use crate::slice::Slice;
use crate::table::Source;
use crate::tally::Columns;

/// What the log calls this function's lines: at the level of the project's own.
const LOG: &str = "rotation::reencrypt";

/// What is made from the environment, once.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    access: Access,
}

impl Worker {
    /// Reads all variables of [`Settings`].
    ///
    /// # Errors
    /// An unusable variable, by name.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let settings = Settings::from_environment(environment)?;
        Ok(Self { access: Access::new(settings.database.clone())?, settings })
    }
}

/// Answers one invocation.
///
/// # Errors
/// Every failure is named, see [`ReencryptError::name`].
pub async fn answer(
    function: &Function,
    worker: &Result<Worker, RotationError>,
    mut invocation: Invocation,
) -> Result<Value, ReencryptError> {
    let request = Request::parse(invocation.payload.take());
    let result = match (&request, worker) {
        (Err(error), _) => Err(error.clone()),
        (_, Err(error)) => Err(error.clone().into()),
        (Ok(request), Ok(worker)) => Box::pin(perform(function, worker, request, invocation.deadline)).await,
    };
    let action = request.as_ref().ok().map(Request::action);
    let (request_id, duration_ms) = (invocation.request_id.as_str(), invocation.duration_ms());
    match result {
        Ok(mut told) => {
            told.insert("durationMs".to_owned(), duration_ms.into());
            let answer = Value::Object(told);
            let number = |member: &str| answer[member].as_u64();
            tracing::info!(
                target: LOG,
                request_id,
                action,
                table = answer["range"]["table"].as_str(),
                column = answer["range"]["column"].as_str(),
                version = answer["version"].as_str(),
                rows = number("rows"),
                rewrapped = number("rewrapped"),
                on_old_keys = number("onOldKeys"),
                unknown = number("unknown"),
                damaged = number("damaged"),
                overtaken = number("overtaken"),
                busy = number("busy"),
                complete = answer["next"].is_null(),
                duration_ms,
                "done"
            );
            function.publish(metrics(function.name(), &answer), invocation.end).await;
            Ok(answer)
        }
        Err(error) => {
            tracing::error!(target: LOG, request_id, action, error_type = error.name(), %error, duration_ms, "failed");
            Err(error)
        }
    }
}

/// The metrics of an answer: after a slice what it has done, after a census of all columns what it has found. A census by a ring that is
/// not the current one any more would say that rows are unreadable which the next one opens.
fn metrics(function: &str, answer: &Value) -> Vec<Datum> {
    let datum = |name, rows: u64| {
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 rows")]
        let value = rows as f64;
        Datum { name, dimensions: vec![("Function", function.to_owned())], value, unit: Unit::Count }
    };
    let number = |member: &str| answer[member].as_u64();
    if let Some(rewrapped) = number("rewrapped") {
        return vec![datum("RowsRewrapped", rewrapped)];
    }
    match number("onOldKeys") {
        Some(on_old_keys) if answer["next"].is_null() && answer["superseded"] == false => {
            let unreadable = number("unknown").unwrap_or_default() + number("damaged").unwrap_or_default();
            vec![datum("RowsOnOldKey", on_old_keys), datum("RowsUnreadable", unreadable)]
        }
        _ => vec![],
    }
}

/// What is told of a request, by name.
type Answer = Map<String, Value>;

async fn perform(
    function: &Function,
    worker: &Worker,
    request: &Request,
    deadline: Deadline,
) -> Result<Answer, ReencryptError> {
    let store = function.clients()?.secrets_manager(deadline);
    let job = Job { worker, ring: Ring::current(&worker.settings, &store).await?, deadline };
    let user = worker.access.user(&store).await?;
    let mut told = match request {
        Request::Plan { slices } => job.plan(&user, *slices).await?,
        Request::Slice { range } => job.slice(&user, range).await?,
        Request::Census { range: Some(range), .. } => job.census(&user, range).await?,
        Request::Census { range: None, resumed } => job.census_of_all(&user, &store, resumed.as_ref()).await?,
    };
    let unknown = told.get("unknown").and_then(Value::as_u64).unwrap_or_default();
    if unknown > 0 && !told.contains_key("superseded") {
        // What no key opens may be under a key that came into the ring a moment ago.
        told.insert("superseded".to_owned(), job.ring.since(&worker.settings, &store).await?.superseded.into());
    }
    told.insert("action".to_owned(), request.action().into());
    told.insert("secret".to_owned(), job.ring.secret.into());
    told.entry("version").or_insert_with(|| job.ring.version.as_str().into());
    told.entry("primaryKey").or_insert_with(|| json!(job.ring.primary));
    Ok(told)
}

/// One request at work.
struct Job<'a> {
    worker: &'a Worker,
    ring: Ring,
    deadline: Deadline,
}

impl Job<'_> {
    async fn session(&self, user: &User) -> Result<Session, ReencryptError> {
        self.worker.access.connect(user, &self.worker.settings.pace, self.deadline).await
    }

    /// When to begin nothing new: what is under way takes a statement for each of the stages, and rows that were in the way.
    fn stop(&self) -> Deadline {
        let left = self.deadline.left();
        let reserve = self.worker.settings.pace.statement_timeout * 2 + Duration::from_secs(1);
        self.deadline.within(left, reserve.min(left / 2))
    }

    async fn plan(&self, user: &User, slices: u64) -> Result<Answer, ReencryptError> {
        history::check_slices(slices, self.worker.settings.columns.len())?;
        let session = self.session(user).await?;
        session.without_statement_timeout().await?;
        let (mut ranges, mut rows) = (vec![], 0);
        for column in &self.worker.settings.columns {
            let source = Source::find(&session, column).await?;
            let (of_column, bounds) = source.bounds(&session, slices).await?;
            rows += of_column;
            ranges.extend(table::ranges(column, bounds));
        }
        let invocations = history::invocations(u64::try_from(ranges.len()).unwrap_or(u64::MAX));
        let ranges = told(&ranges)?;
        history::check_size(&ranges)?;
        let told = [("ranges", ranges), ("invocations", invocations.into()), ("rowsEstimated", rows.into())];
        Ok(members(told).into_iter().chain(members([("next", Value::Null)])).collect())
    }

    async fn slice(&self, user: &User, range: &Range) -> Result<Answer, ReencryptError> {
        let column = range.configured(&self.worker.settings)?;
        let mut rng = randomness()?;
        let (reading, writing) = (self.session(user).await?, self.session(user).await?);
        let source = Source::find(&reading, column).await?;
        let pace = self.worker.settings.pace;
        let slice = Slice { source: &source, ciphers: &self.ring.ciphers, reading, writing, pace, stop: self.stop() };
        let (sliced, next) = slice.run(range, &mut rng).await?;
        let next = next.map(|range| Request::Slice { range });
        Ok(fields(&sliced)?.into_iter().chain(members([("range", told(range)?), ("next", told(&next)?)])).collect())
    }

    async fn census(&self, user: &User, range: &Range) -> Result<Answer, ReencryptError> {
        let column = range.configured(&self.worker.settings)?;
        let session = self.session(user).await?;
        let source = Source::find(&session, column).await?;
        let pace = self.worker.settings.pace;
        let (tally, next) = census::count(&source, &session, range, &self.ring.ciphers, pace, self.stop()).await?;
        let next = next.map(|range| Request::Census { range: Some(range), resumed: None });
        Ok(fields(&tally)?.into_iter().chain(members([("range", told(range)?), ("next", told(&next)?)])).collect())
    }

    /// Counts column by column, as far as the time goes. The last answer is the whole of it: what was counted before came back with
    /// the request.
    async fn census_of_all(
        &self,
        user: &User,
        store: &impl SecretStore,
        resumed: Option<&Resumed>,
    ) -> Result<Answer, ReencryptError> {
        let settings = &self.worker.settings;
        let first = resumed.map(|resumed| resumed.position(settings)).transpose()?.unwrap_or_default();
        let began = resumed.map_or_else(|| format_timestamp(self.ring.as_of), |resumed| resumed.began.clone());
        let mut columns = Columns(resumed.map(|resumed| resumed.counted.clone()).unwrap_or_default());
        if let Some(Resumed { version, .. }) = resumed.filter(|resumed| resumed.version != self.ring.version.as_str()) {
            // What was the primary key then is not known here, and counts by two rings do not add up.
            let mut told = counts(&columns, &began)?;
            told.extend(members([("ended", format_timestamp(self.ring.as_of).into()), ("superseded", true.into())]));
            let unknown = ["primaryKey", "onOldKeys", "next"].map(|member| (member, Value::Null));
            told.extend(members(unknown).into_iter().chain(members([("version", version.as_str().into())])));
            return Ok(told);
        }
        let (session, stop) = (self.session(user).await?, self.stop());
        let mut rest = None;
        for (number, column) in settings.columns.iter().enumerate().skip(first) {
            let begin = resumed.filter(|_| number == first).map(|resumed| resumed.from.clone());
            let range = begin.unwrap_or_else(|| Range { column: column.name.clone(), after: None, through: None });
            let source = Source::find(&session, column).await?;
            let (tally, left) =
                census::count(&source, &session, &range, &self.ring.ciphers, settings.pace, stop).await?;
            columns.add(&column.name, tally);
            if left.is_some() {
                rest = left;
                break;
            }
        }
        let mut told = counts(&columns, &began)?;
        told.insert("onOldKeys".to_owned(), columns.sum(|tally| tally.not_under(self.ring.primary)).into());
        let next = rest.map(|from| {
            let version = self.ring.version.as_str().to_owned();
            Request::Census { range: None, resumed: Some(Resumed { from, counted: columns.0, began, version }) }
        });
        let (ended, superseded) = match &next {
            // Whoever goes on sees it then.
            Some(_) => (Value::Null, false),
            None => {
                let since = self.ring.since(settings, store).await?;
                (format_timestamp(since.as_of).into(), since.superseded)
            }
        };
        told.extend(members([("ended", ended), ("superseded", superseded.into()), ("next", self::told(&next)?)]));
        Ok(told)
    }
}

/// What a census of all columns has counted.
fn counts(columns: &Columns, began: &str) -> Result<Answer, ReencryptError> {
    Ok(members([
        ("columns", told(&columns.0)?),
        ("unknown", columns.sum(|tally| tally.unknown).into()),
        ("damaged", columns.sum(|tally| tally.damaged).into()),
        ("began", began.into()),
    ]))
}

fn members<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// As JSON. Everything that is told is a count, a name or a key of a table, and always has a form in JSON.
fn told(what: &impl Serialize) -> Result<Value, ReencryptError> {
    serde_json::to_value(what)
        .map_err(|_| ReencryptError::InvalidRequest { member: "range", problem: "cannot be told as JSON".to_owned() })
}

fn fields(what: &impl Serialize) -> Result<Answer, ReencryptError> {
    match told(what)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}
