//! `tagout authority`: who may do what, since when, and how that is changed: proposed, looked at, signed offline by the root
//! keys of the version in force and of the next one, and submitted.

use clap::Subcommand;

use super::Globals;
use super::failure::{Exit, Failure};
use super::out::Out;

pub mod change;
pub(super) mod diff;
pub mod document;
mod history;
mod propose;
mod show;
pub(super) mod sign;

pub use propose::successor;

#[derive(Subcommand)]
pub enum AuthorityVerb {
    /// Show who may do what, now or at an earlier time
    Show(show::ShowArgs),
    /// Show every version, suspend and restore, each proven to be in the signed log
    History,
    /// Write a draft of the next version, to be edited freely
    Propose(Box<propose::ProposeArgs>),
    /// Say in words what a draft changes, and which agents it disables
    Diff(diff::DiffArgs),
    /// Sign a draft with a root key, also offline; `ssh-keygen -Y sign -n tagout-command` does it as well
    Sign(sign::SignArgs),
    /// Collect the signatures beside a draft and have it take effect
    Submit(sign::SubmitArgs),
}

pub fn run(out: &Out, globals: &Globals, verb: AuthorityVerb) -> Result<Exit, Failure> {
    match verb {
        AuthorityVerb::Show(args) => show::run(out, globals, args),
        AuthorityVerb::History => history::run(out, globals),
        AuthorityVerb::Propose(args) => propose::run(out, globals, *args),
        AuthorityVerb::Diff(args) => diff::run(out, globals, args),
        AuthorityVerb::Sign(args) => sign::sign(out, globals, args),
        AuthorityVerb::Submit(args) => sign::submit(out, globals, args),
    }
}
