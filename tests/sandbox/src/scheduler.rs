//! Starts rotations and scheduled functions, as time passes and when a client moves the clock.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::ecs::Ecs;
use crate::rotation_service::{due_until, next_due, start_due};
use crate::state::Shared;

/// The longest sleep. A machine that was suspended would otherwise notice late.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Starts rotations as their windows open, and functions by their schedules. Runs until its task is aborted.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut changes = shared.changes();
    loop {
        changes.mark_unchanged();
        let due = shared.transact(|tx| {
            start_due(tx);
            next_due(tx)
        });
        shared.run_timers();
        let due = due.into_iter().chain(shared.bus.next_due()).min();
        let sleep = due
            .map_or(LONGEST_SLEEP, |due| due.duration_since(shared.clock.now()).unwrap_or_default().min(LONGEST_SLEEP));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Moves the clock. It stops at each moment when a window opens, a schedule is due or a service acts, until everything
/// of that moment has ended. A rotation takes seconds, and must see the time at which it happens.
pub(crate) async fn advance(shared: &Arc<Shared>, ecs: &Ecs, by: Duration) -> io::Result<()> {
    let clock = &shared.clock;
    let goal = clock.ahead().saturating_add(by);
    if goal > Clock::FURTHEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the clock can be moved by 100 years in all"));
    }
    // Real time passes while rotations run, so the rest is computed anew each time.
    let left = || goal.saturating_sub(clock.ahead());
    settle(shared, ecs).await;
    let next = || {
        let rotation = shared.transact(|tx| next_due(tx));
        rotation.into_iter().chain(shared.bus.next_due()).chain(ecs.next_due()).min()
    };
    while let Some(due) = next().filter(|due| *due <= clock.now() + left()) {
        run_due_at(shared, due).await;
        settle(shared, ecs).await;
    }
    clock.advance(left());
    shared.notify();
    shared.save()
}

async fn run_due_at(shared: &Arc<Shared>, due: SystemTime) {
    let starting = shared.transact(|tx| due_until(tx, due));
    shared.clock.advance_to(due);
    // Either this task or the task above starts them.
    shared.transact(start_due);
    shared.run_timers();
    shared.notify();
    wait_until(shared, |shared| {
        shared.transact(|tx| starting.iter().all(|arn| tx.running(arn).is_none())).then_some(())
    })
    .await;
}

/// Waits until no function runs for an event or a schedule, and nothing is due in a service.
async fn settle(shared: &Arc<Shared>, ecs: &Ecs) {
    while !(shared.bus.is_idle() && ecs.is_settled()) {
        wait_until(shared, |shared| shared.bus.is_idle().then_some(())).await;
        ecs.settled().await;
    }
}

/// Looks at the state after every change until there is an answer.
pub(crate) async fn wait_until<T>(shared: &Arc<Shared>, mut look: impl FnMut(&Arc<Shared>) -> Option<T>) -> T {
    let mut changes = shared.changes();
    loop {
        changes.mark_unchanged();
        if let Some(answer) = look(shared) {
            return answer;
        }
        if changes.changed().await.is_err() {
            // The sender lives in `shared`.
            std::future::pending::<()>().await;
        }
    }
}
