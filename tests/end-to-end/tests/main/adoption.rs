//! Adoptions of common layouts, as `infra/ADOPT-LAYOUTS.md` says them: its commands run as they stand, and its parameters
//! make the stack.

mod one_key_in_two_secrets;
mod others;
mod page;
mod team;
