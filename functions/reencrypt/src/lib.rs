//! The worker that re-encrypts an application's stored rows under the primary key of their keyring: one Lambda function, invoked
//! with `{"action": …}`.
//!
//! | action | does |
//! | --- | --- |
//! | `plan` | parts the tables into ranges of about equal size |
//! | `slice` | encrypts the rows of one range again that are not under the primary key |
//! | `census` | counts rows by key, of one range or of all columns |
//!
//! An answer to `slice` and `census` has a member `next`: the request that goes on, when time was up, or null. Which columns there
//! are, in which format, and where the database is, says the function's environment, never the event. The function reads
//! the keyring and writes no secret.

mod census;
mod database;
pub mod error;
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

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::lambda::{Function, Invocation};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::database::{Access, Session, User};
use crate::error::ReencryptError;
use crate::request::{Range, Request};
use crate::ring::Ring;
use crate::settings::Settings;
use crate::slice::Slice;
use crate::table::Source;

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
                unknown = number("unknown"),
                damaged = number("damaged"),
                overtaken = number("overtaken"),
                busy = number("busy"),
                complete = answer["next"].is_null(),
                duration_ms,
                "done"
            );
            Ok(answer)
        }
        Err(error) => {
            tracing::error!(target: LOG, request_id, action, error_type = error.name(), %error, duration_ms, "failed");
            Err(error)
        }
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
        Request::Census { range: None, from } => job.census_of_all(&user, from.as_ref()).await?,
    };
    let unknown = told.get("unknown").and_then(Value::as_u64).unwrap_or_default();
    if unknown > 0 {
        // What no key opens may be under a key that came into the ring a moment ago.
        told.insert("superseded".to_owned(), job.ring.is_superseded(&worker.settings, &store).await?.into());
    }
    told.insert("action".to_owned(), request.action().into());
    told.insert("secret".to_owned(), job.ring.secret.into());
    told.insert("version".to_owned(), job.ring.version.as_str().into());
    told.insert("primaryKey".to_owned(), json!(job.ring.primary));
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
        let session = self.session(user).await?;
        session.without_statement_timeout().await?;
        let (mut ranges, mut rows) = (vec![], 0);
        for column in &self.worker.settings.columns {
            let source = Source::find(&session, column).await?;
            let (of_column, bounds) = source.bounds(&session, slices).await?;
            rows += of_column;
            ranges.extend(table::ranges(column, bounds));
        }
        Ok(members([("ranges", told(&ranges)?), ("rowsEstimated", rows.into())]))
    }

    async fn slice(&self, user: &User, range: &Range) -> Result<Answer, ReencryptError> {
        let column = range.configured(&self.worker.settings)?;
        let mut rng = StdRng::try_from_os_rng().map_err(|_| RotationError::NoRandomness)?;
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
        let next = next.map(|range| Request::Census { range: Some(range), from: None });
        Ok(fields(&tally)?.into_iter().chain(members([("range", told(range)?), ("next", told(&next)?)])).collect())
    }

    /// Counts column by column, as far as the time goes.
    async fn census_of_all(&self, user: &User, from: Option<&Range>) -> Result<Answer, ReencryptError> {
        let settings = &self.worker.settings;
        let first = match from {
            None => 0,
            Some(from) => {
                let column = from.configured(settings)?;
                settings.columns.iter().position(|other| other == column).unwrap_or_default()
            }
        };
        let (session, stop) = (self.session(user).await?, self.stop());
        let (mut counted, mut unknown, mut next) = (vec![], 0, None);
        for (number, column) in settings.columns.iter().enumerate().skip(first) {
            let begin = from.filter(|_| number == first).cloned();
            let range = begin.unwrap_or_else(|| Range { column: column.name.clone(), after: None, through: None });
            let source = Source::find(&session, column).await?;
            let (tally, rest) =
                census::count(&source, &session, &range, &self.ring.ciphers, settings.pace, stop).await?;
            unknown += tally.unknown;
            let mut of_column = fields(&tally)?;
            of_column.extend(fields(&range.column)?);
            counted.push(Value::Object(of_column));
            if let Some(rest) = rest {
                next = Some(Request::Census { range: None, from: Some(rest) });
                break;
            }
        }
        Ok(members([("columns", counted.into()), ("unknown", unknown.into()), ("next", told(&next)?)]))
    }
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
