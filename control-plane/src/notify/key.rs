//! What a notification is signed with, as standardwebhooks.com has it: Ed25519 (`v1a`), or HMAC-SHA256 (`v1`) where a
//! receiver knows only that.

use std::ops::RangeInclusive;

use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

const SECRET_BYTES: RangeInclusive<usize> = 24..=64;
const SEED_BYTES: usize = 32;

pub enum Key {
    Secret(Zeroizing<Vec<u8>>),
    Private(Box<SigningKey>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    #[error(
        "it begins with neither whsk_ (an Ed25519 key: `tagout notifications key FILE` makes one) nor whsec_ (a shared secret)"
    )]
    Kind,
    #[error("what follows the prefix is no base64")]
    Base64,
    #[error("a secret has 24 to 64 bytes before base64: make one with `openssl rand -base64 32`")]
    Length,
    #[error("an Ed25519 key has 32 bytes before base64, or 64 with its public half behind it")]
    Private,
}

impl Key {
    /// A new pair.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        getrandom::fill(seed.as_mut()).expect("the operating system has randomness");
        Self::Private(Box::new(SigningKey::from_bytes(&seed)))
    }

    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let decode = |text: &str| {
            let decoded = data_encoding::BASE64.decode(text.as_bytes());
            let decoded = decoded.or_else(|_| data_encoding::BASE64_NOPAD.decode(text.as_bytes()));
            decoded.map(Zeroizing::new).map_err(|_| NotAKey::Base64)
        };
        let text = text.trim();
        if let Some(secret) = text.strip_prefix("whsec_") {
            let secret = decode(secret)?;
            let fits = SECRET_BYTES.contains(&secret.len());
            return if fits { Ok(Self::Secret(secret)) } else { Err(NotAKey::Length) };
        }
        let bytes = decode(text.strip_prefix("whsk_").ok_or(NotAKey::Kind)?)?;
        let (seed, public) = bytes.split_first_chunk::<SEED_BYTES>().ok_or(NotAKey::Private)?;
        let key = SigningKey::from_bytes(seed);
        if public.is_empty() || public == key.verifying_key().as_bytes() {
            Ok(Self::Private(Box::new(key)))
        } else {
            Err(NotAKey::Private)
        }
    }

    /// As its file has it.
    pub fn secret_line(&self) -> Zeroizing<String> {
        let (prefix, bytes) = match self {
            Self::Secret(secret) => ("whsec_", secret.as_slice()),
            Self::Private(key) => ("whsk_", key.as_bytes().as_slice()),
        };
        let encoded = Zeroizing::new(data_encoding::BASE64.encode(bytes));
        Zeroizing::new(format!("{prefix}{}", *encoded))
    }

    /// What receivers verify with; a shared secret has none.
    pub fn public_line(&self) -> Option<String> {
        match self {
            Self::Secret(_) => None,
            Self::Private(key) => {
                let public = data_encoding::BASE64.encode(key.verifying_key().as_bytes());
                Some(format!("whpk_{public}"))
            }
        }
    }

    /// One signature of the header `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let content = [id.as_bytes(), b".", timestamp_s.to_string().as_bytes(), b".", body].concat();
        match self {
            Self::Secret(secret) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
                mac.update(&content);
                format!("v1,{}", data_encoding::BASE64.encode(&mac.finalize().into_bytes()))
            }
            Self::Private(key) => {
                format!("v1a,{}", data_encoding::BASE64.encode(&key.sign(&content).to_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_a_secret_signs_as_openssl_does() {
        let key = Key::generate();
        let again = Key::parse(&key.secret_line()).unwrap();
        assert_eq!(key.public_line(), again.public_line());
        assert!(key.public_line().unwrap().starts_with("whpk_"));
        // The vector of webhooks/standard.rs, which openssl made.
        let secret = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_1", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signature, "v1,9o7UeFkn1GjVbcY4emAJruJCYqgH2EIf8u/slvVRBZI=");
    }

    #[test]
    fn the_two_serializations_of_a_private_key_are_one_key() {
        // RFC 8032, section 7.1, test 1.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let line = |bytes: &[u8]| format!("whsk_{}", data_encoding::BASE64.encode(bytes));
        let both = Key::parse(&line(&[seed.clone(), public.clone()].concat())).unwrap();
        let shown = format!("whpk_{}", data_encoding::BASE64.encode(&public));
        assert_eq!(both.public_line(), Some(shown.clone()));
        assert_eq!(Key::parse(&line(&seed)).unwrap().public_line(), Some(shown));
        let wrong = [seed.clone(), seed].concat();
        assert_eq!(Key::parse(&line(&wrong)).err(), Some(NotAKey::Private));
    }

    #[test]
    fn keys_that_are_none_say_why() {
        let why = |text: &str| Key::parse(text).err();
        assert_eq!(why("whpk_AAAA"), Some(NotAKey::Kind));
        assert_eq!(why("whsk_!"), Some(NotAKey::Base64));
        assert_eq!(why("whsk_AAAA"), Some(NotAKey::Private));
        assert_eq!(why("whsec_AAAA"), Some(NotAKey::Length));
    }
}
