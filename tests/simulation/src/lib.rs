//! Every schedule of faults that rotations and operations may meet, run against the real protocol and every kind of secret.
//!
//! A deterministic model of Secrets Manager, of the application, and of a person who edits stands behind the functions'
//! two ports. Each call waits at a *gate* before it takes effect and after; at every gate a schedule may let the process
//! die, lose the answer, deliver the event once more, store a value by hand. The promises are checked after every single
//! effect, and at the end the rotation or operation must be done, or refused for a named reason; the same operation, asked for
//! once more, must be finished, and the next rotation must succeed.
//!
//! | module | what |
//! | --- | --- |
//! | `state` | the rules by which Secrets Manager keeps versions and stages |
//! | [`model`] | what is particular to a kind of secret: values, the application, edits, promises of its own; one file each |
//! | `world` | secret and application, with a clock, stale reads, and the gates |
//! | `invariants` | the promises that hold for every kind |
//! | `operations` | what operators ask for, and what their answers have to mean |
//! | `ports` | the functions' ports into the world |
//! | [`schedule`] | what can happen at a gate |
//! | [`run`] | the rotation service with its retries, the operators, and the scheduler |
//! | [`families`] | the schedules, exhaustively, and the random search |
//! | [`histories`] | rows that are stored under a keyring, and what happens to them beside rotations and operations, by chance |

pub mod families;
pub mod histories;
mod invariants;
pub mod model;
pub mod operations;
mod ports;
pub mod run;
pub mod scenario;
pub mod schedule;
mod state;
mod tested;
mod world;
