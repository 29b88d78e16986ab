//! The vectors of RFC 7515 (appendix A.2, A.3) and RFC 8037 (appendix A.4), and tokens of openssl's making are in
//! tests/access.rs.

use std::collections::BTreeSet;

use jsonwebtoken::crypto;
use serde_json::json;

use super::super::keys::Keys;
use super::*;
use crate::access::config::Roles;

const CLAIMS: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const ES256: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const EDDSA: &str = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

fn keys(published: &Value) -> Keys {
    Keys::of(&serde_json::from_value(published.clone()).unwrap())
}

fn rsa() -> Value {
    json!({"kty": "RSA", "kid": "rsa", "n": N, "e": "AQAB"})
}

fn p256() -> Value {
    json!({"kty": "EC", "kid": "p256", "crv": "P-256", "x": X, "y": Y})
}

fn ed25519() -> Value {
    json!({"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": ED})
}

#[test]
fn the_vectors_of_rfc_7515_and_8037_verify_and_no_others() {
    install();
    let keys = keys(&json!({"keys": [rsa(), p256(), ed25519()]}));
    let of_rfc_7515 = |header: &str| format!("{header}.{CLAIMS}");
    for (kid, algorithm, message, signature) in [
        ("rsa", Algorithm::RS256, of_rfc_7515("eyJhbGciOiJSUzI1NiJ9"), RS256),
        ("p256", Algorithm::ES256, of_rfc_7515("eyJhbGciOiJFUzI1NiJ9"), ES256),
        ("ed", Algorithm::EdDSA, "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".into(), EDDSA),
    ] {
        let key = keys.find(Some(kid), algorithm).unwrap().unwrap();
        let verifies = |signature: &str, message: &str| {
            crypto::verify(signature, message.as_bytes(), &key.decoding, algorithm).unwrap()
        };
        assert!(verifies(signature, &message), "{kid}");
        assert!(!verifies(signature, &format!("{message}x")), "{kid}");
        let other =
            signature.replacen(&signature[..1], if signature.starts_with('A') { "B" } else { "A" }, 1);
        assert!(!verifies(&other, &message), "{kid}");
    }
}

#[test]
fn a_key_says_which_algorithms_it_is_for_and_the_token_does_not() {
    let keys = keys(&json!({"keys": [rsa(), p256(), ed25519()]}));
    for (kid, algorithm) in [
        ("rsa", Algorithm::ES256),
        ("rsa", Algorithm::HS256),
        ("p256", Algorithm::RS256),
        ("p256", Algorithm::ES384),
        ("ed", Algorithm::ES256),
        ("ed", Algorithm::HS512),
    ] {
        assert_eq!(keys.find(Some(kid), algorithm).unwrap_err(), Invalid::Algorithm, "{kid} {algorithm:?}");
    }
    assert!(keys.find(Some("none"), Algorithm::RS256).unwrap().is_none());
    assert_eq!(keys.find(None, Algorithm::RS256).unwrap_err(), Invalid::NamesNoKey);
}

#[test]
fn keys_for_something_else_are_left_out_and_take_no_others_with_them() {
    let change = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let secret = json!({"kty": "oct", "kid": "secret", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ"});
    for left_out in [
        secret,
        change(rsa(), "use", json!("enc")),
        change(rsa(), "key_ops", json!(["sign"])),
        change(rsa(), "alg", json!("RSA-OAEP")),
        change(p256(), "alg", json!("RS256")),
        change(p256(), "crv", json!("P-521")),
        json!({"kty": "new", "kid": "x"}),
        json!(7),
        json!({}),
    ] {
        assert_eq!(keys(&json!({"keys": [left_out, ed25519()]})).len(), 1, "{left_out}");
    }
    let one = keys(&json!({"keys": [change(rsa(), "alg", json!("RS256"))]}));
    assert!(one.find(None, Algorithm::RS256).unwrap().is_some(), "the only one need not be named");
    assert_eq!(one.find(Some("rsa"), Algorithm::PS256).unwrap_err(), Invalid::Algorithm);
}

#[test]
fn headers_that_name_no_signature_are_refused() {
    let header = |text: &str| format!("{}.e30.AAAA", data_encoding::BASE64URL_NOPAD.encode(text.as_bytes()));
    for refused in [
        header(r#"{"alg":"none"}"#),
        header(r#"{"alg":"None"}"#),
        header(r#"{"alg":"HS256","kid":"rsa"}"#),
        header(r#"{"alg":"HS384"}"#),
        header(r#"{"alg":"HS512"}"#),
        header(r#"{"alg":"RS1"}"#),
        header(r#"{}"#),
        header("x"),
        String::new(),
        "a.b".into(),
        "....".into(),
        format!("{}{}", header(r#"{"alg":"RS256"}"#), "A".repeat(TOKEN_MAX_BYTES)),
    ] {
        assert_eq!(named(&refused).unwrap_err(), Invalid::NoToken, "{refused:.80}");
    }
    assert_eq!(named(&header(r#"{"alg":"ES256","kid":"k"}"#)).unwrap().kid.as_deref(), Some("k"));
}

#[test]
fn roles_are_whole_values_of_one_claim() {
    let claims = json!({
        "groups": ["sre", "all staff"], "one": "sre", "scope": "openid tagout.read", "https://x.example/roles": ["sre"],
        "realm_access": {"roles": ["tagout-viewer"]}, "number": 7, "mixed": [1, "sre", null],
    });
    assert_eq!(values(&claims, "groups"), ["sre", "all staff"]);
    assert_eq!(values(&claims, "one"), ["sre"]);
    assert_eq!(values(&claims, "scope"), ["openid", "tagout.read"]);
    assert_eq!(values(&claims, "https://x.example/roles"), ["sre"]);
    assert_eq!(values(&claims, "/realm_access/roles"), ["tagout-viewer"]);
    assert_eq!(values(&claims, "mixed"), ["sre"]);
    for none in ["number", "none", "/realm_access/none", "/groups/9", "realm_access"] {
        assert!(values(&claims, none).is_empty(), "{none}");
    }
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let roles = Roles { viewer: set(&["all staff"]), operator: set(&["sre"]) };
    assert_eq!(roles.of(["all staff"].into_iter()), Some(AccessRole::Viewer));
    assert_eq!(roles.of(["all staff", "sre"].into_iter()), Some(AccessRole::Operator));
    assert_eq!(roles.of(["all", "staff", "SRE"].into_iter()), None);
}
