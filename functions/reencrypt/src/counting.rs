//! Counts all columns in turn, over as many invocations as it takes. A plan and a census begin with this count.

use std::collections::BTreeMap;
use std::time::Duration;

use rotation::census::{Census, Columns, LOGGED, MOST_VALUES};
use rotation::deadline::Deadline;
use rotation::event::VersionId;
use rotation::keyring::KeyId;
use rotation::rows::RowFormat;
use rotation::store::SecretStore;
use rotation::time::Timestamp;
use tokio_postgres::types::Type;

use crate::answer::{Answer, fields, members, told};
use crate::copies::{self, Copies};
use crate::database::{Session, Trouble, User};
use crate::error::ReencryptError;
use crate::job::{Job, LOG};
use crate::marks::Marks;
use crate::reader::BUSY_PAUSE;
use crate::request::{Range, Request, Resumed};
use crate::table::{self, Source, get};
use crate::understood::Understood;
use crate::{census, history};

/// How long a census waits for transactions that are open when it begins. Most transactions take less. A longer wait
/// would delay a caller that only wants the counts.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// The most time for the search for unlisted columns.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// The counts so far.
pub(crate) struct Counting {
    columns: Columns,
    /// The bounds at which a plan divides each column.
    marks: Vec<Marks>,
    began: Timestamp,
    settled: bool,
    delivered: bool,
    /// The range that is left when time is up.
    rest: Option<Range>,
    /// Unlisted columns; empty until all columns are counted.
    copies: Copies,
    /// The counted version, if the ring was replaced after an earlier invocation. This invocation has counted nothing
    /// then.
    replaced: Option<VersionId>,
}

/// Waits until the transactions that are open now have ended: `true` when all have. No other session sees their rows.
///
/// A prepared transaction counts as open until it is committed. The open transactions have smaller ids than the one
/// that this wait takes. `pg_snapshot_xmax` is no bound, because the newest open transaction may have an id beyond it.
async fn settle(session: &Session, stop: Deadline) -> Result<bool, ReencryptError> {
    const BEGUN: &str = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";
    const ENDED: &str = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) OPERATOR(pg_catalog.>=) $1::pg_catalog.text::pg_catalog.xid8";
    let none = || Trouble::Busy("no snapshot".to_owned());
    let begun = session.query(BEGUN, &[]).await?;
    let begun: String = get(begun.first().ok_or_else(none)?, 0)?;
    let wait = stop.within(SETTLE_TIME, stop.left() / 2);
    loop {
        let ended = session.query(ENDED, &[(&begun, Type::TEXT)]).await?;
        if get(ended.first().ok_or_else(none)?, 0)? {
            return Ok(true);
        }
        if !wait.pause(BUSY_PAUSE).await {
            return Ok(false);
        }
    }
}

