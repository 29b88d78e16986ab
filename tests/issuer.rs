//! An identity provider: the other party of OIDC. It serves its discovery document and its keys over HTTP on loopback, and
//! signs whatever a test wants signed: with ring, and with openssl for RSA.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use data_encoding::BASE64URL_NOPAD;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

pub struct Issuer {
    pub url: String,
    served: Arc<Served>,
    folder: tempfile::TempDir,
}

struct Served {
    url: String,
    keys: Mutex<Vec<Value>>,
    away: AtomicBool,
    asked: AtomicUsize,
}

/// A key pair; its public half is in the set while the issuer publishes it.
pub struct Key {
    pub kid: String,
    pair: Pair,
    pub public: Value,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    /// A file of openssl's.
    Rsa(std::path::PathBuf),
}

impl Issuer {
    /// Listens on loopback, in a thread of its own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("its address");
        listener.set_nonblocking(true).expect("a socket");
        let url = format!("http://{address}/realms/ops");
        let (keys, away, asked) = (Mutex::default(), AtomicBool::new(false), AtomicUsize::new(0));
        let served = Arc::new(Served { url: url.clone(), keys, away, asked });
        let app = Router::new()
            .route("/realms/ops/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys_of))
            .with_state(Arc::clone(&served));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                axum::serve(listener, app).await
            })
        });
        Self { url, served, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// From now on the set has these keys and no others.
    pub fn publish(&self, keys: &[&Key]) {
        *self.served.keys.lock() = keys.iter().map(|key| key.public.clone()).collect();
    }

    /// From now on it answers with an error.
    pub fn away(&self, away: bool) {
        self.served.away.store(away, Ordering::SeqCst);
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> usize {
        self.served.asked.load(Ordering::SeqCst)
    }

    pub fn ed25519(&self, kid: &str) -> Key {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a new key");
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let public =
            json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"});
        Key { kid: kid.into(), pair: Pair::Ed25519(pair), public }
    }

    pub fn p256(&self, kid: &str) -> Key {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("randomness");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a new key");
        let point = pair.public_key().as_ref();
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
        let public = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig"});
        Key { kid: kid.into(), pair: Pair::P256(pair), public }
    }

    pub fn rsa(&self, kid: &str) -> Key {
        let file = self.folder.path().join(kid);
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", text(&file)]);
        let modulus = openssl(&["rsa", "-in", text(&file), "-noout", "-modulus"]);
        let modulus = String::from_utf8(modulus).expect("text");
        let modulus = modulus.trim().strip_prefix("Modulus=").expect("a modulus");
        let n = data_encoding::HEXUPPER.decode(modulus.as_bytes()).expect("hexadecimal");
        let n = BASE64URL_NOPAD.encode(&n);
        Key {
            kid: kid.into(),
            pair: Pair::Rsa(file),
            public: json!({"kty": "RSA", "n": n, "e": "AQAB", "kid": kid}),
        }
    }

    /// What it says of somebody with these groups, for the audience `tagout`, good for an hour.
    pub fn claims(&self, groups: &[&str]) -> Value {
        let now = now_s();
        json!({"iss": self.url, "sub": "7f3a", "aud": ["other", "tagout"], "iat": now, "nbf": now, "exp": now + 3600,
            "groups": groups})
    }
}

impl Key {
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ed25519(_) => "EdDSA",
            Pair::P256(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// A token of these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "typ": "JWT", "kid": self.kid}), claims)
    }

    /// With another header.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::P256(pair) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).expect("randomness").as_ref().to_vec()
            }
            Pair::Rsa(file) => {
                let input = file.with_extension("message");
                std::fs::write(&input, &message).expect("its folder is there");
                openssl(&["dgst", "-sha256", "-sign", text(file), text(&input)])
            }
        };
        format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}

/// Header and claims, as they are signed.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a date after 1970").as_secs()
}

async fn discovery(State(served): State<Arc<Served>>) -> Result<axum::Json<Value>, StatusCode> {
    if served.away.load(Ordering::SeqCst) {
        return Err(StatusCode::BAD_GATEWAY);
    }
    let (host, _) = served.url.split_once("/realms").expect("its path");
    Ok(axum::Json(
        json!({"issuer": served.url, "jwks_uri": format!("{host}/keys"), "response_types_supported": ["code"]}),
    ))
}

async fn keys_of(State(served): State<Arc<Served>>) -> axum::Json<Value> {
    served.asked.fetch_add(1, Ordering::SeqCst);
    axum::Json(json!({"keys": *served.keys.lock()}))
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let ran = Command::new("openssl").args(arguments).output().expect("openssl runs");
    assert!(ran.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    ran.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}
