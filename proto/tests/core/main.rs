//! The core's properties. Tests that hold a safety property of the design carry its name: s1, s2, s5, s7, s8.

mod authority;
mod command;
mod hostile;
mod ledger;
mod purity;
mod sshsig;
mod support;
mod token;
mod wire;
