//! The node and its parts.

pub mod access;
pub mod admission;
pub mod api;
pub mod audit;
pub mod certificates;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod dev;
pub mod divergence;
pub mod document;
pub mod due;
pub mod fair;
pub mod instances;
pub mod leases;
pub mod node;
pub mod notify;
pub mod outcomes;
pub mod peers;
pub mod pending;
pub mod pki;
pub mod push;
pub mod raft;
pub mod replica;
pub mod reserve;
pub mod seed;
pub mod service;
pub mod sign;
mod signers;
pub mod store;
mod tighten;
pub mod tls;
mod way;
pub mod webhooks;
mod written;

/// Runs what may wait for a disk away from the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
