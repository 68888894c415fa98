//! One run. It is level-triggered: it looks at what is, compares with what should be, and acts. It remembers nothing
//! besides the staging labels, so the next run ends whatever a run left behind.
//!
//! 1. Every secret that is asked for is read. If its value has to be delivered, the label of the delivery is attached.
//! 2. All copies are written.
//! 3. Services that lack a value are deployed, each once for all secrets. Functions are invoked.
//! 4. A secret whose consumers all have the value is labelled so.

mod context;
mod copies;
mod functions;
mod perform;
mod services;
mod source;

pub use context::{Ports, Run};
pub use copies::COPY_STAGE;
pub use functions::FUNCTION_LIMIT;
