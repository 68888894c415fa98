//! What holds of `template.yaml` and `infra/`.

mod metrics;
mod policies;
mod settings;
mod support;
mod tools;
