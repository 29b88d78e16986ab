//! The client, and how a forked child gets one of its own.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use tagout::BuildError;
use tagout::limits::INSTANCE_MAX_BYTES;

use crate::generation::Generation;

#[pyclass(frozen, subclass, module = "tagout._native")]
pub struct Client(pub Arc<Process>);

/// What a client is in one process.
pub struct Process {
    config: Arc<Config>,
    pub born: Generation,
    pub native: tagout::Client,
    /// The same client in a child that was forked off. No thread can stand inside of it when one is forked: it is made
    /// with the GIL held, and so is a fork.
    child: OnceLock<Result<Arc<Process>, String>>,
}

/// What it was made of, for making it again.
pub struct Config {
    profile: Option<PathBuf>,
    nodes: Vec<String>,
    ca: Option<Content>,
    genesis: Option<Content>,
    pinned: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    instance: Option<String>,
    stop_folder: Option<PathBuf>,
    state_folder: Option<PathBuf>,
}

/// A file, or what would stand in it.
#[derive(FromPyObject)]
pub enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (
        *, profile=None, nodes=None, ca=None, genesis=None, pinned=None, token=None, token_file=None, instance=None, stop_folder=None,
        state_folder=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        profile: Option<PathBuf>,
        nodes: Option<Vec<String>>,
        ca: Option<Content>,
        genesis: Option<Content>,
        pinned: Option<String>,
        token: Option<String>,
        token_file: Option<PathBuf>,
        instance: Option<String>,
        stop_folder: Option<PathBuf>,
        state_folder: Option<PathBuf>,
    ) -> PyResult<Self> {
        let config = Config {
            profile: profile.or_else(|| Some(variable("TAGOUT_PROFILE")?.into())),
            nodes: nodes.unwrap_or_else(nodes_of_environment),
            ca: ca.or_else(|| Some(Content::File(variable("TAGOUT_CA")?.into()))),
            genesis: genesis.or_else(|| Some(Content::File(variable("TAGOUT_GENESIS")?.into()))),
            pinned: pinned.or_else(|| variable("TAGOUT_PINNED")?.into_string().ok()),
            token,
            token_file,
            instance,
            stop_folder: stop_folder.or_else(|| Some(variable("TAGOUT_STOP_FOLDER")?.into())),
            state_folder: state_folder.or_else(|| Some(variable("TAGOUT_STATE_FOLDER")?.into())),
        };
        let instance = config.instance.clone();
        let native = config.build(instance).map_err(|error| match error {
            BuildError::Read { .. } | BuildError::Randomness(_) | BuildError::Thread(_) => {
                PyOSError::new_err(whole(&error))
            }
            _ => PyValueError::new_err(whole(&error)),
        })?;
        Ok(Self(Process::new(config.into(), native)))
    }

    /// The deployment that it trusts: its name, and the SHA-256 of its genesis.
    #[getter]
    fn deployment(&self) -> String {
        self.0.native.deployment().to_string()
    }

    /// Where it asks.
    #[getter]
    fn nodes(&self) -> Vec<String> {
        self.0.native.nodes().to_vec()
    }
}

impl Process {
    fn new(config: Arc<Config>, native: tagout::Client) -> Arc<Self> {
        Arc::new(Self { config, born: Generation::here(), native, child: OnceLock::new() })
    }

    /// The client of the process that asks. In a forked child it is made anew the first time, or says why it cannot be.
    pub fn here(self: &Arc<Self>) -> Result<&Arc<Self>, String> {
        if self.born.is_here() {
            return Ok(self);
        }
        let child = self.child.get_or_init(|| {
            // Two processes of one name would be one in the account of who has confirmed a stop.
            let instance = self.config.instance.as_ref().map(|name| format!("{name}-{}", std::process::id()));
            let instance = instance.filter(|name| name.len() <= INSTANCE_MAX_BYTES);
            let native = self.config.build(instance).map_err(|error| whole(&error))?;
            Ok(Self::new(Arc::clone(&self.config), native))
        });
        child.as_ref().map_err(String::clone)?.here()
    }
}

impl Config {
    fn build(&self, instance: Option<String>) -> Result<tagout::Client, BuildError> {
        let mut builder = tagout::Client::builder();
        if let Some(path) = &self.profile {
            builder = builder.profile_file(path);
        }
        for node in &self.nodes {
            builder = builder.node(node);
        }
        builder = match &self.ca {
            Some(Content::Bytes(pem)) => builder.ca_pem(pem.as_slice()),
            Some(Content::File(path)) => builder.ca_file(path),
            None => builder,
        };
        builder = match &self.genesis {
            Some(Content::Bytes(json)) => builder.genesis_json(json.as_slice()),
            Some(Content::File(path)) => builder.genesis_file(path),
            None => builder,
        };
        if let Some(pinned) = &self.pinned {
            builder = builder.pinned(pinned);
        }
        if let Some(path) = &self.token_file {
            builder = builder.token_file(path);
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        if let Some(instance) = instance {
            builder = builder.instance(instance);
        }
        if let Some(path) = &self.stop_folder {
            builder = builder.stop_folder(path);
        }
        if let Some(path) = &self.state_folder {
            builder = builder.state_folder(path);
        }
        builder.build()
    }
}

/// Set and empty means unset, as in a unit file with a blank value.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn nodes_of_environment() -> Vec<String> {
    let nodes = variable("TAGOUT_NODES").unwrap_or_default().to_string_lossy().into_owned();
    nodes.split(',').map(str::trim).filter(|node| !node.is_empty()).map(Into::into).collect()
}

/// An error with its causes.
fn whole(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
