//! Step ① of a stop: the operator's own SSH key signs the exact bytes of a command, on the operator's machine.
//!
//! What comes out is an SSHSIG signature (OpenSSH `PROTOCOL.sshsig`), the same that `ssh-keygen -Y sign` makes,
//! so anyone can verify it with `ssh-keygen -Y verify`. The key is in a file ([`key_file`]), in an ssh-agent
//! ([`agent`]) or in a FIDO2 token ([`token`]). Everything here blocks: asynchronous callers use `spawn_blocking`.

mod agent;
mod key_file;
mod token;
mod wire;

use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey};
use tagout_proto::sshsig::{self, SshSignature, SshsigError};
use zeroize::Zeroizing;

pub use self::key_file::generate;
pub use self::wire::{KeyKind, PublicKey};

use self::agent::Agent;
use self::key_file::{KeyFile, PrivateFile};
use self::token::Token;

/// The environment variable with the key file's passphrase, for machines where nobody can be asked.
pub const PASSPHRASE_VARIABLE: &str = "TAGOUT_KEY_PASSPHRASE";

/// A key that can sign: it is loaded from a file, or an agent or a token holds it.
#[derive(Debug)]
pub struct Signer {
    public: PublicKey,
    holder: Holder,
    may_ask: bool,
}

#[derive(Debug)]
enum Holder {
    File {
        path: PathBuf,
        key: Box<SigningKey>,
    },
    Agent(Agent),
    /// The agent holds the same key, and is asked first: with a forwarded one the token may be far away.
    Token(Token, Option<Agent>),
}

/// Where [`Signer::open_with`] finds an agent and a passphrase.
#[derive(Default)]
pub struct Surroundings {
    /// The agent's socket, `SSH_AUTH_SOCK`.
    pub agent_socket: Option<PathBuf>,
    /// A passphrase given beforehand. It wins over asking.
    pub passphrase: Option<Zeroizing<String>>,
    /// Whether a person may be asked on the terminal, for a passphrase or for a touch.
    pub may_ask: bool,
    /// The program that signs with security keys, if it is not the `ssh-keygen` on `PATH`.
    pub ssh_keygen: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process: `SSH_AUTH_SOCK`, `TAGOUT_KEY_PASSPHRASE` and its terminal, if it has one.
    pub fn of_process() -> Self {
        Self {
            agent_socket: std::env::var_os("SSH_AUTH_SOCK")
                .filter(|socket| !socket.is_empty())
                .map(PathBuf::from),
            passphrase: std::env::var(PASSPHRASE_VARIABLE)
                .ok()
                .filter(|passphrase| !passphrase.is_empty())
                .map(Zeroizing::new),
            may_ask: true,
            ssh_keygen: None,
        }
    }

    fn agent(&self) -> Result<Agent, SignError> {
        self.agent_socket.clone().map(Agent::at).ok_or(SignError::NoAgent)
    }

    /// The agent, if there is one that holds `key`, and its own record of it.
    fn agent_with(&self, key: &PublicKey) -> Option<(PublicKey, Agent)> {
        let agent = self.agent().ok()?;
        Some((agent.find(key).ok()?, agent))
    }

    fn passphrase_for(&self, path: &Path) -> Result<Zeroizing<String>, SignError> {
        if let Some(passphrase) = &self.passphrase {
            return Ok(passphrase.clone());
        }
        // The question goes to the terminal itself, so it works while standard input is a document.
        let asked =
            self.may_ask.then(|| rpassword::prompt_password(format!("Passphrase for {}: ", path.display())));
        match asked {
            Some(Ok(passphrase)) => Ok(Zeroizing::new(passphrase)),
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                Err(SignError::Read { path: path.to_owned(), source: error })
            }
            Some(Err(_)) | None => Err(SignError::PassphraseNeeded { path: path.to_owned() }),
        }
    }
}

impl Signer {
    /// Opens the key that `spec` names: the path of a private key file; the path of a public key file whose
    /// private half an agent holds; `agent:SHA256:…` (a fingerprint) or `agent:…` (a comment).
    ///
    /// A key file with a passphrase is not opened if the agent holds its key: then the agent signs, and nobody
    /// is asked for anything. The file of a security key works with an agent and without: its owner is told on
    /// standard error when to touch it.
    ///
    /// # Errors
    /// A sentence that says what to do, for every way in which the key cannot be used.
    pub fn open(spec: &str) -> Result<Self, SignError> {
        Self::open_with(spec, &Surroundings::of_process())
    }

