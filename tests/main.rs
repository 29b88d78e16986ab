//! The one integration test binary.

mod durable;
mod power_cut;
