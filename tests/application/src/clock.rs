//! The wall clock of an application whose secrets carry dates.
//!
//! Secrets Manager's side writes the end of an overlap. A wrong local clock would end the overlap at the wrong time. So
//! the clock follows the `Date` header (RFC 9110) in the answers of Secrets Manager.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_secretsmanager::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_secretsmanager::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_secretsmanager::error::BoxError;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use jiff::SignedDuration;

/// The application's source of time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The system clock plus an offset from the answers of Secrets Manager.
///
/// A `Date` header has whole seconds and travels for a while, so one answer only bounds the offset. The clock moves by
/// the least offset that agrees with the answer, so a correct system clock stays. After a jump of the service's time,
/// the clock is at most one second behind, and less with every answer.
#[derive(Clone, Debug, Default)]
pub struct ServiceClock {
    offset: Arc<Mutex<SignedDuration>>,
}

impl ServiceClock {
    /// The best known present time.
    pub fn now(&self) -> SystemTime {
        let offset = *self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let system = machine_time();
        let shifted = if offset.is_negative() {
            system.checked_sub(offset.unsigned_abs())
        } else {
            system.checked_add(offset.unsigned_abs())
        };
        shifted.unwrap_or(system)
    }

    /// This clock as a function. The function follows later corrections.
    pub fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }

    /// Corrects the offset by an answer with this `Date`. `sent` and `received` are times of the system clock.
    fn learn(&self, date: SystemTime, sent: SystemTime, received: SystemTime) {
        let (Ok(least), Ok(most)) =
            (SignedDuration::system_until(received, date), SignedDuration::system_until(sent, date))
        else {
            return;
        };
        let most = most.saturating_add(SignedDuration::from_secs(1));
        let mut offset = self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        *offset = (*offset).max(least).min(most);
    }
}

/// The system clock, which [`ServiceClock`] corrects.
#[allow(clippy::disallowed_methods, reason = "the machine's clock is read here only, and corrected before it is used")]
fn machine_time() -> SystemTime {
    SystemTime::now()
}

/// The time at which the present attempt of a call was sent, by the system clock.
#[derive(Debug)]
struct SentAt(SystemTime);

impl Storable for SentAt {
    type Storer = StoreReplace<Self>;
}

/// The part of a Secrets Manager client that corrects a [`ServiceClock`].
#[derive(Debug)]
pub(crate) struct LearnFromDate(pub(crate) ServiceClock);

impl Intercept for LearnFromDate {
    fn name(&self) -> &'static str {
        "LearnFromDate"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(SentAt(machine_time()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let received = machine_time();
        let date = context.response().headers().get("date").and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        if let (Some(date), Some(SentAt(sent))) = (date, config.load::<SentAt>()) {
            self.0.learn(date.timestamp().into(), *sent, received);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn distance(clock: &ServiceClock, to: SystemTime) -> Duration {
        SignedDuration::system_until(to, clock.now()).unwrap().unsigned_abs()
    }

    #[test]
    fn a_date_that_agrees_with_the_system_clock_moves_nothing() {
        let clock = ServiceClock::default();
        let now = machine_time();
        clock.learn(now - Duration::from_millis(700), now, now);
        assert_eq!(*clock.offset.lock().unwrap(), SignedDuration::ZERO);
    }

    #[test]
    fn a_date_far_away_moves_the_clock_there_and_back_again() {
        let clock = ServiceClock::default();
        let ninety_days = Duration::from_hours(90 * 24);
        let now = machine_time();
        clock.learn(now + ninety_days, now, now);
        assert!(distance(&clock, now + ninety_days) < Duration::from_secs(1));
        clock.learn(now, now, now);
        assert!(distance(&clock, now) < Duration::from_secs(2));
    }

    #[test]
    fn every_answer_narrows_the_error_of_whole_seconds() {
        let clock = ServiceClock::default();
        let hour = SignedDuration::from_hours(1);
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let date = second + Duration::from_hours(1);
        let late = second + Duration::from_millis(900);
        clock.learn(date, late, late);
        assert_eq!(*clock.offset.lock().unwrap(), hour - SignedDuration::from_millis(900));
        let early = second + Duration::from_millis(1_050);
        clock.learn(date + Duration::from_secs(1), early, early);
        assert_eq!(*clock.offset.lock().unwrap(), hour - SignedDuration::from_millis(50));
    }
}
