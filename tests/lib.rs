//! What the tests share.

pub mod bin;
pub mod process;
pub mod skip;
pub mod wait;
