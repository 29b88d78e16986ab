//! The file of who may read (`access.toml`). Paths are relative to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use tagout_proto::digest::Digest;
use tagout_proto::scope::Scope;
use tagout_proto::wire::AccessRole;

use super::mutual::{ClientCas, NotACa};
use super::oidc::IssuerRule;
use crate::written::{FileError, parse, read};

const TOKENS_MAX: usize = 1024;
const SCOPES_MAX: usize = 64;
const NAMES_MAX: usize = 256;
const NAME_MAX_BYTES: usize = 64;
const LEEWAY_DEFAULT_S: u64 = 60;
const LEEWAY_MAX_S: u64 = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What anybody may read who reaches the node.
    #[serde(default)]
    open: BTreeSet<Open>,
    /// What gives takes an operator's identity besides its signatures.
    #[serde(default)]
    commands_need_bearer: bool,
    #[serde(default, rename = "token")]
    tokens: Vec<TokenEntry>,
    oidc: Option<OidcEntry>,
    mtls: Option<MtlsEntry>,
}

/// What may be open to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Open {
    /// `/log/`: for whoever verifies it.
    Log,
    /// `/metrics`.
    Metrics,
    /// Everything, to whoever is on this machine: the node listens on loopback only.
    All,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    sha256: Digest,
    role: AccessRole,
    /// Absent for the whole fleet.
    scopes: Option<Vec<String>>,
    expires: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OidcEntry {
    issuer: String,
    audience: String,
    #[serde(default = "leeway")]
    leeway_s: u64,
    /// The name of a claim at the top, or a JSON Pointer (RFC 6901) to one further down.
    roles_claim: String,
    #[serde(default)]
    viewer: Vec<String>,
    #[serde(default)]
    operator: Vec<String>,
    /// The issuer's private CA, PEM; absent for the system's.
    ca: Option<PathBuf>,
}

fn leeway() -> u64 {
    LEEWAY_DEFAULT_S
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MtlsEntry {
    /// Who signs the clients' certificates, PEM.
    ca: PathBuf,
    #[serde(default)]
    viewer: Vec<String>,
    #[serde(default)]
    operator: Vec<String>,
}

/// Who may read, as the file says.
#[derive(Debug, Default)]
pub struct Rules {
    pub open: BTreeSet<Open>,
    pub commands_need_bearer: bool,
    pub tokens: BTreeMap<Digest, TokenRule>,
    pub oidc: Option<IssuerRule>,
    pub mtls: Option<MtlsRule>,
    /// What else was read: the CAs.
    pub files: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRule {
    pub name: String,
    pub role: AccessRole,
    pub scopes: Vec<Scope>,
    pub expires_at_ms: u64,
}

#[derive(Debug)]
pub struct MtlsRule {
    pub cas: ClientCas,
    pub roles: Roles,
}

/// Who is what, by names that somebody else vouches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub viewer: BTreeSet<String>,
    pub operator: BTreeSet<String>,
}

impl Roles {
    /// The highest role of whoever has these names.
    pub fn of<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<AccessRole> {
        let role = |name: &str| match (self.operator.contains(name), self.viewer.contains(name)) {
            (true, _) => Some(AccessRole::Operator),
            (false, true) => Some(AccessRole::Viewer),
            (false, false) => None,
        };
        names.filter_map(role).max()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("token {name:?}: {why}")]
    Token { name: String, why: String },
    #[error("there are more than {TOKENS_MAX} tokens: `tagout token revoke` takes out those that ended")]
    TooManyTokens,
    #[error("[oidc]: {0}")]
    Oidc(String),
    #[error("[mtls]: {0}")]
    Mtls(String),
    #[error("[mtls]: {} cannot be used", path.display())]
    Ca { path: PathBuf, source: NotACa },
    #[error(
        "open = [\"all\"] is for a node that listens on a loopback address, and this one listens on {0}: anybody could read \
         everything. Name \"log\" or \"metrics\", or give tokens (`tagout token new`)"
    )]
    OpenElsewhere(IpAddr),
}

impl Rules {
    /// Reads the file of a node that listens on `listen`.
    pub fn load(path: &Path, listen: IpAddr) -> Result<Self, ConfigError> {
        let rules = Self::parse(path, &read(path)?)?;
        if rules.open.contains(&Open::All) && !listen.is_loopback() {
            return Err(ConfigError::OpenElsewhere(listen));
        }
        Ok(rules)
    }

