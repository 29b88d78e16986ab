//! The one integration test binary.

mod authority;
mod bad_input;
mod durable;
mod followed;
mod kill;
mod lease_bound;
mod line;
mod openapi;
mod power_cut;
mod put_back;
mod size;
mod take_away;
mod tampering;
mod thousand;
