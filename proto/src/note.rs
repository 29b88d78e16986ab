//! Signed notes (c2sp.org/signed-note) with Ed25519 keys: how nodes sign what they state.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::Digest;
use crate::strict;

const ED25519: u8 = 0x01;
const NOTE_MAX_BYTES: usize = 64 * 1024;
const SIGNATURES_MAX: usize = 16;

/// A verifier key, written `name+keyid+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    pub name: String,
    pub key: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("the verifier key is not name+keyid+base64 with an Ed25519 key that is no weak point")]
    VerifierKey,
    #[error("the signed note is malformed: {0}")]
    Malformed(&'static str),
    #[error("the note carries no signature by {0}")]
    NotSigned(String),
    #[error("the signature of {0} on the note does not verify")]
    BadSignature(String),
}

impl VerifierKey {
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, NoteError> {
        let point = VerifyingKey::from_bytes(&key).map_err(|_| NoteError::VerifierKey)?;
        if !is_key_name(name) || point.is_weak() {
            return Err(NoteError::VerifierKey);
        }
        Ok(Self { name: name.into(), key })
    }

    pub fn key_id(&self) -> u32 {
        let hash = Digest::of_parts(&[self.name.as_bytes(), b"\n", &[ED25519], &self.key]);
        u32::from_be_bytes(hash.0[..4].try_into().expect("four bytes"))
    }

    /// Checks this key's signature on `note` and returns the note's text, which means nothing before.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let (text, signatures) = split(note)?;
        for (name, signature) in signatures {
            let Some((id, signature)) = signature.split_first_chunk::<4>() else {
                return Err(NoteError::Malformed("a signature is too short"));
            };
            if name != self.name || u32::from_be_bytes(*id) != self.key_id() {
                continue;
            }
            let bad = || NoteError::BadSignature(self.name.clone());
            let signature: &[u8; 64] = signature.try_into().map_err(|_| bad())?;
            let key = VerifyingKey::from_bytes(&self.key).map_err(|_| bad())?;
            key.verify_strict(text.as_bytes(), &Signature::from_bytes(signature)).map_err(|_| bad())?;
            return Ok(text);
        }
        Err(NoteError::NotSigned(self.name.clone()))
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut material = vec![ED25519];
        material.extend(self.key);
        write!(f, "{}+{:08x}+{}", self.name, self.key_id(), BASE64.encode(&material))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let parse = || {
            let mut parts = text.splitn(3, '+');
            let (name, id, material) = (parts.next()?, parts.next()?, parts.next()?);
            let id: [u8; 4] = HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?;
            let material = strict::base64(material)?;
            let (&ED25519, raw) = material.split_first()? else { return None };
            let key = VerifierKey::new(name, raw.try_into().ok()?).ok()?;
            (key.key_id() == u32::from_be_bytes(id)).then_some(key)
        };
        parse().ok_or(NoteError::VerifierKey)
    }
}

impl Serialize for VerifierKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VerifierKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A node's signing key under its name.
pub struct NoteSigner {
    name: String,
    key: SigningKey,
}

impl NoteSigner {
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let key = SigningKey::from_bytes(seed);
        VerifierKey::new(name, key.verifying_key().to_bytes())?;
        Ok(Self { name: name.into(), key })
    }

    pub fn verifier(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), key: self.key.verifying_key().to_bytes() }
    }

    /// Signs `text`, which must end in a newline, into a note.
    pub fn sign(&self, text: &str) -> String {
        assert!(
            text.ends_with('\n') && !text.contains("\n\n"),
            "a note's text is lines, ours without empty ones"
        );
        let mut signature = self.verifier().key_id().to_be_bytes().to_vec();
        signature.extend(self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n\u{2014} {} {}\n", self.name, BASE64.encode(&signature))
    }
}

/// A signature line: who signed, and the key id with the signature.
type SignatureLine<'a> = (&'a str, Vec<u8>);

/// The note's text and its signature lines, unverified.
fn split(note: &str) -> Result<(&str, Vec<SignatureLine<'_>>), NoteError> {
    if note.len() > NOTE_MAX_BYTES {
        return Err(NoteError::Malformed("it is longer than 64 KiB"));
    }
    if note.bytes().any(|b| b < 0x20 && b != b'\n') {
        return Err(NoteError::Malformed("it holds control characters"));
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Malformed("no blank line parts text from signatures"))?;
    let (text, tail) = (&note[..=at], &note[at + 2..]);
    if !tail.ends_with('\n') {
        return Err(NoteError::Malformed("it does not end in a newline"));
    }
    let mut signatures = Vec::new();
    for line in tail.lines() {
        if signatures.len() == SIGNATURES_MAX {
            return Err(NoteError::Malformed("it has more than 16 signatures"));
        }
        let parsed = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' '));
        let (name, encoded) =
            parsed.ok_or(NoteError::Malformed("a signature line is not: dash, name, base64"))?;
        if !is_key_name(name) {
            return Err(NoteError::Malformed("a key name is empty or has a space or a plus"));
        }
        let bytes = strict::base64(encoded).ok_or(NoteError::Malformed("a signature is not base64"))?;
        signatures.push((name, bytes));
    }
    Ok((text, signatures))
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of c2sp.org/signed-note, its key and its signature.
    const EXAMPLE_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const EXAMPLE_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn opens_the_example_of_the_specification() {
        let key: VerifierKey = EXAMPLE_KEY.parse().unwrap();
        assert_eq!(key.to_string(), EXAMPLE_KEY);
        assert_eq!(key.open(EXAMPLE_NOTE), Ok("This is an example message.\n"));
        assert!(matches!(key.open(&EXAMPLE_NOTE.replace("an ex", "no ex")), Err(NoteError::BadSignature(_))));
    }

    #[test]
    fn signs_what_it_opens_and_ignores_strangers() {
        let ours = NoteSigner::new("prod/node-1", &[7; 32]).unwrap();
        let other = NoteSigner::new("prod/node-2", &[8; 32]).unwrap();
        let note = ours.sign("a\nb\n");
        assert_eq!(ours.verifier().open(&note), Ok("a\nb\n"));
        assert!(matches!(other.verifier().open(&note), Err(NoteError::NotSigned(_))));
        let stranger = other.sign("a\nb\n");
        let both = format!("{note}{}", stranger.rsplit_once("\n\n").unwrap().1);
        assert_eq!(ours.verifier().open(&both), Ok("a\nb\n"));
        assert_eq!(other.verifier().open(&both), Ok("a\nb\n"));
    }

    #[test]
    fn refuses_malformed_notes_and_keys() {
        let key = NoteSigner::new("k", &[7; 32]).unwrap().verifier();
        for bad in [
            "",
            "a\n",
            "a\n\n",
            "a\n\nb\n",
            "a\n\n\u{2014} k AAAA",
            "a\r\n\n\u{2014} k AAAA\n",
            "a\n\n\u{2014} k !\n",
        ] {
            assert!(key.open(bad).is_err(), "{bad:?}");
        }
        let weak = format!("k+00000000+{}", BASE64.encode(&[&[1u8][..], &[0; 32]].concat()));
        for bad in ["", "k", "k+1+A", &EXAMPLE_KEY.replace("530d", "530e"), &weak] {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad:?}");
        }
    }
}
