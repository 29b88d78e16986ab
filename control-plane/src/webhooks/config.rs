//! The file of webhooks and OpenC2 producers: who may ask for what. Paths are relative to it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tagout_proto::digest::Digest;
use tagout_proto::scope::Scope;

use super::mapping::{Actions, Mapping, READY, Template};
use super::openc2::Producer;
use super::standard::{Key, NotAKey};
use super::{Integration, Kind, Webhook, Webhooks, Which};
use crate::sign::{SignError, Signer, Surroundings};
use crate::written::{FileError, parse, read};

const WEBHOOKS_MAX: usize = 64;
const NAME_MAX_BYTES: usize = 64;
const KEYS_MAX: usize = 4;
const SCOPES_MAX: usize = 64;
const AGENTS_PER_HOUR: RangeInclusive<u64> = 1..=10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "webhook")]
    webhooks: Vec<Entry>,
    #[serde(default, rename = "openc2")]
    producers: Vec<ProducerEntry>,
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

/// One `[[openc2]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProducerEntry {
    name: String,
    /// SHA-256 of what it shows as `Authorization: Bearer tagout_…`; several while one replaces another.
    tokens: Vec<String>,
    sign: PathBuf,
    scopes: Vec<String>,
    agents_per_hour: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} has more than {WEBHOOKS_MAX} webhooks, or OpenC2 producers", path.display())]
    TooMany { path: PathBuf },
    #[error("{which}: {why}")]
    Wrong { which: Which, why: String },
    #[error("{which}: {} cannot verify its requests: {why}", path.display())]
    Key { which: Which, path: PathBuf, why: NotAKey },
    #[error("{which}: its key cannot sign")]
    Signer {
        which: Which,
        #[source]
        source: SignError,
    },
}

pub fn load(path: &Path) -> Result<Webhooks, ConfigError> {
    let text = read(path)?;
    let file: File = parse(path, &text, "no file of webhooks")?;
    if file.webhooks.len() > WEBHOOKS_MAX || file.producers.len() > WEBHOOKS_MAX {
        return Err(ConfigError::TooMany { path: path.into() });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut all = Webhooks::default();
    // A name begins the ids of what is signed, so no two have the same.
    let mut names = BTreeSet::new();
    let mut is_new = |which: &Which| match names.insert(which.name.clone()) {
        true => Ok(()),
        false => Err(wrong(which, "another one has this name")),
    };
    for entry in file.webhooks {
        let webhook = entry.open(folder)?;
        is_new(&webhook.integration.which)?;
        all.webhooks.insert(webhook.integration.which.name.clone(), webhook);
    }
    let mut tokens = BTreeSet::new();
    for entry in file.producers {
        let producer = entry.open(folder)?;
        is_new(&producer.integration.which)?;
        if !producer.tokens.iter().all(|token| tokens.insert(*token)) {
            return Err(wrong(&producer.integration.which, "one of its tokens stands twice"));
        }
        all.producers.push(producer);
    }
    Ok(all)
}

fn wrong(which: &Which, why: impl Into<String>) -> ConfigError {
    ConfigError::Wrong { which: which.clone(), why: why.into() }
}

/// What all that act in an automation's name have in common.
fn integration(
    which: Which,
    sign: &Path,
    scopes: &[String],
    agents_per_hour: u64,
) -> Result<Integration, ConfigError> {
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let name = &which.name;
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(is_name) {
        return Err(wrong(&which, format!("a name has 1 to {NAME_MAX_BYTES} of a-z 0-9 . _ -")));
    }
    if scopes.is_empty() || scopes.len() > SCOPES_MAX {
        return Err(wrong(&which, format!("\"scopes\" names 1 to {SCOPES_MAX} scopes that it may touch")));
    }
    if !AGENTS_PER_HOUR.contains(&agents_per_hour) {
        let (least, most) = AGENTS_PER_HOUR.into_inner();
        return Err(wrong(&which, format!("\"agents_per_hour\" is at least {least} and at most {most}")));
    }
    let scopes = scopes.iter().map(|scope| Scope::parse(scope));
    let scopes = scopes.collect::<Result<_, _>>().map_err(|e| wrong(&which, e.to_string()))?;
    // Nobody is there to be asked for a passphrase.
    let surroundings = Surroundings { may_ask: false, ..Surroundings::of_process() };
    match Signer::open_with(&sign.to_string_lossy(), &surroundings) {
        Ok(signer) => Ok(Integration::new(which, signer, scopes, agents_per_hour)),
        Err(source) => Err(ConfigError::Signer { which, source }),
    }
}

impl Entry {
    fn open(self, folder: &Path) -> Result<Webhook, ConfigError> {
        let which = Which { kind: Kind::Webhook, name: self.name };
        if self.verify.is_empty() || self.verify.len() > KEYS_MAX {
            return Err(wrong(&which, format!("\"verify\" names 1 to {KEYS_MAX} files")));
        }
        let ready = READY.iter().find(|ready| ready.name == self.mapping).ok_or_else(|| {
            let names: Vec<_> = READY.iter().map(|ready| ready.name).collect();
            wrong(&which, format!("there is no mapping {:?}: {}", self.mapping, names.join(", ")))
        })?;
        let or = |said: Option<Template>, ready: &str| {
            said.unwrap_or_else(|| {
                Template::try_from(ready.to_owned()).expect("ready mappings are templates")
            })
        };
        let mut keys = Vec::new();
        for path in self.verify.iter().map(|path| folder.join(path)) {
            let key = Key::parse(&read(&path)?);
            keys.push(key.map_err(|why| ConfigError::Key { which: which.clone(), path, why })?);
        }
        Ok(Webhook {
            integration: integration(which, &folder.join(&self.sign), &self.scopes, self.agents_per_hour)?,
            keys,
            mapping: Mapping {
                scope: or(self.scope, ready.scope),
                reason: or(self.reason, ready.reason),
                case: or(self.case, ready.case),
                // Numbers from elsewhere may count otherwise.
                names: if self.severity.is_none() { ready.names } else { &[] },
                severity: or(self.severity, ready.severity),
                actions: self.actions,
            },
        })
    }
}

impl ProducerEntry {
    fn open(self, folder: &Path) -> Result<Producer, ConfigError> {
        let which = Which { kind: Kind::Openc2, name: self.name };
        if self.tokens.is_empty() || self.tokens.len() > KEYS_MAX {
            return Err(wrong(&which, format!("\"tokens\" has 1 to {KEYS_MAX} digests of tokens")));
        }
        let digest = |text: &String| text.parse::<Digest>().ok();
        let tokens = self.tokens.iter().map(digest).collect::<Option<_>>().ok_or_else(|| {
            let why = "\"tokens\" has the SHA-256 of each token as 64 lowercase hex digits, never the token itself: \
                       printf %s \"$token\" | sha256sum";
            wrong(&which, why)
        })?;
        let integration = integration(which, &folder.join(&self.sign), &self.scopes, self.agents_per_hour)?;
        Ok(Producer { integration, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_shipped_for_platforms_is_one() {
        let shipped = include_str!("../../../deploy/soar/webhooks.toml");
        let file = toml::from_str::<File>(shipped).unwrap();
        let [webhook] = &file.webhooks[..] else { panic!("one webhook") };
        let Actions::BySeverity(actions) = &webhook.actions else { panic!("an action for each word") };
        assert_eq!(actions.keys().collect::<Vec<_>>(), ["contain", "stop", "test", "throttle"]);
    }
}
