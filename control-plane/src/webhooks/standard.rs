//! Standard Webhooks (standardwebhooks.com, specification 1.0.0): who sent a request, and when. Pure: the time is given.

use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// How far the sender's clock and the node's may differ, and so how long a request can be sent again.
pub const TOLERANCE_S: u64 = 5 * 60;
const ID_MAX_BYTES: usize = 256;
/// A sender signs with its new key beside the old one while it changes them.
const SIGNATURES_MAX: usize = 8;
/// The specification's bounds of a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What verifies a sender's requests.
pub enum Key {
    /// `whsec_` and 24 to 64 bytes in base64: HMAC-SHA256, signatures `v1,`.
    Secret(Zeroizing<Vec<u8>>),
    /// `whpk_` and 32 bytes in base64: Ed25519, signatures `v1a,`.
    Public(VerifyingKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    #[error("it begins with neither whsec_ (a shared secret) nor whpk_ (an Ed25519 public key)")]
    Kind,
    #[error("what follows the prefix is no base64")]
    Base64,
    #[error("a secret has 24 to 64 bytes before base64: make one with `openssl rand -base64 32`")]
    Length,
    #[error("an Ed25519 public key has 32 bytes before base64, and is not of small order")]
    PublicKey,
}

/// Why a request is not taken for the sender's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the header {0} is missing: requests are signed as standardwebhooks.com says")]
    Missing(&'static str),
    #[error(
        "the header webhook-id is not 1 to {ID_MAX_BYTES} printable ASCII characters without spaces and full stops"
    )]
    Id,
    #[error("the header webhook-timestamp is no number of seconds since 1970")]
    Timestamp,
    #[error(
        "webhook-timestamp is {by_s} s {}: more than {TOLERANCE_S}, so it may be a request that somebody sends again. Compare \
         the clocks of the sender and of this node",
        if *.past { "ago" } else { "ahead" }
    )]
    Time { by_s: u64, past: bool },
    #[error(
        "no signature in webhook-signature is by this webhook's key: compare the secret, and have nothing change the body on \
         its way, not even its spaces"
    )]
    Signature,
}

/// The headers, as they came.
pub struct Headers<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
}

/// A request that its sender has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<'a> {
    pub id: &'a str,
    pub at_s: u64,
}

impl Key {
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let decode = |text: &str| {
            let decoded = data_encoding::BASE64.decode(text.as_bytes());
            decoded
                .or_else(|_| data_encoding::BASE64_NOPAD.decode(text.as_bytes()))
                .map_err(|_| NotAKey::Base64)
        };
        let text = text.trim();
        if let Some(secret) = text.strip_prefix("whsec_") {
            let secret = Zeroizing::new(decode(secret)?);
            return if SECRET_BYTES.contains(&secret.len()) {
                Ok(Self::Secret(secret))
            } else {
                Err(NotAKey::Length)
            };
        }
        let public = decode(text.strip_prefix("whpk_").ok_or(NotAKey::Kind)?)?;
        let key = public.try_into().ok().and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        key.filter(|key| !key.is_weak()).map(Self::Public).ok_or(NotAKey::PublicKey)
    }

    /// Whether one of `signatures` is this key's over `content`. It is hashed once, however many there are.
    fn has_signed(&self, content: &[&[u8]], signatures: &[(&str, Vec<u8>)]) -> bool {
        let of = |wanted: &'static str| signatures.iter().filter(move |(version, _)| *version == wanted);
        match self {
            Self::Secret(secret) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
                content.iter().for_each(|part| mac.update(part));
                of("v1").any(|(_, signature)| mac.clone().verify_slice(signature).is_ok())
            }
            Self::Public(key) => of("v1a").any(|(_, signature)| {
                let signature = Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify_strict(&content.concat(), &signature).is_ok())
            }),
        }
    }
}

/// Whether one of `keys` has signed this, not long before or after `now_s`.
pub fn verify<'a>(keys: &[Key], headers: &Headers<'a>, body: &[u8], now_s: u64) -> Result<Sent<'a>, Refused> {
    let Headers { id, timestamp, signature } = *headers;
    // A full stop stands between the parts that are signed.
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic() && b != b'.');
    if id.len() > ID_MAX_BYTES || !is_id(id) {
        return Err(Refused::Id);
    }
    let digits = !timestamp.is_empty() && timestamp.bytes().all(|b| b.is_ascii_digit());
    let at_s: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(Refused::Timestamp)?;
    let by_s = at_s.abs_diff(now_s);
    if by_s > TOLERANCE_S {
        return Err(Refused::Time { by_s, past: at_s < now_s });
    }
    let signatures: Vec<_> = signature.split(' ').take(SIGNATURES_MAX).filter_map(parse_signature).collect();
    let content: [&[u8]; 5] = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    if !signatures.is_empty() && keys.iter().any(|key| key.has_signed(&content, &signatures)) {
        Ok(Sent { id, at_s })
    } else {
        Err(Refused::Signature)
    }
}

