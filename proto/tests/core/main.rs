//! The core's properties. Tests that hold a safety property of the design carry its name: s1, s2 and so on.

mod authority;
mod awaited;
mod bulk;
mod command;
mod drills;
mod history;
mod hostile;
mod ledger;
mod mistakes;
mod presence;
mod proposals;
mod purity;
mod restore;
mod sshsig;
mod support;
mod tightening;
mod token;
mod trust;
mod wire;
