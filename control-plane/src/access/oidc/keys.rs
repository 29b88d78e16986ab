//! An issuer's key set (RFC 7517), as far as its keys can verify signatures by public keys. The key and its set decide which
//! algorithms a token may name, never the token: there is no secret among them that a public key could be taken for.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::verify::Invalid;

/// More are no set of keys that somebody rotates.
const KEYS_MAX: usize = 64;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The set as it is published. A key that cannot be read takes none of the others with it.
#[derive(Deserialize)]
pub struct Published {
    keys: Vec<serde_json::Value>,
}

#[derive(Debug)]
pub struct Keys(Vec<Key>);

#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    pub decoding: DecodingKey,
}

impl Keys {
    pub fn of(published: &Published) -> Self {
        let read = |key: &serde_json::Value| {
            let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
            Key::of(&jwk)
        };
        Self(published.keys.iter().take(KEYS_MAX).filter_map(read).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The key that a token names. One that names none may be of the only key that there is.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Option<Key>, Invalid> {
        let key = match kid {
            Some(kid) => self.0.iter().find(|key| key.kid.as_deref() == Some(kid)),
            None if self.0.len() == 1 => self.0.first(),
            None => return Err(Invalid::NamesNoKey),
        };
        match key {
            Some(key) if !key.algorithms.contains(&algorithm) => Err(Invalid::Algorithm),
            key => Ok(key.cloned()),
        }
    }
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let to_verify = common.public_key_use.as_ref().is_none_or(|to| *to == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|to| to.contains(&KeyOperations::Verify));
        let possible: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => &[],
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => &[],
        };
        let algorithms: Vec<_> = match &common.key_algorithm {
            Some(named) => possible.iter().copied().filter(|one| is(*named, *one)).collect(),
            None => possible.into(),
        };
        if !to_verify || algorithms.is_empty() {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { kid: common.key_id.clone(), algorithms, decoding })
    }
}

/// Both are spelled as RFC 7518 and 8037 have them.
fn is(named: KeyAlgorithm, algorithm: Algorithm) -> bool {
    named.to_string() == format!("{algorithm:?}")
}
