//! A bearer token, which anybody sends, and a key set, which comes over the network. See `tests/fuzz/lib.rs` for how.

use data_encoding::BASE64URL_NOPAD as BASE64URL;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use tagout_fuzz::{Answer, Random, Target, mutate};

use super::keys::Keys;
use super::*;

const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT","kid":"ed"}"#;
const CLAIMS: &str = r#"{"iss":"https://id.example","sub":"alice","aud":["tagout","other"],"exp":4000000000,"nbf":1,"groups":["on-call"]}"#;

fn rule() -> IssuerRule {
    let names = |name: &str| [name.to_owned()].into();
    let roles = Roles { viewer: names("engineering"), operator: names("on-call") };
    IssuerRule::new("https://id.example", "tagout".into(), 60, "groups".into(), roles, None).unwrap()
}

fn signed(key: &SigningKey, header: &str, claims: &str) -> String {
    let text = format!("{}.{}", BASE64URL.encode(header.as_bytes()), BASE64URL.encode(claims.as_bytes()));
    let signature = BASE64URL.encode(&key.sign(text.as_bytes()).to_bytes());
    format!("{text}.{signature}")
}

fn set(key: &SigningKey) -> Value {
    let x = BASE64URL.encode(key.verifying_key().as_bytes());
    json!({"keys": [{"kty": "OKP", "kid": "ed", "crv": "Ed25519", "use": "sig", "x": x}]})
}

#[test]
fn issuer_token() {
    verify::install();
    let (key, rule) = (SigningKey::from_bytes(&[7; 32]), rule());
    let keys = Keys::of(&serde_json::from_value(set(&key)).unwrap());
    let make = |random: &mut Random| {
        let claims = if random.one_in(2) { CLAIMS.to_owned() } else { mutate::json(random, CLAIMS) };
        let header = if random.one_in(4) { mutate::json(random, HEADER) } else { HEADER.to_owned() };
        signed(&key, &header, &claims).into_bytes()
    };
    let target = Target::new("issuer-token", [signed(&key, HEADER, CLAIMS)]).make(make);
    target.check(|bytes| {
        let Ok(token) = std::str::from_utf8(bytes) else { return Answer::Refused };
        let claims = verify::named(token).and_then(|named| {
            let known = keys.find(named.kid.as_deref(), named.algorithm)?.ok_or(Invalid::UnknownKey)?;
            verify::verify(token, named.algorithm, &known, &rule)
        });
        if claims.is_ok() {
            // Looked at once more with nothing of the library: this key signed exactly these bytes, for us, and not for ever.
            let (text, signature) = token.rsplit_once('.').unwrap();
            let signature: [u8; 64] = BASE64URL.decode(signature.as_bytes()).unwrap().try_into().unwrap();
            key.verifying_key().verify_strict(text.as_bytes(), &signature.into()).unwrap();
            let payload = BASE64URL.decode(text.split('.').nth(1).unwrap().as_bytes()).unwrap();
            let said: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(said["iss"], "https://id.example");
            assert!(said["aud"] == "tagout" || said["aud"].as_array().unwrap().contains(&json!("tagout")));
            assert!(said["exp"].as_f64().unwrap() > 1_700_000_000.0);
        }
        Answer::of(&claims)
    });
}

#[test]
fn issuer_keys() {
    let mut published = set(&SigningKey::from_bytes(&[7; 32]));
    let x = published["keys"][0]["x"].clone();
    published["keys"].as_array_mut().unwrap().extend([
        json!({"kty": "EC", "kid": "ec", "crv": "P-256", "alg": "ES256", "x": x, "y": x}),
        json!({"kty": "RSA", "kid": "rsa", "key_ops": ["verify"], "n": x, "e": "AQAB"}),
        json!({"kty": "oct", "kid": "secret", "k": x}),
    ]);
    let seed = published.to_string();
    let target =
        Target::new("issuer-keys", [seed.clone()]).make(|random| mutate::json(random, &seed).into_bytes());
    target.check(|bytes| {
        let Ok(published) = serde_json::from_slice(bytes) else { return Answer::Refused };
        let keys = Keys::of(&published);
        // No text that both sides know is ever a key.
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            for kid in ["ed", "ec", "rsa", "secret"] {
                assert!(!matches!(keys.find(Some(kid), algorithm), Ok(Some(_))), "{kid}");
            }
        }
        Answer::taken(keys.len() > 0)
    });
}
