//! A token against a key: signature, issuer, audience and times, and then the roles that its claims stand for. Signatures
//! are ring's, since TLS here is; jsonwebtoken does what is around them.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{Error as NotSigned, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Validation};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::Value;
use tagout_proto::wire::AccessRole;

use super::IssuerRule;
use super::keys::Key;

const TOKEN_MAX_BYTES: usize = 12 * 1024;
const KID_MAX_BYTES: usize = 256;
/// Values of the roles' claim that are looked at, and what is shown of a subject.
const VALUES_MAX: usize = 2048;
const SUBJECT_SHOWN_CHARS: usize = 128;

/// Why a token is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error(
        "it is no token that an issuer signs with RSA, ECDSA or Ed25519: header, claims and signature, and an \"alg\" of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA"
    )]
    NoToken,
    #[error("its \"alg\" is none for the key that it names")]
    Algorithm,
    #[error("it names no key (\"kid\"), and the issuer has several")]
    NamesNoKey,
    #[error(
        "the issuer has no such key (\"kid\"), or no longer; one that it has just begun to use is known here within 5 s: try again \
         then"
    )]
    UnknownKey,
    #[error("its signature is not by the key that it names")]
    Signature,
    #[error("its time is over: get a new one")]
    Ended,
    #[error("its time has not come: look at the clocks of the issuer and of this node")]
    NotYet,
    #[error("it is by another issuer than {0:?}")]
    Issuer(String),
    #[error("it is for another audience than {0:?}: ask the issuer for a token for this one")]
    Audience(String),
    #[error("a claim is missing or is not what it should be: {0}")]
    Claim(String),
    #[error(
        "the keys of {issuer} cannot be fetched, and without them its tokens cannot be verified: {why}. API tokens (`tagout token new`) work all the same"
    )]
    IssuerAway { issuer: String, why: String },
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub subject: String,
    /// Absent where nothing in it stands for a role.
    pub role: Option<AccessRole>,
    pub expires_at_ms: u64,
}

/// What a token's header names; nothing of it is believed.
#[derive(Debug)]
pub struct Named {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
}

/// Reads a token's header.
pub fn named(token: &str) -> Result<Named, Invalid> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(Invalid::NoToken);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Invalid::NoToken)?;
    match header.alg {
        // A secret that both sides have; here it would be a public key.
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return Err(Invalid::NoToken),
        _ => {}
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > KID_MAX_BYTES) {
        return Err(Invalid::UnknownKey);
    }
    Ok(Named { kid: header.kid, algorithm: header.alg })
}

/// Verifies a token with the key that it names, and reads its claims.
pub fn verify(token: &str, algorithm: Algorithm, key: &Key, rule: &IssuerRule) -> Result<Claims, Invalid> {
    let mut validation = Validation::new(algorithm);
    validation.leeway = rule.leeway_s;
    validation.validate_nbf = true;
    validation.set_issuer(&[&rule.issuer]);
    validation.set_audience(&[&rule.audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    let decoded = jsonwebtoken::decode::<Value>(token, &key.decoding, &validation);
    let claims = decoded.map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => Invalid::Signature,
        ErrorKind::ExpiredSignature => Invalid::Ended,
        ErrorKind::ImmatureSignature => Invalid::NotYet,
        ErrorKind::InvalidIssuer => Invalid::Issuer(rule.issuer.clone()),
        ErrorKind::InvalidAudience => Invalid::Audience(rule.audience.clone()),
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            Invalid::Claim(claim.clone())
        }
        ErrorKind::InvalidAlgorithm => Invalid::Algorithm,
        _ => Invalid::NoToken,
    })?;
    let claims = claims.claims;
    // RFC 7519, section 4.1.1: one, and not a list of them.
    if claims["iss"].as_str() != Some(&rule.issuer) {
        return Err(Invalid::Issuer(rule.issuer.clone()));
    }
    let expires_s = claims["exp"].as_f64().unwrap_or(0.0);
    let subject = claims["sub"].as_str().unwrap_or("nameless");
    Ok(Claims {
        subject: subject.chars().filter(|c| !c.is_control()).take(SUBJECT_SHOWN_CHARS).collect(),
        role: rule.roles.of(values(&claims, &rule.roles_claim).into_iter()),
        // As long as it would be taken.
        expires_at_ms: ((expires_s + rule.leeway_s as f64) * 1000.0) as u64,
    })
}

/// What stands in the roles' claim: a text, or a list of them. Only `scope` (RFC 8693, section 4.2) and what some issuers call
/// `scp` are several words in one text: in a group's name a space is a part of it.
fn values<'a>(claims: &'a Value, claim: &str) -> Vec<&'a str> {
    let found = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
    match found {
        Some(Value::String(text)) if matches!(claim, "scope" | "scp" | "/scope" | "/scp") => {
            text.split(' ').take(VALUES_MAX).collect()
        }
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).take(VALUES_MAX).collect(),
        _ => Vec::new(),
    }
}

/// Makes ring what jsonwebtoken verifies with, once per process.
pub fn install() {
    static INSTALLED: Once = Once::new();
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: no_signer,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(), // to make key sets from keys, which nobody does here
    };
    INSTALLED.call_once(|| RING.install_default().expect("nothing else in this process verifies tokens"));
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

struct ByRing {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(ByRing { algorithm: *algorithm, key: key.clone() }))
}

impl Verifier<Vec<u8>> for ByRing {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), NotSigned> {
        let by_rsa = |parameters: &RsaParameters| match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                // ring takes no number with zeros before it, and some issuers publish them.
                let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .map_err(|_| NotSigned::new())
            }
            DecodingKeyKind::SecretOrDer(_) => Err(NotSigned::new()),
        };
        let by_point = |algorithm: &'static dyn VerificationAlgorithm| match self.key.kind() {
            DecodingKeyKind::SecretOrDer(point) => UnparsedPublicKey::new(algorithm, point)
                .verify(message, signature)
                .map_err(|_| NotSigned::new()),
            DecodingKeyKind::RsaModulusExponent { .. } => Err(NotSigned::new()),
        };
        match self.algorithm {
            Algorithm::RS256 => by_rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => by_rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => by_rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => by_rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => by_rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => by_rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => by_point(&ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => by_point(&ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => by_point(&ED25519),
            // Secrets, and what is not known here.
            _ => Err(NotSigned::new()),
        }
    }
}

impl JwtVerifier for ByRing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests;
