//! Whose signatures are on a document.

use tagout_proto::envelope::Envelope;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::sshsig::{DRILL_NAMESPACE, NAMESPACE, SshSignature};
use tagout_proto::trust::Trust;

/// What a signature in the log was made for.
pub fn namespace_of(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Drill => DRILL_NAMESPACE,
        EntryKind::Command
        | EntryKind::Trip
        | EntryKind::Outcome
        | EntryKind::Proposal
        | EntryKind::Restore
        | EntryKind::RuleVersion => NAMESPACE,
    }
}

/// Who signed `envelope`, which is of an entry of this kind, by any version: a log outlives the keys that signed in it. Root
/// signers bear a `root:`.
pub fn signed_by(trust: &Trust, kind: EntryKind, envelope: &Envelope) -> Vec<String> {
    let namespace = namespace_of(kind);
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
