//! The SDK against honest and lying services, with real keys.

mod agent;
mod clearance;
mod client;
mod clocks;
mod cluster;
mod consent;
mod cut;
mod deliver;
mod enrolment;
mod fork;
mod history;
mod http;
mod invariant;
mod kept;
mod lease;
mod lying;
mod node;
mod peers;
#[path = "../../../../tests/skip.rs"]
mod skip;
mod stop;
mod throttle;
mod tls;
mod trip;
mod trust;
mod verdict;
mod world;
