//! Whose signatures are on a document.

use tagout_proto::envelope::Envelope;
use tagout_proto::sshsig::{NAMESPACE, SshSignature};
use tagout_proto::trust::Trust;

/// Who signed `envelope`, by any version: a log outlives the keys that signed in it. Root signers bear a `root:`.
pub fn signed_by(trust: &Trust, envelope: &Envelope) -> Vec<String> {
    signed_in(NAMESPACE, trust, envelope)
}

/// As [`signed_by`], for what is signed in another namespace than a command.
pub fn signed_in(namespace: &str, trust: &Trust, envelope: &Envelope) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for armored in &envelope.signatures {
        let bytes = envelope.document.as_bytes();
        let proven = SshSignature::parse(armored).and_then(|s| s.verify_for(namespace, bytes));
        let Ok(proven) = proven else { continue };
        let name = trust.versions().iter().rev().find_map(|version| {
            let root = version.root.signers.iter().find(|s| s.key == proven.key);
            let retired = version.retired().iter().find(|r| r.key == proven.key);
            (version.principal_of(&proven.key).map(|p| p.name.clone()))
                .or_else(|| root.map(|s| format!("root:{}", s.name)))
                .or_else(|| retired.map(|r| r.principal.clone()))
        });
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}
