//! The file of webhooks: who may ask for what. Paths are relative to it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tagout_proto::scope::Scope;

use super::mapping::{Actions, Mapping, READY, Template};
use super::standard::{Key, NotAKey};
use crate::sign::{SignError, Signer, Surroundings};

const WEBHOOKS_MAX: usize = 64;
const NAME_MAX_BYTES: usize = 64;
const KEYS_MAX: usize = 4;
const SCOPES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "webhook")]
    webhooks: Vec<Entry>,
}

/// One `[[webhook]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// Files with what its requests are verified by; several while one replaces another.
    verify: Vec<PathBuf>,
    /// The private SSH key of the automation in whose name it acts.
    sign: PathBuf,
    /// A ready mapping; what is said below has precedence.
    #[serde(default = "generic")]
    mapping: String,
    scope: Option<Template>,
    reason: Option<Template>,
    case: Option<Template>,
    severity: Option<Template>,
    actions: Actions,
    /// What it may touch, each with all below it; the fleet only if `"*"` is said.
    scopes: Vec<String>,
    agents_per_hour: u64,
}

fn generic() -> String {
    "generic".into()
}

/// One webhook, ready to take requests.
pub struct Webhook {
    pub name: String,
    pub keys: Vec<Key>,
    pub signer: Signer,
    pub mapping: Mapping,
    pub scopes: Vec<Scope>,
    pub agents_per_hour: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is no file of webhooks", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{} has more than {WEBHOOKS_MAX} webhooks", path.display())]
    TooMany { path: PathBuf },
    #[error("webhook {name:?}: {why}")]
    Wrong { name: String, why: String },
    #[error("webhook {name:?}: {} cannot verify its requests: {why}", path.display())]
    Key { name: String, path: PathBuf, why: NotAKey },
    #[error("webhook {name:?}: its key cannot sign")]
    Signer {
        name: String,
        #[source]
        source: SignError,
    },
}

pub fn load(path: &Path) -> Result<Vec<Webhook>, ConfigError> {
    let text = read(path)?;
    let file: File = toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?;
    if file.webhooks.len() > WEBHOOKS_MAX {
        return Err(ConfigError::TooMany { path: path.into() });
    }
    let mut webhooks: Vec<Webhook> = Vec::new();
    for entry in file.webhooks {
        let webhook = entry.open(path.parent().unwrap_or(Path::new("")))?;
        if webhooks.iter().any(|other| other.name == webhook.name) {
            let why = "another one has this name".into();
            return Err(ConfigError::Wrong { name: webhook.name, why });
        }
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

impl Entry {
    fn open(self, folder: &Path) -> Result<Webhook, ConfigError> {
        let name = self.name.clone();
        let wrong = |why: String| ConfigError::Wrong { name: name.clone(), why };
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(is_name) {
            return Err(wrong(format!("a name has 1 to {NAME_MAX_BYTES} of a-z 0-9 . _ -")));
        }
        if self.verify.is_empty() || self.verify.len() > KEYS_MAX {
            return Err(wrong(format!("\"verify\" names 1 to {KEYS_MAX} files")));
        }
        if self.scopes.is_empty() || self.scopes.len() > SCOPES_MAX {
            return Err(wrong(format!("\"scopes\" names 1 to {SCOPES_MAX} scopes that it may touch")));
        }
        if self.agents_per_hour == 0 {
            return Err(wrong("\"agents_per_hour\" is at least 1".into()));
        }
        let ready = READY.iter().find(|ready| ready.name == self.mapping).ok_or_else(|| {
            let names: Vec<_> = READY.iter().map(|ready| ready.name).collect();
            wrong(format!("there is no mapping {:?}: {}", self.mapping, names.join(", ")))
        })?;
        let or = |said: Option<Template>, ready: &str| {
            said.unwrap_or_else(|| {
                Template::try_from(ready.to_owned()).expect("ready mappings are templates")
            })
        };
        let scopes = self.scopes.iter().map(|scope| Scope::parse(scope));
        let scopes = scopes.collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
        let mut keys = Vec::new();
        for path in self.verify.iter().map(|path| folder.join(path)) {
            let key = Key::parse(&read(&path)?);
            keys.push(key.map_err(|why| ConfigError::Key { name: name.clone(), path, why })?);
        }
        let sign = folder.join(&self.sign);
        // Nobody is there to be asked for a passphrase.
        let surroundings = Surroundings { may_ask: false, ..Surroundings::of_process() };
        let signer = Signer::open_with(&sign.to_string_lossy(), &surroundings);
        Ok(Webhook {
            keys,
            signer: signer.map_err(|source| ConfigError::Signer { name: name.clone(), source })?,
            mapping: Mapping {
                scope: or(self.scope, ready.scope),
                reason: or(self.reason, ready.reason),
                case: or(self.case, ready.case),
                severity: or(self.severity, ready.severity),
                actions: self.actions,
            },
            scopes,
            agents_per_hour: self.agents_per_hour,
            name,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}
