//! What the cluster promises while it fails: real nodes, real guards, real faults, and a checker for each safety property.
//!
//! A [`story::Story`] is one run: a cluster in network namespaces or on loopback addresses (`network/`), a load of
//! operators, guards and attackers (`workload.rs`), what is done to it (`scenarios.rs` by name, `chance.rs` by a seed), the
//! heal phase in which everything becomes live again, and the checks of `properties/` over all that was written down
//! (`history.rs`).

mod account;
mod chance;
mod cluster;
mod disk;
mod divergence;
mod history;
mod network;
mod properties;
mod scenarios;
mod soak;
mod story;
mod upgrade;
mod workload;
