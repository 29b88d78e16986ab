//! `profile.toml`: which deployment a person or an agent means, and how to reach it. It names what to trust by its digest, so
//! that everything else in it needs no trust.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// As it is written, in TOML. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileFile {
    /// `name:<SHA-256 of the genesis>`.
    pub deployment: String,
    /// Where nodes answer, in the order in which they are tried.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// PEM.
    pub ca: PathBuf,
    pub genesis: PathBuf,
    /// Keys that sign when no `--key` is given; nothing to an agent.
    #[serde(default)]
    pub keys: Vec<String>,
    /// What shows a node that its bearer may read: a file with a token for people and tools; nothing to an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<PathBuf>,
}
