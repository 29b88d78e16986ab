//! A client for the two questions that signing needs of an ssh-agent: which keys, and sign this
//! (draft-miller-ssh-agent, messages 11 and 13).
//!
//! Written here because the published clients bring RSA and the NIST curves with them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SignError;
use super::wire::{PublicKey, Reader, fingerprint, put_string};

const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// A person may have to confirm, or find and touch a security key.
const SIGN_TIMEOUT: Duration = Duration::from_secs(120);
/// OpenSSH's own bounds (`ssh-agent.c`, `authfd.c`).
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
const MAX_IDENTITIES: u32 = 2048;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// An agent's socket. Each question is a connection of its own.
#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
}

/// A key in the agent, of whatever kind.
struct Identity {
    blob: Vec<u8>,
    comment: String,
}

impl Identity {
    fn usable(&self) -> Option<PublicKey> {
        PublicKey::from_blob(&self.blob, self.comment.clone()).ok()
    }
}

impl Agent {
    pub(super) fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The agent's own record of `wanted`.
    pub(super) fn find(&self, wanted: &PublicKey) -> Result<PublicKey, SignError> {
        let identities = self.identities()?;
        identities
            .iter()
            .filter_map(Identity::usable)
            .find(|key| key.same_key(wanted))
            .ok_or_else(|| lacks(wanted.fingerprint(), &identities))
    }

    /// The one key with this fingerprint (`SHA256:…`) or comment.
    pub(super) fn find_by_name(&self, wanted: &str) -> Result<PublicKey, SignError> {
        let identities = self.identities()?;
        let mut found = identities.iter().filter_map(Identity::usable).filter(|key| {
            if wanted.starts_with("SHA256:") { key.fingerprint() == wanted } else { key.comment() == wanted }
        });
        let Some(first) = found.next() else {
            return Err(lacks(wanted.to_owned(), &identities));
        };
        if found.next().is_some() {
            return Err(SignError::AgentAmbiguous { wanted: wanted.to_owned(), first: first.fingerprint() });
        }
        Ok(first)
    }

    /// The signature blob exactly as the agent made it; a security key's flags and counter are part of it.
    pub(super) fn sign(&self, key: &PublicKey, data: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, &key.blob());
        put_string(&mut request, data);
        request.extend(0_u32.to_be_bytes()); // no flags: they choose among RSA's hashes
        let answer = self.ask(&request, SIGN_TIMEOUT)?;
        match answer.split_first() {
            Some((&SIGN_RESPONSE, body)) => {
                let mut reader = Reader(body);
                let blob =
                    reader.string().ok_or(SignError::AgentAnswer { what: "its signature is cut short" })?;
                Ok(blob.to_vec())
            }
            Some((&FAILURE, _)) => Err(SignError::AgentRefused),
            Some(_) | None => Err(SignError::AgentAnswer { what: "it is no signature" }),
        }
    }

    fn identities(&self) -> Result<Vec<Identity>, SignError> {
        let answer = self.ask(&[REQUEST_IDENTITIES], LIST_TIMEOUT)?;
        let Some((&IDENTITIES_ANSWER, body)) = answer.split_first() else {
            return Err(SignError::AgentAnswer { what: "it is no list of keys" });
        };
        let cut = SignError::AgentAnswer { what: "its list of keys is cut short" };
        let mut reader = Reader(body);
        let Some(count) = reader.u32() else { return Err(cut) };
        if count > MAX_IDENTITIES {
            return Err(SignError::AgentAnswer { what: "it lists too many keys" });
        }
        let mut identities = Vec::new();
        for _ in 0..count {
            let (Some(blob), Some(comment)) = (reader.string(), reader.string()) else { return Err(cut) };
            // Comments are shown to people; a control character could rewrite their terminal.
            let comment = String::from_utf8_lossy(comment).replace(char::is_control, "?");
            identities.push(Identity { blob: blob.to_vec(), comment });
        }
        Ok(identities)
    }

    fn ask(&self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, SignError> {
        let attempt = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_write_timeout(Some(LIST_TIMEOUT))?;
            stream.set_read_timeout(Some(timeout))?;
            let mut framed = Vec::with_capacity(4 + request.len());
            put_string(&mut framed, request);
            stream.write_all(&framed)?;

            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length) as usize;
            if length > MAX_MESSAGE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent's answer is too long"));
            }
            let mut answer = vec![0; length];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        attempt().map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                SignError::AgentSilent { socket: self.socket.clone() }
            }
            io::ErrorKind::InvalidData => SignError::AgentAnswer { what: "it is too long" },
            _ => SignError::AgentUnreachable { socket: self.socket.clone(), source },
        })
    }
}

fn lacks(wanted: String, identities: &[Identity]) -> SignError {
    let shown: Vec<_> = identities
        .iter()
        .take(8)
        .map(|identity| format!("{} ({})", fingerprint(&identity.blob), identity.comment))
        .collect();
    let held = match identities.len() {
        0 => "no key".to_owned(),
        count if count > shown.len() => format!("{} and {} more", shown.join(", "), count - shown.len()),
        _ => shown.join(", "),
    };
    SignError::AgentLacksKey { wanted, held }
}
