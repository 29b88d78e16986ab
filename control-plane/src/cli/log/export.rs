//! `tagout log show N --out DIR`: what people signed, byte for byte, as files that `ssh-keygen -Y verify` takes.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tagout_proto::authority::Authority;
use tagout_proto::log::entry::Entry;
use tagout_proto::sshsig::{DRILL_NAMESPACE, NAMESPACE, PublicKey, SshSignature};

use crate::cli::failure::Failure;
use crate::cli::files::{quoted, write_new};
use crate::cli::out::Out;
use crate::signers::namespace_of;

/// The files of an entry, and the commands that verify them.
#[derive(Debug, Serialize)]
pub struct Export {
    pub index: u64,
    pub document: PathBuf,
    pub signatures: Vec<PathBuf>,
    pub allowed_signers: PathBuf,
    /// One per signature by a key of the authority.
    pub commands: Vec<String>,
    /// Fingerprints of the keys that the authority does not name.
    pub strangers: Vec<String>,
}

/// Writes `N.json`, `N.json.1.sig` and so on, and `allowed_signers`. Nothing is overwritten.
pub fn write(entry: &Entry, authority: &Authority, dir: &Path) -> Result<Export, Failure> {
    let (index, envelope) = (entry.index, &entry.envelope);
    let document = dir.join(format!("{index}.json"));
    let allowed_signers = dir.join("allowed_signers");
    let (mut signatures, mut commands, mut strangers) = (vec![], vec![], vec![]);
    for (n, armored) in envelope.signatures.iter().enumerate() {
        let file = dir.join(format!("{index}.json.{}.sig", n + 1));
        let signature =
            SshSignature::parse(armored).map_err(|e| Failure::unverified("entry", e.to_string()))?;
        let key = signature.claimed_key();
        match name_of(authority, key) {
            Some(name) => commands.push(format!(
                "ssh-keygen -Y verify -f {} -I {} -n {} -s {} < {}",
                quoted(&allowed_signers),
                quoted(Path::new(&name)),
                namespace_of(entry.kind),
                quoted(&file),
                quoted(&document)
            )),
            None => strangers.push(key.fingerprint()),
        }
        signatures.push(file);
    }
    std::fs::create_dir_all(dir).map_err(|e| Failure::file("make the folder", dir, &e))?;
    let allowed = allowed(authority);
    // The same for every entry, so that one folder takes several.
    if std::fs::read(&allowed_signers).ok().as_deref() != Some(allowed.as_bytes()) {
        write_new(&allowed_signers, allowed.as_bytes(), 0o644)?;
    }
    write_new(&document, envelope.document.as_bytes(), 0o644)?;
    for (file, armored) in signatures.iter().zip(&envelope.signatures) {
        write_new(file, armored.as_bytes(), 0o644)?;
    }
    Ok(Export { index, document, signatures, allowed_signers, commands, strangers })
}

/// Whose key it is. A root signer signs authorities and no commands, which its name says.
fn name_of(authority: &Authority, key: &PublicKey) -> Option<String> {
    let root = || authority.root.signers.iter().find(|s| s.key == *key).map(|s| format!("root:{}", s.name));
    authority.principal_of(key).map(|p| p.name.clone()).or_else(root)
}

/// ssh-keygen's ALLOWED SIGNERS format.
pub fn allowed(authority: &Authority) -> String {
    let both = format!("{NAMESPACE},{DRILL_NAMESPACE}");
    let people = (authority.principals.iter())
        .flat_map(|p| p.keys.iter().map(|key| (p.name.clone(), both.as_str(), key)));
    let root = authority.root.signers.iter().map(|s| (format!("root:{}", s.name), NAMESPACE, &s.key));
    let line = |(name, namespaces, key): (String, &str, &PublicKey)| {
        let key = key.to_openssh();
        format!("{name} namespaces=\"{namespaces}\" {}\n", key.trim_end())
    };
    people.chain(root).map(line).collect()
}

impl Export {
    pub fn say(&self, out: &Out) {
        out.document(self);
        let files = [&self.document].into_iter().chain(&self.signatures).chain([&self.allowed_signers]);
        let files: Vec<_> = files.map(|file| quoted(file)).collect();
        out.line(format!("wrote {}", files.join(", ")));
        for stranger in &self.strangers {
            out.line(format!(
                "  no command for the key {stranger}: the profile's authority does not name it"
            ));
        }
        if self.signatures.is_empty() {
            out.line("  nobody signed it: it is the service's own record, and only the log vouches for it");
        }
        self.commands.iter().for_each(|command| out.line(command));
    }
}
