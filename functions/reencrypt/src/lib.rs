//! The worker rewraps an application's stored rows under the primary key of their keyring. It is one Lambda function,
//! invoked with `{"action": …}`.
//!
//! | action | does |
//! | --- | --- |
//! | `plan` | reads all columns to the end, and divides them into ranges of about equal size |
//! | `slice` | rewraps the rows of one range that are not under the primary key |
//! | `census` | counts rows by key, of one range or of all columns |
//!
//! An answer has a member `next`: the request that continues when time was up, or null. For a plan and a census of all
//! columns, `next` holds the counts so far. The function's environment sets the columns, their formats and the
//! database; an event never does. The function reads the keyring and writes no secret.

mod answer;
mod census;
mod copies;
mod counting;
mod database;
pub mod error;
pub mod history;
mod job;
pub mod marks;
pub mod pace;
mod reader;
pub mod request;
mod ring;
pub mod settings;
mod slice;
mod table;
mod tls;
pub mod understood;

use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::lambda::{Function, Invocation, randomness};
use rotation::telemetry::{Datum, Unit};
use serde_json::{Value, json};

use crate::answer::{Answer, fields, members, told};
use crate::database::User;
use crate::error::ReencryptError;
use crate::job::{Job, LOG};
use crate::marks::Marks;
use crate::request::{Range, Request};
use crate::ring::Ring;
use crate::slice::Slice;
use crate::table::Source;

pub use crate::job::Worker;

/// Runs one invocation.
///
/// # Errors
/// Every failure has a name, see [`ReencryptError::name`].
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

/// The metrics of an answer: the work of a slice, or the counts of a census of all columns. A plan publishes no
/// counts, because a census follows it. A superseded census publishes none either: it would report rows as unreadable
/// that the current ring opens.
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
        Some(on_old_keys)
            if answer["action"] == "census" && answer["next"].is_null() && answer["superseded"] == false =>
        {
            let unreadable = number("unknown").unwrap_or_default() + number("damaged").unwrap_or_default();
            vec![datum("RowsOnOldKey", on_old_keys), datum("RowsUnreadable", unreadable)]
        }
        _ => vec![],
    }
}

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
        Request::Plan { slices, resumed } => job.plan(&user, &store, *slices, resumed.as_ref()).await?,
        Request::Slice { range } => job.slice(&user, range).await?,
        Request::Census { range: Some(range), .. } => job.census(&user, range).await?,
        Request::Census { range: None, resumed } => job.census_of_all(&user, &store, resumed.as_ref()).await?,
    };
    let unknown = told.get("unknown").and_then(Value::as_u64).unwrap_or_default();
    if unknown > 0 && !told.contains_key("superseded") {
        // A key may have come into the ring a moment ago, and may open these values.
        told.insert("superseded".to_owned(), job.ring.since(&worker.settings, &store).await?.superseded.into());
    }
    told.insert("action".to_owned(), request.action().into());
    told.insert("secret".to_owned(), job.ring.secret.into());
    told.entry("version").or_insert_with(|| job.ring.version.as_str().into());
    told.entry("primaryKey").or_insert_with(|| json!(job.ring.primary));
    Ok(told)
}

impl Job<'_> {
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
        let (ciphers, marks) = (&self.ring.ciphers, &mut Marks::default());
        let (tally, next) = census::count(&source, &session, range, ciphers, pace, self.stop(), marks).await?;
        let next = next.map(|range| Request::Census { range: Some(range), resumed: None });
        Ok(fields(&tally)?.into_iter().chain(members([("range", told(range)?), ("next", told(&next)?)])).collect())
    }
}
