//! Requests as a security platform sends them, signed by openssl.

use std::fmt::Write;
use std::process::Command;

use reqwest::header::HeaderMap;
use serde_json::Value;
use tagout_control_plane::document::new_id;

use crate::deployment::Deployment;

pub const SECRET: &[u8] = b"a secret of thirty-two bytes, yes";

/// One webhook of a node: its name, the key that it signs with, and what else its configuration says.
pub struct Hook<'a>(pub &'a str, pub &'a str, pub &'a str);

/// What each severity does, where a test does not say otherwise.
pub const BY_SEVERITY: &str = "actions = { critical = 'stop', high = 'isolate', medium = { throttle = { calls_per_minute = 6 } }, \
                               low = 'nothing' }";

/// Has the node take webhooks, before it starts; all share one secret.
pub fn configure(deployment: &Deployment, hooks: &[Hook<'_>]) {
    let folder = deployment.dir().join("node-1");
    std::fs::write(folder.join("soc.secret"), format!("whsec_{}", base64(SECRET)))
        .expect("its folder is there");
    let mut text = String::new();
    for Hook(name, key, more) in hooks {
        let key = deployment.key(key).display().to_string();
        let head = format!("[[webhook]]\nname = \"{name}\"\nverify = [\"soc.secret\"]\nsign = \"{key}\"");
        writeln!(text, "{head}\n{more}\n").expect("text");
    }
    std::fs::write(folder.join("webhooks.toml"), text).expect("its folder is there");
    deployment.configure("webhooks = \"webhooks.toml\"");
}

/// A request as Standard Webhooks has it.
pub struct Request {
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub body: String,
}

impl Request {
    pub fn new(body: &Value) -> Self {
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        Self::at(now_s, body)
    }

    pub fn at(at_s: u64, body: &Value) -> Self {
        let id = format!("msg_{}", new_id());
        Self { id, timestamp: at_s.to_string(), signature: String::new(), body: body.to_string() }
            .signed(SECRET)
    }

    /// By openssl, not by what verifies it.
    pub fn signed(mut self, secret: &[u8]) -> Self {
        let content = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let key = format!("hexkey:{}", data_encoding::HEXLOWER.encode(secret));
        let made = Command::new("openssl")
            .args(["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary"])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.signature = format!("v1,{}", base64(&made.stdout));
        self
    }

    pub fn headers(&self) -> HeaderMap {
        let all = [
            ("webhook-id", &self.id),
            ("webhook-timestamp", &self.timestamp),
            ("webhook-signature", &self.signature),
        ];
        all.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }
}

pub fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}
