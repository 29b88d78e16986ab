//! OpenC2 commands as a producer sends them.

use std::fmt::Write;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tagout_proto::digest::Digest;

use crate::deployment::Deployment;

/// A token of this number.
pub fn token(number: u8) -> String {
    format!("tagout_{}", data_encoding::HEXLOWER.encode(&[number; 32]))
}

/// Has the node take producers, before it starts: of each its name, the key that it signs with, and the number of its token.
pub fn configure(deployment: &Deployment, producers: &[(&str, &str, u8)], more: &str) {
    let path = deployment.dir().join("node-1/webhooks.toml");
    let before = std::fs::read_to_string(&path);
    if before.is_err() {
        deployment.configure("webhooks = \"webhooks.toml\"");
    }
    let mut text = before.unwrap_or_default();
    for (name, key, number) in producers {
        let key = deployment.key(key).display().to_string();
        let digest = Digest::of(token(*number).as_bytes());
        let head = format!("[[openc2]]\nname = \"{name}\"\ntokens = [\"{digest}\"]\nsign = \"{key}\"");
        writeln!(text, "{head}\n{more}\n").expect("text");
    }
    std::fs::write(path, text).expect("its folder is there");
}

/// The message around a command, made now.
pub fn message(id: &str, request: &Value) -> String {
    let created = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let headers =
        json!({"request_id": id, "created": created, "from": "soc.example", "to": ["node-1.example"]});
    json!({"headers": headers, "body": {"openc2": {"request": request}}}).to_string()
}

/// As HTTPS Transfer 1.1, section 3.4, has its headers.
pub fn post(http: &reqwest::Client, url: &str, token: Option<&str>, id: &str) -> RequestBuilder {
    let media = "application/openc2+json;version=1.0";
    let request =
        http.post(url).header("content-type", media).header("accept", media).header("x-request-id", id);
    token.into_iter().fold(request, |request, token| request.bearer_auth(token))
}