    /// As the file at `path`, where relative paths begin.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = parse(path, text, "no file of who may read")?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if file.tokens.len() > TOKENS_MAX {
            return Err(ConfigError::TooManyTokens);
        }
        let mut tokens: BTreeMap<Digest, TokenRule> = BTreeMap::new();
        for entry in file.tokens {
            let digest = entry.sha256;
            let rule = entry.open()?;
            let twice = |why: &str| ConfigError::Token { name: rule.name.clone(), why: why.into() };
            if tokens.values().any(|other| other.name == rule.name) {
                return Err(twice("another one has this name"));
            }
            if tokens.contains_key(&digest) {
                return Err(twice("another one has this SHA-256"));
            }
            tokens.insert(digest, rule);
        }
        let cas =
            [file.oidc.as_ref().and_then(|oidc| oidc.ca.as_ref()), file.mtls.as_ref().map(|mtls| &mtls.ca)];
        let files = cas.into_iter().flatten().map(|ca| folder.join(ca)).collect();
        Ok(Self {
            files,
            open: file.open,
            commands_need_bearer: file.commands_need_bearer,
            tokens,
            oidc: file.oidc.map(|entry| entry.open(folder)).transpose()?,
            mtls: file.mtls.map(|entry| entry.open(folder)).transpose()?,
        })
    }
}

/// Whether a token may have this name.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    match !name.is_empty() && name.len() <= NAME_MAX_BYTES && name.bytes().all(is_name) {
        true => Ok(()),
        false => Err(format!("a name has 1 to {NAME_MAX_BYTES} of a-z A-Z 0-9 . _ - @")),
    }
}

impl TokenEntry {
    fn open(self) -> Result<TokenRule, ConfigError> {
        let name = self.name.clone();
        let wrong = |why: String| ConfigError::Token { name: name.clone(), why };
        check_name(&self.name).map_err(wrong)?;
        let expires = humantime::parse_rfc3339(&self.expires);
        let expires = expires.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).ok_or_else(|| {
            wrong("\"expires\" is an instant such as \"2027-01-01T00:00:00Z\"; every token ends".into())
        })?;
        let scopes = match &self.scopes {
            None => vec![Scope::fleet()],
            Some(scopes) if scopes.is_empty() || scopes.len() > SCOPES_MAX => {
                return Err(wrong(format!("\"scopes\" names 1 to {SCOPES_MAX} scopes that it may see")));
            }
            Some(scopes) => {
                let parsed = scopes.iter().map(|scope| Scope::parse(scope)).collect::<Result<_, _>>();
                parsed.map_err(|e| wrong(e.to_string()))?
            }
        };
        let expires_at_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
        Ok(TokenRule { name: self.name, role: self.role, scopes, expires_at_ms })
    }
}

impl OidcEntry {
    fn open(self, folder: &Path) -> Result<IssuerRule, ConfigError> {
        let wrong = |why: String| ConfigError::Oidc(why);
        if self.leeway_s > LEEWAY_MAX_S {
            return Err(wrong(format!("\"leeway_s\" is at most {LEEWAY_MAX_S}: set the clocks instead")));
        }
        if self.audience.is_empty() {
            return Err(wrong("\"audience\" is what the issuer calls this deployment, and not empty".into()));
        }
        if self.roles_claim.is_empty() {
            return Err(wrong(
                "\"roles_claim\" names a claim, such as \"groups\" or \"/realm_access/roles\"".into(),
            ));
        }
        let roles = roles(self.viewer, self.operator).map_err(wrong)?;
        let ca_pem = self.ca.map(|ca| read(&folder.join(ca))).transpose()?.map(|pem| pem.to_string());
        IssuerRule::new(&self.issuer, self.audience, self.leeway_s, self.roles_claim, roles, ca_pem)
            .map_err(wrong)
    }
}

impl MtlsEntry {
    fn open(self, folder: &Path) -> Result<MtlsRule, ConfigError> {
        let path = folder.join(self.ca);
        let cas = ClientCas::new(&read(&path)?).map_err(|source| ConfigError::Ca { path, source })?;
        Ok(MtlsRule { cas, roles: roles(self.viewer, self.operator).map_err(ConfigError::Mtls)? })
    }
}

