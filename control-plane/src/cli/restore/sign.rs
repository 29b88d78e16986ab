//! `tagout restore sign`: a root key signs both documents, offline.

use std::path::PathBuf;

use clap::Args;

use super::{Prepared, quoted};
use crate::cli::authority::sign::{beside, root_signer, verified};
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::write_new;
use crate::cli::out::Out;
use crate::cli::signing;

#[derive(Args)]
pub struct SignArgs {
    /// The folder that `prepare` made; of it, the files at its top are enough
    dir: PathBuf,
    /// A root key of the authority in force: a file, or agent:SHA256:…
    #[arg(long = "key", value_name = "ROOT_KEY", required = true)]
    keys: Vec<String>,
}

pub fn run(out: &Out, args: &SignArgs) -> Result<Exit, Failure> {
    let prepared = Prepared::load(&args.dir)?;
    let signers = signing::open_signers(&args.keys)?;
    prepared.say(out);
    let (current, next) = (prepared.profile.authority(), &prepared.authority.document);
    let mut written = Vec::new();
    for (signer, spec) in signers.iter().zip(&args.keys) {
        let drafts = [
            (&prepared.restore.path, &prepared.restore.envelope),
            (&prepared.authority.path, &prepared.authority.envelope),
        ];
        for (path, envelope) in drafts {
            let text = envelope.document.clone();
            let mut signed = signing::sign(text, std::slice::from_ref(signer))?;
            let signature = signed.signatures.remove(0);
            let name =
                root_signer(&verified(&signature, &signed.document)?, current, next).ok_or_else(|| {
                    let version = current.version;
                    let detail = format!(
                        "{spec} is no root key of version {version} of the authority: it signs no restore"
                    );
                    Failure::new(Exit::Failed, "no-root-key", detail)
                })?;
            let path = beside(path, &format!(".sig.{name}"));
            write_new(&path, signature.as_bytes(), 0o644)?;
            out.line(format!("signed by root signer {name}: {}", quoted(&path)));
            written.push(path);
        }
    }
    let missing = Prepared::load(&args.dir)?.missing()?;
    out.document(&serde_json::json!({ "dir": args.dir, "signatures": written, "missing": missing }));
    missing.iter().for_each(|missing| out.line(format!("more is needed: {missing}")));
    if missing.is_empty() {
        out.line(format!("enough root keys have signed; next: tagout restore finish {}", quoted(&args.dir)));
    }
    Ok(Exit::Ok)
}