fn parse_signature(text: &str) -> Option<(&str, Vec<u8>)> {
    let (version, encoded) = text.split_once(',')?;
    // No signature is longer: 32 bytes of HMAC-SHA256, 64 of Ed25519.
    let signature = data_encoding::BASE64.decode(encoded.as_bytes()).ok()?;
    (signature.len() <= Signature::BYTE_SIZE).then_some((version, signature))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const NOW: u64 = 1_614_265_330;
    /// `printf '%s' 'msg_1.1614265330.{"test": 2432232314}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64`
    const SIGNATURE: &str = "v1,9o7UeFkn1GjVbcY4emAJruJCYqgH2EIf8u/slvVRBZI=";

    fn headers<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> Headers<'a> {
        Headers { id, timestamp, signature }
    }

    #[test]
    fn the_hmac_is_what_openssl_makes() {
        let keys = [Key::parse(SECRET).unwrap()];
        let sent = verify(&keys, &headers("msg_1", "1614265330", SIGNATURE), BODY, NOW + TOLERANCE_S);
        assert_eq!(sent, Ok(Sent { id: "msg_1", at_s: NOW }));
    }

    #[test]
    fn one_of_several_signatures_and_of_several_keys_is_enough() {
        let old = Key::parse(&format!("whsec_{}", "A".repeat(32))).unwrap();
        let keys = [old, Key::parse(SECRET).unwrap()];
        let several = format!("v1,AAAA v2,x {SIGNATURE}");
        assert!(verify(&keys, &headers("msg_1", "1614265330", &several), BODY, NOW).is_ok());
    }

    #[test]
    fn an_ed25519_key_verifies_its_own_kind_only() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let public = data_encoding::BASE64.encode(signing.verifying_key().as_bytes());
        let keys = [Key::parse(&format!("whpk_{public}")).unwrap()];
        let content = [b"msg_1.1614265330.".as_slice(), BODY].concat();
        let signature = data_encoding::BASE64.encode(&signing.sign(&content).to_bytes());
        assert!(
            verify(&keys, &headers("msg_1", "1614265330", &format!("v1a,{signature}")), BODY, NOW).is_ok()
        );
        let as_hmac = format!("v1,{signature}");
        assert_eq!(
            verify(&keys, &headers("msg_1", "1614265330", &as_hmac), BODY, NOW),
            Err(Refused::Signature)
        );
    }

    #[test]
    fn whatever_differs_is_refused() {
        let keys = [Key::parse(SECRET).unwrap()];
        let refused = |id, timestamp, signature, body: &[u8], now| {
            verify(&keys, &headers(id, timestamp, signature), body, now).unwrap_err()
        };
        assert_eq!(refused("msg_2", "1614265330", SIGNATURE, BODY, NOW), Refused::Signature);
        assert_eq!(refused("msg_1", "1614265331", SIGNATURE, BODY, NOW), Refused::Signature);
        assert_eq!(
            refused("msg_1", "1614265330", SIGNATURE, b"{\"test\":2432232314}", NOW),
            Refused::Signature
        );
        assert_eq!(refused("msg_1", "1614265330", &SIGNATURE[3..], BODY, NOW), Refused::Signature);
        assert_eq!(refused("msg.1", "1614265330", SIGNATURE, BODY, NOW), Refused::Id);
        assert_eq!(refused("", "1614265330", SIGNATURE, BODY, NOW), Refused::Id);
        assert_eq!(refused("msg_1", "+1614265330", SIGNATURE, BODY, NOW), Refused::Timestamp);
        let late = refused("msg_1", "1614265330", SIGNATURE, BODY, NOW + TOLERANCE_S + 1);
        assert_eq!(late, Refused::Time { by_s: TOLERANCE_S + 1, past: true });
        let early = refused("msg_1", "1614265330", SIGNATURE, BODY, NOW - TOLERANCE_S - 1);
        assert_eq!(early, Refused::Time { by_s: TOLERANCE_S + 1, past: false });
    }

    #[test]
    fn keys_that_are_none_say_why() {
        let why = |text: &str| Key::parse(text).err();
        assert_eq!(why("secret"), Some(NotAKey::Kind));
        assert_eq!(why("whsec_!"), Some(NotAKey::Base64));
        assert_eq!(why("whsec_AAAA"), Some(NotAKey::Length));
        assert_eq!(why("whpk_AAAA"), Some(NotAKey::PublicKey));
        let small_order = data_encoding::BASE64.encode(&[0; 32]);
        assert_eq!(why(&format!("whpk_{small_order}")), Some(NotAKey::PublicKey));
    }
}