    /// As [`Signer::open`], with the agent and passphrase given by the caller.
    ///
    /// # Errors
    /// As [`Signer::open`].
    pub fn open_with(spec: &str, surroundings: &Surroundings) -> Result<Self, SignError> {
        let (public, holder) = if let Some(wanted) = spec.strip_prefix("agent:") {
            let agent = surroundings.agent()?;
            (agent.find_by_name(wanted)?, Holder::Agent(agent))
        } else {
            let path = expand_home(spec);
            match KeyFile::read(&path)? {
                KeyFile::Public(public) => {
                    let agent = surroundings.agent()?;
                    (agent.find(&public)?, Holder::Agent(agent))
                }
                KeyFile::Private(file) => match file.public().kind() {
                    KeyKind::Ed25519 => held_by_file(path, &file, surroundings)?,
                    KeyKind::SecurityKey => held_by_token(path, &file, surroundings)?,
                },
            }
        };
        Ok(Self { public, holder, may_ask: surroundings.may_ask })
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.public.fingerprint()
    }

    /// Where the private half is, in words.
    pub fn held_by(&self) -> String {
        match &self.holder {
            Holder::File { path, .. } => format!("the key file {}", path.display()),
            Holder::Agent(agent) | Holder::Token(_, Some(agent)) => {
                format!("the agent at {}", agent.socket().display())
            }
            Holder::Token(token, None) => format!("the security key of {}", token.path().display()),
        }
    }

    /// Signs exactly these bytes for `namespace` and returns the armored SSHSIG signature.
    ///
    /// # Errors
    /// If the agent or the token is gone, refuses, or returns a signature that does not verify; or if `namespace`
    /// is empty.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, SignError> {
        if namespace.is_empty() {
            return Err(SignError::EmptyNamespace);
        }
        if self.public.kind() == KeyKind::SecurityKey && self.may_ask {
            token::call_for_touch(&self.fingerprint(), self.public.comment());
        }
        let armored = match &self.holder {
            Holder::File { key, .. } => {
                let signature = key.sign(&sshsig::to_be_signed(namespace, message)).to_bytes();
                self.armor(namespace, &sshsig::ed25519_signature_blob(&signature))
            }
            Holder::Agent(agent) => self.sign_by_agent(agent, namespace, message)?,
            Holder::Token(token, None) => token.sign(namespace, message)?,
            Holder::Token(token, Some(agent)) => match self.sign_by_agent(agent, namespace, message) {
                // It cannot ask for the PIN, or its token is elsewhere and gone; the one here may do.
                Err(SignError::AgentRefused) => token.sign(namespace, message)?,
                signed => signed?,
            },
        };
        // A signature that will not verify is better refused here, where the operator sees who made it, than by a
        // node. Whether a touch or a PIN was needed is the authority's business.
        let by_this_key = |signature: SshSignature| {
            let proven = signature.verify_for(namespace, message)?;
            if proven.key == *self.public.key() { Ok(()) } else { Err(SshsigError::Mismatch) }
        };
        SshSignature::parse(&armored)
            .and_then(by_this_key)
            .map_err(|source| SignError::WrongSignature { by: self.held_by(), source })?;
        Ok(armored)
    }

    fn sign_by_agent(&self, agent: &Agent, namespace: &str, message: &[u8]) -> Result<String, SignError> {
        let blob = agent.sign(&self.public, &sshsig::to_be_signed(namespace, message))?;
        Ok(self.armor(namespace, &blob))
    }

    fn armor(&self, namespace: &str, signature: &[u8]) -> String {
        sshsig::armor(&self.public.blob(), namespace, signature)
    }
}

fn held_by_file(
    path: PathBuf,
    file: &PrivateFile,
    surroundings: &Surroundings,
) -> Result<(PublicKey, Holder), SignError> {
    let unlocked = if file.is_encrypted() {
        if let Some((public, agent)) = surroundings.agent_with(file.public()) {
            return Ok((public, Holder::Agent(agent)));
        }
        let passphrase = surroundings.passphrase_for(&path)?;
        file.unlock(&path, Some(&passphrase))?
    } else {
        file.unlock(&path, None)?
    };
    Ok((unlocked.public, Holder::File { path, key: unlocked.key }))
}

fn held_by_token(
    path: PathBuf,
    file: &PrivateFile,
    surroundings: &Surroundings,
) -> Result<(PublicKey, Holder), SignError> {
    // Where nobody could answer a question, none may be put, not even as a second choice.
    let answered = !file.asks() || (surroundings.may_ask && token::has_terminal());
    let token = |path| Token::at(path, surroundings.ssh_keygen.clone());
    match surroundings.agent_with(file.public()) {
        Some((public, agent)) if answered => Ok((public, Holder::Token(token(path), Some(agent)))),
        Some((public, agent)) => Ok((public, Holder::Agent(agent))),
        None if answered => {
            Ok((file.public().with_comment(file.comment()), Holder::Token(token(path), None)))
        }
        None => Err(SignError::PinNeeded { path }),
    }
}

