//! The file of receivers: who is told of what. Paths are relative to it, and secrets are in files of their own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use tagout_proto::scope::Scope;

use super::event::{Event, Topic};
use super::format::{Format, Issue};
use super::key::{Key, NotAKey};
use super::target::{FileTarget, HttpTarget, Surroundings, SyslogTarget, Target, Transport};
use crate::tls::{self, TlsError};
use crate::written::{FileError, parse, read};

pub const RECEIVERS_MAX: usize = 32;
const NAME_MAX_BYTES: usize = 64;
const SCOPES_MAX: usize = 64;
const KEYS_MAX: usize = 4;
const HEADERS_MAX: usize = 32;
const GIVE_UP_AFTER_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const GIVE_UP_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const FILE_DEFAULT_MIB: u64 = 64;
const FILE_MAX_MIB: u64 = 4096;
const KEEP_DEFAULT: u32 = 4;
const KEEP_MAX: u32 = 64;
/// Of a proposal's address: what takes its place is a digest.
const LINK_ID: &str = "{id}";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Where a proposal is shown to people, with `{id}` in it.
    link: Option<String>,
    #[serde(default, rename = "receiver")]
    receivers: Vec<HttpEntry>,
    #[serde(default)]
    siem: Vec<SiemEntry>,
}

/// One `[[receiver]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpEntry {
    name: String,
    url: Option<String>,
    /// A file with the address, where that is a secret, as Slack's and Teams' are.
    url_file: Option<PathBuf>,
    #[serde(default = "standard")]
    format: Format,
    /// Files with what it is signed with; several while one replaces another.
    #[serde(default)]
    sign: Vec<PathBuf>,
    /// A file with the value of the header Authorization.
    authorization_file: Option<PathBuf>,
    /// A file with `Name: value` lines.
    headers_file: Option<PathBuf>,
    /// The CA of a private receiver, instead of those that this machine trusts.
    ca: Option<PathBuf>,
    project: Option<String>,
    issue_type: Option<String>,
    #[serde(flatten)]
    common: Common,
}

/// One `[[siem]]`: OCSF lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SiemEntry {
    name: String,
    file: Option<PathBuf>,
    max_mib: Option<u64>,
    keep: Option<u32>,
    /// `udp://`, `tcp://` or `tls://`, host and port.
    syslog: Option<String>,
    ca: Option<PathBuf>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Deserialize)]
struct Common {
    events: Option<Vec<Topic>>,
    scopes: Option<Vec<String>>,
    #[serde(default, with = "humantime_text")]
    give_up_after: Option<Duration>,
    from: Option<From>,
}

/// Where one begins that is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    Beginning,
    End,
}

fn standard() -> Format {
    Format::Standard
}

mod humantime_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de};

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(input)?;
        let wrong = |e| de::Error::custom(format!("{text:?} is no time: {e}; write it as 30m or 24h"));
        humantime::parse_duration(&text).map(Some).map_err(wrong)
    }
}

/// One receiver, ready to be told.
pub struct Receiver {
    pub name: String,
    pub topics: Option<Vec<Topic>>,
    pub scopes: Vec<Scope>,
    pub give_up_after: Duration,
    pub from: From,
    pub target: Target,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} has more than {RECEIVERS_MAX} receivers", path.display())]
    TooMany { path: PathBuf },
    #[error(
        "\"link\" in {} is no template of a proposal's address: write it as \"https://console.example/proposals/{LINK_ID}\"",
        path.display()
    )]
    Link { path: PathBuf },
    #[error("receiver {name:?}: {why}")]
    Wrong { name: String, why: String },
    #[error("receiver {name:?}: {} cannot sign: {why}", path.display())]
    Key { name: String, path: PathBuf, why: NotAKey },
    #[error("receiver {name:?}: its connections cannot be secured")]
    Tls {
        name: String,
        #[source]
        source: TlsError,
    },
}

