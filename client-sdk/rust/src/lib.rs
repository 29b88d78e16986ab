//! The guard. See the README.

mod calls;
mod cell;
mod client;
mod clock;
mod confirm;
mod denied;
mod driver;
mod guard;
pub mod limits;
mod nodes;
mod push;
pub mod trusted;

pub use client::{BuildError, Builder, Client, GuardError};
pub use clock::Now;
pub use denied::{Denied, Lock, Reason, Stopped};
pub use guard::{Change, Changes, Guard, GuardedStream, Permit, State};
pub use nodes::NodesError;
pub use tagout_proto as proto;
