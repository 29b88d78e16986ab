//! SSHSIG (OpenSSH PROTOCOL.sshsig): the signatures that `ssh-keygen -Y sign` makes and `-Y verify` checks.

use std::fmt;

use data_encoding::BASE64;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::limits::SIGNATURE_MAX_BYTES;
use crate::strict;

/// The namespace of every document that Tagout accepts: a signature made for git or e-mail means nothing here.
pub const NAMESPACE: &str = "tagout-command";

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const MAGIC: &[u8] = b"SSHSIG";
const ED25519: &[u8] = b"ssh-ed25519";

/// A principal's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PublicKey {
    Ed25519([u8; 32]),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshsigError {
    #[error(
        "the signature has more than {SIGNATURE_MAX_BYTES} bytes; one by an Ed25519 key has about 300 (an RSA key does not do)"
    )]
    TooLarge,
    #[error(
        "the signature is not an armored SSH signature; make one with: ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE"
    )]
    Armor,
    #[error("the SSH signature is malformed: {0}")]
    Malformed(&'static str),
    #[error(
        "the signature is for namespace {0:?}; sign again with: ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE"
    )]
    Namespace(String),
    #[error("the key is not an Ed25519 key (ssh-ed25519); make one with: ssh-keygen -t ed25519")]
    Algorithm,
    #[error("the key is one of Ed25519's weak points of small order and proves nothing")]
    WeakKey,
    #[error(
        "the signature does not fit the document and the key; sign the exact bytes that are sent (curl -d strips newlines)"
    )]
    Mismatch,
}

impl PublicKey {
    /// Reads `ssh-ed25519 AAAA… comment`, as in a `.pub` file.
    pub fn parse_openssh(line: &str) -> Result<Self, SshsigError> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("ssh-ed25519") {
            return Err(SshsigError::Algorithm);
        }
        let encoded = words.next().ok_or(SshsigError::Malformed("the public key line has no key"))?;
        let blob = strict::base64(encoded).ok_or(SshsigError::Malformed("the key is not base64"))?;
        Self::from_blob(&blob)
    }

    fn from_blob(blob: &[u8]) -> Result<Self, SshsigError> {
        let mut rest = blob;
        if string(&mut rest)? != ED25519 {
            return Err(SshsigError::Algorithm);
        }
        let raw: [u8; 32] = string(&mut rest)?
            .try_into()
            .map_err(|_| SshsigError::Malformed("an Ed25519 key has 32 bytes"))?;
        end(rest)?;
        let key = VerifyingKey::from_bytes(&raw)
            .map_err(|_| SshsigError::Malformed("the key is no curve point"))?;
        if key.is_weak() {
            return Err(SshsigError::WeakKey);
        }
        Ok(Self::Ed25519(raw))
    }

    /// The key as OpenSSH's wire format has it.
    pub fn blob(&self) -> Vec<u8> {
        let Self::Ed25519(raw) = self;
        let mut blob = Vec::new();
        put_string(&mut blob, ED25519);
        put_string(&mut blob, raw);
        blob
    }

    /// `ssh-ed25519 AAAA…`, without a comment.
    pub fn to_openssh(&self) -> String {
        format!("ssh-ed25519 {}", BASE64.encode(&self.blob()))
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&Sha256::digest(self.blob())))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// One parsed signature; nothing is proven until `verify`.
#[derive(Clone, Debug)]
pub struct SshSignature {
    key: PublicKey,
    namespace: Vec<u8>,
    hash: Hash,
    signature: [u8; 64],
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha512,
}

