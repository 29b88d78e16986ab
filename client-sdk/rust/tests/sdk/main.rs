//! The SDK against honest and lying services, with real keys.

mod clearance;
mod client;
mod consent;
mod fork;
mod invariant;
mod lease;
mod node;
mod stop;
mod world;