impl Job<'_> {
    /// Counts column by column until time is up. Earlier counts come back with the request.
    ///
    /// # Errors
    /// Those of [`Source::find`] and of the database. For a plan also [`ReencryptError::ColumnNotUnderstood`], at the
    /// end of a column.
    async fn count_all(
        &self,
        user: &User,
        resumed: Option<&Resumed>,
        is_plan: bool,
    ) -> Result<Counting, ReencryptError> {
        let settings = &self.worker.settings;
        let first = resumed.map(|resumed| resumed.position(settings)).transpose()?.unwrap_or_default();
        let mut counting = Counting {
            columns: resumed.map(|resumed| resumed.counted.clone()).unwrap_or_default(),
            marks: resumed.map(|resumed| resumed.marks.clone()).unwrap_or_default(),
            began: resumed.map_or(Timestamp(self.ring.as_of), |resumed| resumed.began),
            settled: resumed.is_some_and(|resumed| resumed.settled),
            delivered: resumed.map_or(self.ring.delivered, |resumed| resumed.delivered),
            rest: None,
            copies: Copies::default(),
            replaced: resumed.map(|resumed| resumed.version.clone()).filter(|version| *version != self.ring.version),
        };
        if counting.replaced.is_some() {
            return Ok(counting);
        }
        let (session, stop) = (self.session(user).await?, self.stop());
        if resumed.is_none() && !is_plan {
            counting.settled = settle(&session, stop).await?;
        }
        for (number, column) in settings.columns.iter().enumerate().skip(first) {
            let begin = resumed.filter(|_| number == first).map(|resumed| resumed.from.clone());
            let whole = || Range { column: column.name.clone(), after: None, through: None, understood: None };
            let range = begin.unwrap_or_else(whole);
            let source = Source::find(&session, column).await?;
            counting.marks.resize_with(number + 1, Marks::default);
            let marks = &mut counting.marks[number];
            let ciphers = &self.ring.ciphers;
            let (tally, left) = census::count(&source, &session, &range, ciphers, settings.pace, stop, marks).await?;
            counting.columns.add(&column.name, tally);
            if left.is_some() {
                counting.rest = left;
                break;
            }
            if is_plan {
                let whole = counting.columns.0.last().map(|counted| Understood::of(column, &counted.tally));
                whole.transpose()?;
            }
        }
        if counting.rest.is_none() {
            // The reserve behind `stop` has time for this search. A census without the search would be no evidence.
            let stop = self.deadline.within(LOOK_TIME, self.deadline.left() / 2);
            counting.copies = copies::find(&session, settings, &self.ring.ciphers, stop).await?;
        }
        Ok(counting)
    }

    /// Reads all columns, and divides them into ranges of about equal size. Every value has to be understood first.
    ///
    /// # Errors
    /// Those of [`count_all`](Self::count_all), and those of [`history::check_slices`] and [`history::check_size`].
    pub(crate) async fn plan(
        &self,
        user: &User,
        store: &impl SecretStore,
        slices: u64,
        resumed: Option<&Resumed>,
    ) -> Result<Answer, ReencryptError> {
        history::check_slices(slices, self.worker.settings.columns.len())?;
        let mut counting = self.count_all(user, resumed, true).await?;
        let mut ranges = vec![];
        if counting.rest.is_none() && counting.replaced.is_none() {
            let whole = self.worker.settings.columns.iter().zip(&counting.columns.0).zip(&counting.marks);
            for ((column, counted), marks) in whole {
                let understood = Understood::of(column, &counted.tally)?;
                ranges.extend(table::ranges(column, marks.bounds(slices), &understood));
            }
        }
        let columns = self.worker.settings.columns.len();
        counting.marks.iter_mut().for_each(|marks| marks.thin_out_for(slices, columns));
        let rows = counting.columns.sum(|tally| tally.rows);
        let go_on = |resumed| Request::Plan { slices, resumed: Some(resumed) };
        let census = self.census_so_far(store, counting, go_on).await?;
        // The caller compares this version with the version that it works for.
        let mut answer = fields(&Census { version: self.ring.version.clone(), ..census })?;
        let invocations = history::invocations(u64::try_from(ranges.len()).unwrap_or(u64::MAX));
        let ranges = told(&ranges)?;
        history::check_size(&ranges)?;
        answer.extend(members([("ranges", ranges), ("invocations", invocations.into()), ("rows", rows.into())]));
        Ok(answer)
    }

    /// Counts all columns. The last answer has the whole count.
    ///
    /// # Errors
    /// Those of [`count_all`](Self::count_all).
    pub(crate) async fn census_of_all(
        &self,
        user: &User,
        store: &impl SecretStore,
        resumed: Option<&Resumed>,
    ) -> Result<Answer, ReencryptError> {
        let mut counting = self.count_all(user, resumed, false).await?;
        counting.marks.clear();
        let go_on = |resumed| Request::Census { range: None, resumed: Some(resumed) };
        fields(&self.census_so_far(store, counting, go_on).await?)
    }

    /// The counts so far, with the request that continues.
    async fn census_so_far(
        &self,
        store: &impl SecretStore,
        counting: Counting,
        go_on: impl FnOnce(Resumed) -> Request,
    ) -> Result<Census, ReencryptError> {
        let Counting { columns, marks, began, settled, delivered, rest, copies, replaced } = counting;
        let mut census = Census {
            secret: self.ring.secret.clone(),
            version: self.ring.version.clone(),
            primary_key: None,
            began,
            ended: None,
            on_old_keys: None,
            unknown: columns.sum(|tally| tally.unknown),
            damaged: columns.sum(|tally| tally.damaged),
            settled,
            delivered,
            superseded: false,
            next: None,
            unlisted: None,
            not_looked_at: None,
            worn_keys: None,
            columns,
        };
        if let Some(version) = replaced {
            // The primary key of the counted version is not known here. Counts by two rings do not add up.
            let ended = Some(Timestamp(self.ring.as_of));
            return Ok(Census { version, ended, superseded: true, ..census });
        }
        census.primary_key = Some(self.ring.primary);
        census.on_old_keys = Some(census.columns.sum(|tally| tally.not_under(self.ring.primary)));
        (census.unlisted, census.not_looked_at) = (Some(copies.unlisted), Some(copies.not_looked_at));
        census.worn_keys = Some(self.worn_keys(&census.columns));
        if let Some(from) = rest {
            // The next invocation checks whether another version has become current.
            let (counted, version) = (census.columns.clone(), self.ring.version.clone());
            census.next = Some(told(&go_on(Resumed { from, counted, began, version, settled, delivered, marks }))?);
        } else {
            let since = self.ring.since(&self.worker.settings, store).await?;
            (census.ended, census.superseded) = (Some(Timestamp(since.as_of)), since.superseded);
            self.log(&census);
        }
        Ok(census)
    }

    /// Writes the line that `operate` reads in the log, see [`LOGGED`].
    fn log(&self, census: &Census) {
        let worn_keys = census.worn_keys.as_ref().and_then(|worn| serde_json::to_string(worn).ok());
        let (secret, primary_key) = (census.secret.as_str(), self.ring.primary.to_string());
        tracing::info!(target: LOG, secret, primary_key, worn_keys, "{LOGGED}");
    }

    /// Keys with half of the values that random nonces allow. None for Fernet: its tokens have no GCM nonce.
    fn worn_keys(&self, columns: &Columns) -> BTreeMap<KeyId, u64> {
        let settings = &self.worker.settings;
        if settings.columns.iter().all(|column| column.format == RowFormat::Fernet) {
            return BTreeMap::new();
        }
        let worn = columns.keys_with(MOST_VALUES / 2);
        if !worn.is_empty() {
            tracing::warn!(target: LOG, keys = ?worn, most = MOST_VALUES, "keys have half of the values that random nonces allow");
        }
        worn
    }
}