fn roles(viewer: Vec<String>, operator: Vec<String>) -> Result<Roles, String> {
    if viewer.len() + operator.len() > NAMES_MAX {
        return Err(format!("\"viewer\" and \"operator\" have at most {NAMES_MAX} values"));
    }
    if viewer.is_empty() && operator.is_empty() {
        return Err("\"viewer\" or \"operator\" says whom it lets in; without both it lets nobody in".into());
    }
    if viewer.iter().chain(&operator).any(String::is_empty) {
        return Err("an empty value in \"viewer\" or \"operator\" stands for nobody".into());
    }
    Ok(Roles { viewer: viewer.into_iter().collect(), operator: operator.into_iter().collect() })
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    pub(super) const GOOD: &str = "\
open = ['log']
[[token]]
name = 'grafana'
sha256 = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
role = 'viewer'
scopes = ['moltbook/support']
expires = '2027-01-01T00:00:00Z'
";

    fn parsed(text: &str) -> Result<Rules, String> {
        let rules = Rules::parse(Path::new("access.toml"), text);
        rules.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn a_file_says_who_and_what_is_left_out_is_closed() {
        let rules = parsed(GOOD).unwrap();
        let token = rules.tokens.values().next().unwrap();
        assert_eq!((token.role, token.expires_at_ms), (AccessRole::Viewer, 1_798_761_600_000));
        assert_eq!(token.scopes, [Scope::parse("moltbook/support").unwrap()]);
        assert_eq!(rules.open, BTreeSet::from([Open::Log]));
        let nothing = parsed("").unwrap();
        assert!(nothing.open.is_empty() && nothing.tokens.is_empty() && !nothing.commands_need_bearer);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let twice = format!("{GOOD}{}", GOOD.trim_start_matches("open = ['log']\n"));
        let oidc = "[oidc]\nissuer = 'https://id.example'\naudience = 'tagout'\nroles_claim = 'groups'\n";
        for (text, says) in [
            (GOOD.replace("viewer", "admin"), "unknown variant `admin`"),
            (GOOD.replace("2027-01-01T00:00:00Z", "never"), "every token ends"),
            (GOOD.replace("expires = '2027-01-01T00:00:00Z'\n", ""), "missing field `expires`"),
            (GOOD.replace("['moltbook/support']", "[]"), "1 to 64 scopes"),
            (GOOD.replace("moltbook/support", "a//b"), "a//b"),
            (GOOD.replace("'grafana'", "'graf ana'"), "a name has"),
            (GOOD.replace("9f86", "9g86"), "sha256"),
            (GOOD.replace("'log'", "'everything'"), "unknown variant `everything`"),
            (twice.clone(), "another one has this name"),
            (twice.replacen("grafana", "other", 1), "another one has this SHA-256"),
            ("tokn = []\n".into(), "unknown field `tokn`"),
            (oidc.into(), "lets nobody in"),
            (format!("{oidc}viewer = ['']\n"), "stands for nobody"),
            (format!("{oidc}viewer = ['v']\nleeway_s = 301\n"), "at most 300"),
            (format!("{}viewer = ['v']\n", oidc.replace("https", "http")), "https"),
            (format!("{}viewer = ['v']\n", oidc.replace("'tagout'", "''")), "\"audience\""),
            (format!("{oidc}viewer = ['v']\nca = 'none.pem'\n"), "cannot read none.pem"),
            ("[mtls]\nca = 'none.pem'\nviewer = ['v']\n".into(), "cannot read none.pem"),
        ] {
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn all_is_open_on_loopback_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        std::fs::write(&path, "open = ['all']\n").unwrap();
        Rules::load(&path, Ipv4Addr::LOCALHOST.into()).unwrap();
        Rules::load(&path, Ipv6Addr::LOCALHOST.into()).unwrap();
        for elsewhere in
            [IpAddr::from([0, 0, 0, 0]), IpAddr::from([10, 0, 0, 1]), Ipv6Addr::UNSPECIFIED.into()]
        {
            let error = Rules::load(&path, elsewhere).unwrap_err().to_string();
            assert!(error.contains("loopback address"), "{error}");
        }
    }
}
