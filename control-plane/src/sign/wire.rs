//! The SSH wire encoding (RFC 4251 section 5), as far as agents and key files need it, and public keys with their
//! comments.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD};
use sha2::{Digest, Sha256};
use tagout_proto::sentence::sentence;
use tagout_proto::sshsig::{self, SshsigError};

/// The kinds of key with which Tagout's principals sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `ssh-ed25519`
    Ed25519,
    /// `sk-ssh-ed25519@openssh.com`: an Ed25519 key inside a FIDO2 token.
    SecurityKey,
}

/// A public key and the comment beside it.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: sshsig::PublicKey,
    comment: String,
}

/// Why bytes are no public key that can be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotUsable {
    Malformed,
    WrongKind(String),
    /// It is of the right kind, and still nobody should trust its signatures.
    Unfit(SshsigError),
}

impl PublicKey {
    /// The key without its comment, as the authority has it.
    pub fn key(&self) -> &sshsig::PublicKey {
        &self.key
    }

    /// The 32 bytes of the Ed25519 key.
    pub fn bytes(&self) -> [u8; 32] {
        *self.key.raw()
    }

    /// Plain Ed25519, or inside a security key.
    pub fn kind(&self) -> KeyKind {
        match &self.key {
            sshsig::PublicKey::Ed25519(_) => KeyKind::Ed25519,
            sshsig::PublicKey::SkEd25519 { .. } => KeyKind::SecurityKey,
        }
    }

    /// The comment, often `user@host`; empty if there is none.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The key as the one line of a `.pub` file, without the newline.
    pub fn line(&self) -> String {
        format!("{} {}", self.key.to_openssh(), self.comment).trim_end().to_owned()
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint()
    }

    pub(super) fn blob(&self) -> Vec<u8> {
        self.key.blob()
    }

    pub(super) fn same_key(&self, other: &Self) -> bool {
        self.key == other.key
    }

    pub(super) fn ed25519(bytes: [u8; 32], comment: String) -> Self {
        Self { key: sshsig::PublicKey::Ed25519(bytes), comment }
    }

    pub(super) fn with_comment(&self, comment: String) -> Self {
        Self { key: self.key.clone(), comment }
    }

    pub(super) fn from_blob(blob: &[u8], comment: String) -> Result<Self, NotUsable> {
        match sshsig::PublicKey::from_blob(blob) {
            Ok(key) => Ok(Self { key, comment }),
            Err(SshsigError::Algorithm) => {
                let name = Reader(blob).string().ok_or(NotUsable::Malformed)?;
                Err(NotUsable::WrongKind(sentence(String::from_utf8_lossy(name).escape_default())))
            }
            Err(error @ (SshsigError::WeakKey | SshsigError::Application(_))) => Err(NotUsable::Unfit(error)),
            Err(_) => Err(NotUsable::Malformed),
        }
    }

    pub(super) fn from_line(line: &str) -> Result<Self, NotUsable> {
        let mut words = line.trim().splitn(3, [' ', '\t']);
        let (Some(name), Some(encoded)) = (words.next(), words.next()) else {
            return Err(NotUsable::Malformed);
        };
        let comment = words.next().unwrap_or_default().trim();
        if comment.contains(char::is_control) {
            return Err(NotUsable::Malformed);
        }
        let blob = BASE64.decode(encoded.as_bytes()).map_err(|_| NotUsable::Malformed)?;
        let key = Self::from_blob(&blob, comment.to_owned())?;
        if key.key.algorithm() != name {
            return Err(NotUsable::Malformed);
        }
        Ok(key)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.line())
    }
}

/// The name by which OpenSSH shows a key of any kind.
pub(super) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(blob)))
}

pub(super) fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("strings here are far below 4 GiB");
    out.extend(length.to_be_bytes());
    out.extend(string);
}

/// Reads what [`put_string`] writes. `None` means that the bytes end too early.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod fuzz;