/// A `~/` in front, for specs that come from a configuration file, where no shell replaces it.
fn expand_home(spec: &str) -> PathBuf {
    match (spec.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(spec),
    }
}

/// Why a key cannot sign or could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    #[error(
        "there is no key at {path}: name an existing Ed25519 key, or make one with `ssh-keygen -t ed25519 -f {path}`",
        path = path.display()
    )]
    NoSuchKey { path: PathBuf },
    #[error("cannot read the key {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the key file {path} can be read by others (its permissions are {mode:04o}): run `chmod 600 {path}`, and \
         replace the key if somebody else may have copied it",
        path = path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error(
        "{path} is not an OpenSSH key: give the path of a key made by `ssh-keygen -t ed25519`, of its `.pub` file if \
         an agent holds it, or `agent:` and a fingerprint",
        path = path.display()
    )]
    NotAKey { path: PathBuf },
    #[error(
        "{path} is a {found} key, and Tagout takes only Ed25519 keys: make one with `ssh-keygen -t ed25519` and have \
         its public half put into the authority",
        path = path.display()
    )]
    WrongKind { path: PathBuf, found: String },
    #[error("the key file {} is damaged: restore it from a copy, or use another key ({what})", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{path} needs a passphrase and there is no terminal to ask on: set TAGOUT_KEY_PASSPHRASE, or load the key \
         into an agent with `ssh-add {path}`",
        path = path.display()
    )]
    PassphraseNeeded { path: PathBuf },
    #[error("this is not the passphrase of {}: try again", path.display())]
    WrongPassphrase { path: PathBuf },
    #[error("the key {} cannot be used", path.display())]
    Unfit { path: PathBuf, source: SshsigError },
    #[error(
        "the security key of {path} needs a PIN or a passphrase and there is no terminal to ask on: run this on one, or \
         load the key into an agent with `ssh-add {path}`",
        path = path.display()
    )]
    PinNeeded { path: PathBuf },
    #[error(
        "cannot run ssh-keygen, which talks to the security key of {path}: install OpenSSH's client, or load the key \
         into an agent with `ssh-add {path}`",
        path = path.display()
    )]
    NoSshKeygen { path: PathBuf, source: io::Error },
    #[error(
        "the security key of {path} did not sign: plug it in, touch it when it blinks and try again, or use another key \
         (ssh-keygen says: {said})",
        path = path.display()
    )]
    TokenFailed { path: PathBuf, said: String },
    #[error("{by} made a signature that does not verify: use another key")]
    WrongSignature { by: String, source: SshsigError },
    #[error(
        "this key is in an ssh-agent and SSH_AUTH_SOCK is not set: start an agent with `eval \"$(ssh-agent)\"` and \
         load the key with `ssh-add`, or give the path of a private key file"
    )]
    NoAgent,
    #[error("cannot reach the ssh-agent at {}: start one with `eval \"$(ssh-agent)\"`", socket.display())]
    AgentUnreachable { socket: PathBuf, source: io::Error },
    #[error("the ssh-agent at {} has not answered in time: unlock it or touch the security key, then try again", socket.display())]
    AgentSilent { socket: PathBuf },
    #[error(
        "the ssh-agent refused to sign: it may be locked (`ssh-add -X`), want a confirmation, or miss its security key"
    )]
    AgentRefused,
    #[error("the ssh-agent gave a wrong answer: {what}; use another agent, or the key file")]
    AgentAnswer { what: &'static str },
    #[error("the ssh-agent does not hold {wanted}; it holds {held}. Load the key with `ssh-add`")]
    AgentLacksKey { wanted: String, held: String },
    #[error("the ssh-agent holds several keys called {wanted}: name one by its fingerprint, agent:{first}")]
    AgentAmbiguous { wanted: String, first: String },
    #[error(
        "{} exists already and is left as it is: choose another name, or move it away first", path.display()
    )]
    Exists { path: PathBuf },
    #[error("cannot write the key {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("a key's comment is one line of at most {max_bytes} bytes without control characters")]
    BadComment { max_bytes: usize },
    #[error("cannot draw a key from the operating system's randomness: {0}")]
    Randomness(getrandom::Error),
    #[error("a signature needs a namespace, such as tagout-command")]
    EmptyNamespace,
}

#[cfg(test)]
mod tests;
