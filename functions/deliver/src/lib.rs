//! Brings a promoted value to every consumer of a secret.
