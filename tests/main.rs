//! The one integration test binary.

mod bad_input;
mod durable;
mod kill;
mod lease_bound;
mod line;
mod openapi;
mod power_cut;
mod put_back;
mod size;
mod tampering;
