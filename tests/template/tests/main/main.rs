//! What holds of `template.yaml` and `infra/`.

mod build;
mod emulator;
mod metrics;
mod permissions;
mod policies;
mod settings;
mod support;
mod tools;
