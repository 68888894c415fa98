//! A run from its beginning to its end.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rotation::lambda::AUDIT;
use rotation::store::SecretStore;

use super::context::Run;
use super::source::{ReadSource, Source};
use crate::error::DeliverError;
use crate::ports::{Functions, Notifications, Services};
use crate::report::{Answer, Event, SecretReport, State};
use crate::request::{Request, Scope};

impl<S: SecretStore, E: Services, F: Functions, N: Notifications> Run<'_, S, E, F, N> {
    /// Brings the values of the secrets that are asked for to their consumers. An error of one secret or consumer is in
    /// the answer, and does not keep the others from being delivered.
    ///
    /// # Errors
    /// [`DeliverError::NotConsumed`].
    pub async fn perform(mut self, request: &Request) -> Result<Answer, DeliverError> {
        self.dry_run = request.dry_run;
        let run = &self;
        let asked = request.secrets(&run.deliverer.settings.consumers)?;
        let mut reports: BTreeMap<&str, SecretReport> = BTreeMap::new();
        let mut sources: Vec<Source<'_>> = Vec::new();
        for (name, consumers) in &asked {
            match run.read_and_mark(name, consumers).await {
                Ok(ReadSource::Value(source)) => sources.push(*source),
                Ok(ReadSource::NoValue) => {
                    reports.insert(name, no_value(name));
                }
                Err(error) => {
                    run.log(name, &error);
                    reports.insert(name, SecretReport::failed(name, &error));
                }
            }
        }
        let mut sources = run.copy_all_of(sources, &mut reports).await;
        run.serve_all(&mut sources).await;
        run.invoke_all(&mut sources).await;
        for mut source in sources {
            let (report, ended) = run.end_and_report(&mut source).await;
            if let Some(event) = Event::of(&report, ended, run.clock.time()).filter(|_| !run.dry_run) {
                run.notify(&event).await;
            }
            reports.insert(source.name, report);
        }
        Ok(Answer::new(reports.into_values().collect(), request.scope == Scope::All, request.dry_run))
    }

    /// Copies the values of all secrets. A secret whose label could not be attached anew is left to the next run.
    async fn copy_all_of<'s>(
        &self,
        sources: Vec<Source<'s>>,
        reports: &mut BTreeMap<&'s str, SecretReport>,
    ) -> Vec<Source<'s>> {
        let mut copied = Vec::new();
        for mut source in sources {
            match self.copy_all(&mut source).await {
                Ok(()) => copied.push(source),
                Err(error) => {
                    self.log(source.name, &error);
                    reports.insert(source.name, SecretReport::failed(source.name, &error));
                }
            }
        }
        copied
    }

    async fn read_and_mark<'s>(
        &'s self,
        name: &'s str,
        consumers: &'s [crate::settings::Consumer],
    ) -> Result<ReadSource<'s>, DeliverError> {
        if self.is_over() {
            return Err(DeliverError::TimeTooShort);
        }
        let mut read = self.read(name, consumers).await?;
        if let ReadSource::Value(source) = &mut read {
            self.mark(source).await?;
        }
        Ok(read)
    }

    /// Ends the delivery if all consumers have the value. With the time at which it had begun, if this run ended it.
    async fn end_and_report(&self, source: &mut Source<'_>) -> (SecretReport, Option<SystemTime>) {
        let began = source.began;
        match self.end(source).await {
            Ok(ended) => (source.report(self.clock.time()), began.filter(|_| ended)),
            Err(error) => {
                self.log(source.name, &error);
                let report = source.report(self.clock.time());
                let failed = SecretReport::failed(source.name, &error);
                let report = SecretReport {
                    state: report.state.max(failed.state),
                    error: failed.error,
                    reason: failed.reason,
                    ..report
                };
                (report, None)
            }
        }
    }

    async fn notify(&self, event: &Event) {
        let bounded = self.deadline.bound(self.ports.notifications.notify(event)).await;
        if let Err(problem) = bounded.unwrap_or_else(|| Err("no answer in time".to_owned())) {
            tracing::warn!(target: AUDIT, secret = event.secret, problem, "the event was not sent");
        }
    }

    fn log(&self, secret: &str, error: &DeliverError) {
        let error_type = error.name();
        tracing::error!(target: AUDIT, request_id = self.request_id, secret, error_type, %error, "not delivered");
    }
}

/// A secret that never had a value: there is nothing to deliver.
fn no_value(name: &str) -> SecretReport {
    SecretReport {
        secret: name.to_owned(),
        state: State::Delivered,
        version: None,
        since: None,
        late: false,
        error: None,
        reason: Some("the secret has no value yet: its first rotation, or put, stores one".to_owned()),
        consumers: vec![],
    }
}