impl Receiver {
    /// What happens above a scope is for it, too; but a refused attempt is told with what was wanted, wherever that was.
    pub fn wants(&self, event: &Event) -> bool {
        let concerns = |scope: &Scope| {
            scope.covers(&event.scope) || (event.topic != Topic::Security && event.scope.covers(scope))
        };
        self.wants_topic(event.topic) && self.scopes.iter().any(concerns)
    }

    pub fn wants_topic(&self, topic: Topic) -> bool {
        self.topics.as_ref().is_none_or(|topics| topics.contains(&topic))
    }
}

/// `node` is this node's name.
pub fn load(path: &Path, node: &str) -> Result<Vec<Receiver>, ConfigError> {
    let text = read(path)?;
    let file: File = parse(path, &text, "no file of receivers")?;
    if file.receivers.len() + file.siem.len() > RECEIVERS_MAX {
        return Err(ConfigError::TooMany { path: path.into() });
    }
    let is_template = |link: &String| {
        link.contains(LINK_ID) && Url::parse(link).is_ok_and(|url| ["https", "http"].contains(&url.scheme()))
    };
    if !file.link.as_ref().is_none_or(is_template) {
        return Err(ConfigError::Link { path: path.into() });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let over_http = file.receivers.into_iter().map(|entry| entry.open(folder, file.link.as_ref()));
    let lines = file.siem.into_iter().map(|entry| entry.open(folder, node));
    let mut receivers: Vec<Receiver> = Vec::new();
    for receiver in over_http.chain(lines) {
        let receiver = receiver?;
        if receivers.iter().any(|other| other.name == receiver.name) {
            return Err(wrong(&receiver.name, "another one has this name"));
        }
        receivers.push(receiver);
    }
    Ok(receivers)
}

impl HttpEntry {
    fn open(mut self, folder: &Path, link: Option<&String>) -> Result<Receiver, ConfigError> {
        let name = self.name.clone();
        // Strangers make as many refused attempts as they like: no ticket of each, unless somebody wants that.
        if self.format.is_for_people() {
            let most = || Topic::ALL.into_iter().filter(|topic| *topic != Topic::Security).collect();
            self.common.events.get_or_insert_with(most);
        }
        let url = match (&self.url, &self.url_file) {
            (Some(url), None) => url.clone(),
            (None, Some(file)) => read(&folder.join(file))?.to_string(),
            _ => return Err(wrong(&name, "say \"url\", or \"url_file\" where the address is a secret")),
        };
        // An address in a file is a secret: no message shows it.
        let url = Url::parse(url.trim())
            .ok()
            .filter(|url| url.has_host() && url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| wrong(&name, "its address is none: write https://HOST/PATH, and what it authenticates with in \"authorization_file\""))?;
        let tls = match url.scheme() {
            "https" => tls_for(&name, self.ca.map(|ca| folder.join(ca)).as_deref())?,
            "http" if is_loopback(&url) => tls::client_config_of_nobody()
                .map_err(|source| ConfigError::Tls { name: name.clone(), source })?,
            _ => return Err(wrong(&name, "its address is not https; http is for this machine alone")),
        };
        if self.sign.len() > KEYS_MAX {
            return Err(wrong(&name, format!("\"sign\" names at most {KEYS_MAX} files")));
        }
        if self.format == Format::Standard && self.sign.is_empty() {
            return Err(wrong(
                &name,
                "a standard receiver needs \"sign\": `tagout notifications key FILE` makes a key, and shows what it verifies with",
            ));
        }
        let mut keys = Vec::new();
        for path in self.sign.iter().map(|path| folder.join(path)) {
            let key = Key::parse(&read(&path)?);
            keys.push(key.map_err(|why| ConfigError::Key { name: name.clone(), path, why })?);
        }
        let issue = match (self.format, self.project, self.issue_type) {
            (Format::Jira, Some(project), issue_type) => {
                Some(Issue { project, issue_type: issue_type.unwrap_or_else(|| "Task".into()) })
            }
            (Format::Jira, None, _) => {
                return Err(wrong(&name, "a jira receiver needs \"project\", its key"));
            }
            (_, None, None) => None,
            _ => return Err(wrong(&name, "\"project\" and \"issue_type\" are for the format jira")),
        };
        let authorization = self.authorization_file.map(|file| read(&folder.join(file))).transpose()?;
        let extra = self.headers_file.map(|file| read(&folder.join(file))).transpose()?;
        let [authorization, extra] =
            [&authorization, &extra].map(|text| text.as_ref().map(|text| text.as_str()));
        let headers = headers(&name, authorization, extra)?;
        let surroundings = Surroundings { tls, headers, keys, issue, link: link.cloned() };
        let target = HttpTarget::new(url, self.format, surroundings);
        let target = target.map_err(|error| wrong(&name, format!("no client: {}", error.without_url())))?;
        self.common.receiver(name, Target::Http(target))
    }
}

impl SiemEntry {
    fn open(self, folder: &Path, node: &str) -> Result<Receiver, ConfigError> {
        let name = self.name;
        let target = match (self.file, self.syslog) {
            (Some(file), None) => {
                if self.ca.is_some() {
                    return Err(wrong(&name, "\"ca\" is for syslog over tls"));
                }
                let max_mib = self.max_mib.unwrap_or(FILE_DEFAULT_MIB);
                let keep = self.keep.unwrap_or(KEEP_DEFAULT);
                if !(1..=FILE_MAX_MIB).contains(&max_mib) || !(1..=KEEP_MAX).contains(&keep) {
                    let why = format!(
                        "\"max_mib\" is 1 to {FILE_MAX_MIB}, and \"keep\" 1 to {KEEP_MAX} older files"
                    );
                    return Err(wrong(&name, why));
                }
                Target::File(FileTarget { path: folder.join(file), max_bytes: max_mib << 20, keep })
            }
            (None, Some(syslog)) => {
                if self.max_mib.is_some() || self.keep.is_some() {
                    return Err(wrong(&name, "\"max_mib\" and \"keep\" are for \"file\""));
                }
                let ca = self.ca.map(|ca| folder.join(ca));
                Target::Syslog(syslog_target(&name, &syslog, ca.as_deref(), node)?)
            }
            _ => return Err(wrong(&name, "say \"file\" or \"syslog\"")),
        };
        self.common.receiver(name, target)
    }
}

impl Common {
    fn receiver(self, name: String, target: Target) -> Result<Receiver, ConfigError> {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(is_name) {
            return Err(wrong(&name, format!("a name has 1 to {NAME_MAX_BYTES} of a-z 0-9 . _ -")));
        }
        if self.events.as_ref().is_some_and(Vec::is_empty) {
            return Err(wrong(&name, "\"events\" names at least one; without it, it is told of everything"));
        }
        let scopes = self.scopes.unwrap_or_else(|| vec!["*".into()]);
        if scopes.is_empty() || scopes.len() > SCOPES_MAX {
            return Err(wrong(&name, format!("\"scopes\" names 1 to {SCOPES_MAX}")));
        }
        let scopes: Result<Vec<_>, _> = scopes.iter().map(|scope| Scope::parse(scope)).collect();
        let scopes = scopes.map_err(|error| wrong(&name, error.to_string()))?;
        let by_name = self.events.as_ref().is_some_and(|events| events.contains(&Topic::Security));
        if by_name && !scopes.iter().any(Scope::is_fleet) {
            return Err(wrong(&name, "\"security\" is of the whole fleet: say scopes = [\"*\"], or none"));
        }
        let give_up_after = self.give_up_after.unwrap_or(GIVE_UP_AFTER_DEFAULT);
        if give_up_after.is_zero() || give_up_after > GIVE_UP_AFTER_MAX {
            return Err(wrong(&name, "\"give_up_after\" is at most 30 days, and more than nothing"));
        }
        Ok(Receiver {
            topics: self.events,
            scopes,
            give_up_after,
            from: self.from.unwrap_or(From::End),
            target,
            name,
        })
    }
}

fn wrong(name: &str, why: impl Into<String>) -> ConfigError {
    ConfigError::Wrong { name: name.into(), why: why.into() }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls_for(name: &str, ca: Option<&Path>) -> Result<rustls::ClientConfig, ConfigError> {
    let config = match ca {
        Some(ca) => tls::client_config(&read(ca)?),
        None => tls::client_config_of_system(),
    };
    config.map_err(|source| ConfigError::Tls { name: name.into(), source })
}

fn syslog_target(
    name: &str,
    syslog: &str,
    ca: Option<&Path>,
    node: &str,
) -> Result<SyslogTarget, ConfigError> {
    let not_one =
        || wrong(name, "\"syslog\" is udp://HOST:514, tcp://HOST:601 or tls://HOST:6514, with the port said");
    let url = Url::parse(syslog).map_err(|_| not_one())?;
    let (Some(host), Some(port), "" | "/") = (url.host_str(), url.port(), url.path()) else {
        return Err(not_one());
    };
    let transport = match url.scheme() {
        "tls" => {
            let mut config = tls_for(name, ca)?;
            // It is no HTTP.
            config.alpn_protocols.clear();
            Transport::Tls(config.into())
        }
        _ if ca.is_some() => return Err(wrong(name, "\"ca\" is for syslog over tls")),
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        _ => return Err(not_one()),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(SyslogTarget::new(transport, host, port, node.into()))
}

fn headers(name: &str, authorization: Option<&str>, extra: Option<&str>) -> Result<HeaderMap, ConfigError> {
    // What is in these files is secret: no message shows any of it.
    let value = |text: &str| {
        let mut value = HeaderValue::from_str(text.trim())
            .map_err(|_| wrong(name, "a header's value has characters that none may have"))?;
        value.set_sensitive(true);
        Ok::<_, ConfigError>(value)
    };
    let mut headers = HeaderMap::new();
    if let Some(text) = authorization {
        headers.insert(AUTHORIZATION, value(text)?);
    }
    for line in extra.into_iter().flat_map(str::lines).filter(|line| !line.trim().is_empty()) {
        let not_one = || wrong(name, "a line of \"headers_file\" is not \"Name: value\"");
        let (key, text) = line.split_once(':').ok_or_else(not_one)?;
        let key = HeaderName::from_bytes(key.trim().as_bytes()).map_err(|_| not_one())?;
        let ours = ["webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "host"];
        if ours.contains(&key.as_str()) {
            return Err(wrong(
                name,
                format!("the header {key} is the node's own: take it out of \"headers_file\""),
            ));
        }
        headers.insert(key, value(text)?);
        if headers.len() > HEADERS_MAX {
            return Err(wrong(name, format!("\"headers_file\" has at most {HEADERS_MAX} lines")));
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::{attempt, stop};
    use super::*;

    #[test]
    fn refused_attempts_are_for_those_who_see_the_fleet_and_in_chat_for_those_who_ask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.toml");
        let wants = |target: &str, more: &str| {
            std::fs::write(&path, format!("{target}\nname = 'soc'\n{more}")).unwrap();
            let receiver = load(&path, "node-1").unwrap().remove(0);
            (receiver.wants(&stop()), receiver.wants(&attempt()))
        };
        let lines = "[[siem]]\nfile = 'ocsf.jsonl'";
        assert_eq!(wants(lines, ""), (true, true));
        assert_eq!(wants(lines, "scopes = ['support']"), (true, false));
        assert_eq!(wants(lines, "scopes = ['support/agent_22/part']"), (true, false), "the stop is above it");
        assert_eq!(wants(lines, "scopes = ['billing']"), (false, false));
        let chat = "[[receiver]]\nformat = 'slack'\nurl = 'https://hooks.slack.example/x'";
        assert_eq!(wants(chat, ""), (true, false));
        assert_eq!(wants(chat, "events = ['security']"), (false, true));
    }
}
