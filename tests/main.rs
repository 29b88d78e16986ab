//! The one integration test binary.

mod durable;
mod kill;
mod lease_bound;
mod power_cut;
