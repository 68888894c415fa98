//! The notifications of what happened in the window of a sweep.

use std::time::{Duration, SystemTime};

use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::notification::{Notification, State};
use rotation::policy::ByHand;
use rotation::store::Described;
use rotation::time::format_timestamp;
use rotation::versions::Stage;

use crate::error::OperateError;
use crate::marker::open_rotation;
use crate::sweep::digest::Window;

/// The most notifications of one sweep: each is a call. The message of the sweep names the others.
const MOST: usize = 200;

/// The notifications of a sweep that a schedule asked for.
#[derive(Debug)]
pub(super) struct Events {
    window: Window,
    events: Vec<Notification>,
}

fn current(secret: &Described) -> Option<&VersionId> {
    secret.versions.holder(&Stage::Current)
}

fn rotate(secret: &Described) -> String {
    format!("aws secretsmanager rotate-secret --secret-id {}", secret.name)
}

impl Events {
    pub(super) fn of(window: Window) -> Self {
        Self { window, events: vec![] }
    }

    pub(super) fn take(self) -> Vec<Notification> {
        self.events
    }

    fn add(
        &mut self,
        secret: &Described,
        version: Option<&VersionId>,
        at: SystemTime,
        (state, next_steps): (State, Vec<String>),
    ) {
        let Some(version) = version.cloned().filter(|_| self.events.len() < MOST) else { return };
        self.events.push(Notification { secret: secret.name.clone(), version, at, state, next_steps });
    }

    /// A secret that works, if it was rotated in the window.
    pub(super) fn promoted(&mut self, secret: &Described, accepted_until: Option<SystemTime>) {
        if let Some(at) = secret.last_rotated.filter(|rotated| self.window.contains(*rotated)) {
            self.add(secret, current(secret), at, (State::Promoted { accepted_until }, vec![]));
        }
    }

    /// An overlap was ended now. `version` is current since, if the end made a version.
    pub(super) fn overlap_ended(&mut self, secret: &Described, version: Option<&VersionId>) {
        self.add(secret, version.or(current(secret)), secret.as_of, (State::OverlapEnded, vec![]));
    }

    /// A rotation does not end since `abort_after` before the window.
    pub(super) fn stuck(&mut self, secret: &Described, abort_after: Duration) {
        let Some(since) = secret.last_changed.filter(|changed| self.window.contains(*changed + abort_after)) else {
            return;
        };
        let reason = format!("the rotation to it does not come to its end since {}", format_timestamp(since));
        let state = State::RotationFailed { error: "StuckPending".to_owned(), reason };
        self.add(secret, open_rotation(secret), since, (state, vec![rotate(secret)]));
    }

    /// A rotation was due in the window, and did not begin.
    pub(super) fn overdue(&mut self, secret: &Described) {
        self.due(secret, secret.next_rotation, rotate(secret));
    }

    /// What people rotate was due in the window. What was never recorded counts from the last change.
    pub(super) fn due_by_hand(&mut self, secret: &Described, due: &[ByHand]) {
        for value in due {
            self.due(secret, value.due().or(secret.last_changed), format!("infra/rotation put {}", secret.name));
        }
    }

    fn due(&mut self, secret: &Described, since: Option<SystemTime>, repair: String) {
        if let Some(since) = since.filter(|due| self.window.contains(*due)) {
            self.add(secret, current(secret), since, (State::Due { since }, vec![repair]));
        }
    }

    /// Keys disappeared from a ring. It is sent again once a day.
    pub(super) fn keys_missing(&mut self, secret: &Described, error: &OperateError) {
        let OperateError::Rotation(RotationError::KeysMissing { keys, .. }) = error else { return };
        let Some(since) = secret.last_changed.filter(|changed| self.window.tells_of(*changed)) else { return };
        let keys = keys.iter().map(ToString::to_string).collect();
        self.add(secret, current(secret), since, (State::KeysMissing { keys }, vec![]));
    }
}
