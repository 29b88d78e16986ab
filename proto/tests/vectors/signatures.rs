//! SSHSIG and OpenSSH public keys.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tagout_proto::sshsig::{PublicKey, SshSignature};

use crate::cases::{run, text};
use crate::codes::Code;

#[test]
fn signatures_and_keys() {
    run("sshsig", |case| match &case["key_line"] {
        Value::Null => {
            let signature = SshSignature::parse(text(&case["signature"])).map_err(|e| e.code())?;
            let proven = signature.verify(text(&case["document"]).as_bytes()).map_err(|e| e.code())?;
            let (presence, verification) = (proven.presence, proven.verification);
            Ok(json!({"key": proven.key.to_openssh(), "presence": presence, "verification": verification}))
        }
        line => {
            let key = PublicKey::parse_openssh(text(line)).map_err(|e| e.code())?;
            let (blob, fingerprint) = (HEXLOWER.encode(&key.blob()), key.fingerprint());
            Ok(json!({"line": key.to_openssh(), "blob": blob, "fingerprint": fingerprint}))
        }
    });
}