impl SshSignature {
    pub fn parse(armored: &str) -> Result<Self, SshsigError> {
        if armored.len() > SIGNATURE_MAX_BYTES {
            return Err(SshsigError::TooLarge);
        }
        // Both markers on lines of their own: ssh-keygen reads nothing else, and what is logged must verify with it.
        let body = armored
            .trim_end_matches(['\r', '\n'])
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(END))
            .filter(|body| body.starts_with(['\r', '\n']) && body.ends_with('\n'))
            .ok_or(SshsigError::Armor)?;
        let encoded: String = body.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let blob = strict::base64(&encoded).ok_or(SshsigError::Armor)?;
        let mut rest =
            blob.strip_prefix(MAGIC).ok_or(SshsigError::Malformed("it does not begin with SSHSIG"))?;
        if number(&mut rest)? != 1 {
            return Err(SshsigError::Malformed("its version is not 1"));
        }
        let key = PublicKey::from_blob(string(&mut rest)?)?;
        let namespace = string(&mut rest)?.to_vec();
        // "reserved" must be ignored when read, but it is signed: keep to what ssh-keygen writes, so that it hides nothing.
        if !string(&mut rest)?.is_empty() {
            return Err(SshsigError::Malformed("its reserved field is not empty"));
        }
        let hash = match string(&mut rest)? {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            _ => return Err(SshsigError::Malformed("its hash is neither sha256 nor sha512")),
        };
        let mut inner = string(&mut rest)?;
        end(rest)?;
        // The key decides the algorithm: a signature that claims another one is refused, never followed.
        if string(&mut inner)? != ED25519 {
            return Err(SshsigError::Algorithm);
        }
        let signature = string(&mut inner)?
            .try_into()
            .map_err(|_| SshsigError::Malformed("an Ed25519 signature has 64 bytes"))?;
        end(inner)?;
        Ok(Self { key, namespace, hash, signature })
    }

    /// The key that the signature names; believe it only after `verify`.
    pub fn claimed_key(&self) -> PublicKey {
        self.key
    }

    /// Proves that the claimed key signed `message` for Tagout.
    pub fn verify(&self, message: &[u8]) -> Result<PublicKey, SshsigError> {
        if self.namespace != NAMESPACE.as_bytes() {
            return Err(SshsigError::Namespace(
                String::from_utf8_lossy(&self.namespace).chars().take(64).collect(),
            ));
        }
        let PublicKey::Ed25519(raw) = self.key;
        let key = VerifyingKey::from_bytes(&raw)
            .map_err(|_| SshsigError::Malformed("the key is no curve point"))?;
        let signed = match self.hash {
            Hash::Sha256 => preimage(NAMESPACE, b"sha256", &Sha256::digest(message)),
            Hash::Sha512 => preimage(NAMESPACE, b"sha512", &Sha512::digest(message)),
        };
        // Strict (RFC 8032 with small-order points refused): one message, one key, one meaning for every verifier.
        key.verify_strict(&signed, &Signature::from_bytes(&self.signature))
            .map_err(|_| SshsigError::Mismatch)?;
        Ok(self.key)
    }
}

/// The bytes that a key signs for `message`, with SHA-512 as `ssh-keygen` does by default.
pub fn to_be_signed(namespace: &str, message: &[u8]) -> Vec<u8> {
    preimage(namespace, b"sha512", &Sha512::digest(message))
}

/// Armors a signature over `to_be_signed`. `algorithm_and_signature` is the SSH wire form that an agent returns.
pub fn armor(public_key_blob: &[u8], namespace: &str, algorithm_and_signature: &[u8]) -> String {
    let mut blob = MAGIC.to_vec();
    blob.extend(1u32.to_be_bytes());
    put_string(&mut blob, public_key_blob);
    put_string(&mut blob, namespace.as_bytes());
    put_string(&mut blob, b"");
    put_string(&mut blob, b"sha512");
    put_string(&mut blob, algorithm_and_signature);
    let encoded = BASE64.encode(&blob);
    let mut armored = format!("{BEGIN}\n");
    for line in encoded.as_bytes().chunks(70) {
        armored.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        armored.push('\n');
    }
    armored.push_str(END);
    armored.push('\n');
    armored
}

/// The SSH wire form of an Ed25519 signature.
pub fn ed25519_signature_blob(signature: &[u8; 64]) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, ED25519);
    put_string(&mut blob, signature);
    blob
}

fn preimage(namespace: &str, hash_name: &[u8], hash: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_string(&mut bytes, namespace.as_bytes());
    put_string(&mut bytes, b"");
    put_string(&mut bytes, hash_name);
    put_string(&mut bytes, hash);
    bytes
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).expect("an SSH string is short").to_be_bytes());
    out.extend(bytes);
}

fn number(rest: &mut &[u8]) -> Result<u32, SshsigError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(SshsigError::Malformed("it ends too early"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], SshsigError> {
    let len = number(rest)? as usize;
    let (head, tail) = rest.split_at_checked(len).ok_or(SshsigError::Malformed("it ends too early"))?;
    *rest = tail;
    Ok(head)
}

fn end(rest: &[u8]) -> Result<(), SshsigError> {
    if rest.is_empty() { Ok(()) } else { Err(SshsigError::Malformed("bytes are left over after its end")) }
}
