//! What the tests share.

pub mod bin;
pub mod deployment;
pub mod issuer;
pub mod process;
pub mod producer;
pub mod ran;
pub mod random;
pub mod receiver;
pub mod session;
pub mod skip;
pub mod three;
pub mod wait;
pub mod webhook;
