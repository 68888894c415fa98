//! All columns, counted one after the other, over as many invocations as it takes: what a plan and a census begin with.

use std::collections::BTreeMap;
use std::time::Duration;

use rotation::deadline::Deadline;
use rotation::rows::RowFormat;
use rotation::store::SecretStore;
use rotation::time::format_timestamp;
use serde_json::{Value, json};
use tokio_postgres::types::Type;

use crate::copies::{self, Copies};
use crate::database::{Session, Trouble, User};
use crate::error::ReencryptError;
use crate::marks::Marks;
use crate::reader::BUSY_PAUSE;
use crate::request::{Range, Request, Resumed};
use crate::table::{self, Source, get};
use crate::tally::Columns;
use crate::understood::Understood;
use crate::{Answer, Job, LOG, census, fields, history, members, told};

/// So long a census waits for transactions that are open when it begins. Most take less; for others it would keep nobody waiting who
/// only wants to know how many rows are under which key.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// So long it is looked for columns that nobody listed.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// So many values one AES-GCM key may encrypt with nonces that are drawn (NIST SP 800-38D, section 8.3). Those that are stored are the least
/// that it has encrypted.
const MOST_VALUES: u64 = 1 << 32;

/// What has been counted so far.
pub(crate) struct Counting {
    columns: Columns,
    /// Where a plan parts each of the columns.
    marks: Vec<Marks>,
    began: String,
    settled: bool,
    /// What is left, when the time was up.
    rest: Option<Range>,
    /// Columns that nobody listed, once all is counted.
    copies: Copies,
    /// Whether the ring was replaced after an invocation before this one. Nothing was counted since.
    replaced: bool,
}

/// Waits for the transactions that are open now, whose rows nobody else sees: `true` when all have ended. A prepared transaction is one of
/// them until it is committed. They are those with a smaller id than this one gets; `pg_snapshot_xmax` would be no mark, because the
/// newest of them may be behind it.
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
    /// Counts column by column, as far as the time goes. What was counted before came back with the request.
    ///
    /// # Errors
    /// Those of [`Source::find`] and of the database; for a plan [`ReencryptError::ColumnNotUnderstood`] at the end of a column.
    async fn count_all(
        &self,
        user: &User,
        resumed: Option<&Resumed>,
        is_plan: bool,
    ) -> Result<Counting, ReencryptError> {
        let settings = &self.worker.settings;
        let first = resumed.map(|resumed| resumed.position(settings)).transpose()?.unwrap_or_default();
        let mut counting = Counting {
            columns: Columns(resumed.map(|resumed| resumed.counted.clone()).unwrap_or_default()),
            marks: resumed.map(|resumed| resumed.marks.clone()).unwrap_or_default(),
            began: resumed.map_or_else(|| format_timestamp(self.ring.as_of), |resumed| resumed.began.clone()),
            settled: resumed.is_some_and(|resumed| resumed.settled),
            rest: None,
            copies: Copies::default(),
            replaced: resumed.is_some_and(|resumed| resumed.version != self.ring.version.as_str()),
        };
        if counting.replaced {
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
            // Behind `stop` there is time for what is under way, and a census without this would be no evidence.
            let stop = self.deadline.within(LOOK_TIME, self.deadline.left() / 2);
            counting.copies = copies::find(&session, settings, &self.ring.ciphers, stop).await?;
        }
        Ok(counting)
    }

    /// Reads all columns, and parts those whose every value is understood into ranges of about equal size.
    ///
    /// # Errors
    /// Those of [`count_all`](Self::count_all).
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
        if counting.rest.is_none() && !counting.replaced {
            let whole = self.worker.settings.columns.iter().zip(&counting.columns.0).zip(&counting.marks);
            for ((column, counted), marks) in whole {
                let understood = Understood::of(column, &counted.tally)?;
                ranges.extend(table::ranges(column, marks.bounds(slices), &understood));
            }
        }
        let columns = self.worker.settings.columns.len();
        counting.marks.iter_mut().for_each(|marks| marks.thin_out_for(slices, columns));
        let rows = counting.columns.sum(|tally| tally.rows);
        let mut told = self.tell(store, counting, |resumed| Request::Plan { slices, resumed: Some(resumed) }).await?;
        let invocations = history::invocations(u64::try_from(ranges.len()).unwrap_or(u64::MAX));
        let ranges = self::told(&ranges)?;
        history::check_size(&ranges)?;
        told.extend(members([("ranges", ranges), ("invocations", invocations.into()), ("rows", rows.into())]));
        // Whoever asked compares it with the version that it works for.
        told.insert("version".to_owned(), self.ring.version.as_str().into());
        Ok(told)
    }

    /// Counts all columns. The last answer is the whole of it.
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
        let mut told =
            self.tell(store, counting, |resumed| Request::Census { range: None, resumed: Some(resumed) }).await?;
        if let Some(Resumed { version, .. }) = resumed {
            told.insert("version".to_owned(), version.as_str().into());
        }
        Ok(told)
    }

    /// Whether the ring's keys encrypt with AES-GCM. Fernet's do not.
    fn draws_nonces(&self) -> bool {
        self.worker.settings.columns.iter().any(|column| column.format != RowFormat::Fernet)
    }

    /// What has been counted, and the request that goes on.
    async fn tell(
        &self,
        store: &impl SecretStore,
        counting: Counting,
        go_on: impl FnOnce(Resumed) -> Request,
    ) -> Result<Answer, ReencryptError> {
        let Counting { columns, marks, began, settled, rest, copies, replaced } = counting;
        let mut told = members([
            ("columns", self::told(&columns.0)?),
            ("unknown", columns.sum(|tally| tally.unknown).into()),
            ("damaged", columns.sum(|tally| tally.damaged).into()),
            ("began", began.clone().into()),
            ("settled", settled.into()),
        ]);
        if replaced {
            // What was the primary key then is not known here, and counts by two rings do not add up.
            told.extend(members([("ended", format_timestamp(self.ring.as_of).into()), ("superseded", true.into())]));
            told.extend(members(["primaryKey", "onOldKeys", "next"].map(|member| (member, Value::Null))));
            return Ok(told);
        }
        told.extend(fields(&copies)?);
        let worn = if self.draws_nonces() { columns.keys_with(MOST_VALUES / 2) } else { BTreeMap::new() };
        if !worn.is_empty() {
            tracing::warn!(target: LOG, keys = ?worn, most = MOST_VALUES, "keys have half of the values that random nonces allow");
        }
        told.insert("wornKeys".to_owned(), self::told(&worn)?);
        told.insert("onOldKeys".to_owned(), columns.sum(|tally| tally.not_under(self.ring.primary)).into());
        let (ended, superseded) = if rest.is_some() {
            // Whoever goes on sees it then.
            (Value::Null, false)
        } else {
            let since = self.ring.since(&self.worker.settings, store).await?;
            (format_timestamp(since.as_of).into(), since.superseded)
        };
        let version = self.ring.version.as_str().to_owned();
        let next = rest.map(|from| go_on(Resumed { from, counted: columns.0, began, version, settled, marks }));
        told.extend(members([("ended", ended), ("superseded", json!(superseded)), ("next", self::told(&next)?)]));
        Ok(told)
    }
}
