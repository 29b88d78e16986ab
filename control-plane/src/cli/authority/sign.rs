//! `tagout authority sign` and `submit`: a draft becomes the authority once the root thresholds of the version in force and
//! of the next one have signed its exact bytes. Signatures lie beside the draft as `FILE.sig*`, by whatever tool.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use tagout_proto::authority::Authority;
use tagout_proto::command::Action;
use tagout_proto::envelope::Envelope;
use tagout_proto::sshsig::{PublicKey, SshSignature};
use tagout_proto::trust::{Trust, TrustError};

use super::{diff, document};
use crate::cli::Globals;
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::{quoted, replace, write_new};
use crate::cli::out::{Ink, Out, count};
use crate::cli::session::Session;
use crate::cli::signing::{self, Signed};
use crate::cli::status;
use crate::sign::Signer;

#[derive(Args)]
pub struct SignArgs {
    /// The draft
    file: PathBuf,
    /// A root key that signs, of the version in force or of the next one: a file, or agent:SHA256:…
    #[arg(long = "key", value_name = "ROOT_KEY", required = true)]
    keys: Vec<String>,
}

#[derive(Args)]
pub struct SubmitArgs {
    /// The draft; its signatures lie beside it
    file: PathBuf,
}

pub fn sign(out: &Out, globals: &Globals, args: SignArgs) -> Result<Exit, Failure> {
    let (session, online) = Session::open_or_remembered(out, globals)?;
    let (mut text, mut draft) = document::read(&args.file)?;
    session.trust().check_succession(&draft)?;
    let signers = signing::open_signers(&args.keys)?;
    let current = session.authority();
    let file = quoted(&args.file);
    match online {
        Some(_) => (text, draft) = with_true_disables(&session, &args.file, text, draft)?,
        None => out.line(format!(
            "{} which agents it disables was not looked up; the draft says {} at most",
            out.ink(Ink::Yellow, "note:"),
            draft.succession.as_ref().map_or(0, |s| s.disables)
        )),
    }
    out.line(format!("signing {file}: version {}, {}", draft.version, draft.digest));
    diff::changes(current, &draft).iter().for_each(|change| out.line(format!("  {change}")));

    let mut written = Vec::new();
    for (signer, spec) in signers.iter().zip(&args.keys) {
        let (signature, name) = sign_as_root(signer, spec, &text, current, &draft)?;
        let path = beside(&args.file, &format!(".sig.{name}"));
        write_new(&path, signature.as_bytes(), 0o644)?;
        out.line(format!("signed by root signer {name}: {}", quoted(&path)));
        written.push(path);
    }
    let missing = missing(session.trust(), &signed_beside(&args.file, &text)?);
    out.document(&serde_json::json!({ "file": args.file, "digest": draft.digest, "signatures": written, "missing": missing }));
    match missing {
        Some(missing) => out.line(format!("more is needed: {missing}")),
        None => out.line(format!("enough root keys have signed; next: tagout authority submit {file}")),
    }
    Ok(Exit::Ok)
}

/// A root key's signature on the draft, and whose it is.
pub(super) fn sign_as_root(
    signer: &Signer,
    spec: &str,
    text: &str,
    current: &Authority,
    draft: &Authority,
) -> Result<(String, String), Failure> {
    let mut envelope = signing::sign(text.to_owned(), std::slice::from_ref(signer))?;
    let signature = envelope.signatures.remove(0);
    let name = root_signer(&verified(&signature, text)?, current, draft).ok_or_else(|| {
        let version = current.version;
        let detail = format!(
            "{spec} is no root key, neither of version {version} nor of the draft: it signs no authority"
        );
        Failure::new(Exit::Failed, "no-root-key", detail)
    })?;
    Ok((signature, name))
}

/// Before the first signature, the draft is made to say how many agents it disables; afterwards its bytes are fixed.
fn with_true_disables(
    session: &Session<'_>,
    file: &Path,
    text: String,
    draft: Authority,
) -> Result<(String, Authority), Failure> {
    let impact = session.client.impact(&text)?;
    let (said, found) = (draft.succession.as_ref().map_or(0, |s| s.disables), impact.disables.len() as u64);
    status::say_disabled(session.out, &impact.disables);
    let signed = !signatures_beside(file)?.is_empty();
    if said == found || signed && said >= found {
        return Ok((text, draft));
    }
    if signed {
        let detail = format!(
            "by now it disables {found} scopes, and those who signed it were told of {said} at most: move their \
             signatures ({}.sig*) away and sign anew",
            quoted(file)
        );
        return Err(Failure::new(Exit::Failed, "disables-more", detail));
    }
    let filled = document::with_disables(&text, found).and_then(|filled| {
        let draft = Authority::parse(filled.as_bytes()).ok()?;
        Some((filled, draft))
    });
    let (text, draft) = filled.ok_or_else(|| {
        Failure::usage(format!(
            "write \"disables\": {found} into {}: so many scopes lose their consent",
            quoted(file)
        ))
    })?;
    replace(file, text.as_bytes())?;
    session.out.line(format!("the draft says now that it disables {}", count(found, "scope")));
    Ok((text, draft))
}

pub fn submit(out: &Out, globals: &Globals, args: SubmitArgs) -> Result<Exit, Failure> {
    let mut session = Session::open(out, globals)?;
    let (text, draft) = document::read(&args.file)?;
    let envelope = signed_beside(&args.file, &text)?;
    if envelope.signatures.is_empty() {
        let file = quoted(&args.file);
        let detail = format!("no signature lies beside {file}: tagout authority sign {file} --key ROOT_KEY");
        return Err(Failure::new(Exit::MissingSignatures, "unsigned", detail));
    }
    session.trust().clone().learn(&envelope)?;
    // Whoever sends it relies on a log that continues what was seen, as with anything that gives.
    session.checkpoint_to_sign_on()?;
    let changes = diff::changes(session.authority(), &draft);
    let version = draft.version;
    let signed = Signed { action: Action::Authority(Box::new(draft)), envelope };
    let answer = session.send_said(&signed)?;
    let done = session.prove_done(&signed, answer)?;
    session.learn()?;
    out.line(format!("authority version {version} is in force"));
    changes.iter().for_each(|change| out.line(format!("  {change}")));
    out.document(&serde_json::json!({ "commands": [done], "version": version, "changes": changes }));
    Ok(Exit::Ok)
}

pub(in crate::cli) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The signature files beside a draft, by name.
fn signatures_beside(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix: OsString = file.file_name().unwrap_or_default().to_owned();
    prefix.push(".sig");
    let entries = std::fs::read_dir(folder).map_err(|e| Failure::file("look into", folder, &e))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut found: Vec<_> = names
        .filter(|name| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()))
        .map(|name| file.with_file_name(name))
        .collect();
    found.sort();
    Ok(found)
}

/// The draft with every signature that lies beside it, each of them good.
pub(in crate::cli) fn signed_beside(file: &Path, text: &str) -> Result<Envelope, Failure> {
    let mut envelope = Envelope { document: text.into(), signatures: Vec::new() };
    for path in signatures_beside(file)? {
        let signature =
            std::fs::read_to_string(&path).map_err(|e| Failure::file("read the signature", &path, &e))?;
        verified(&signature, text).map_err(|mut failure| {
            let detail = &mut failure.problem.detail;
            *detail = format!("{}: {detail}; if the draft was edited since, sign it anew", path.display());
            failure
        })?;
        envelope.signatures.push(signature);
    }
    Ok(envelope)
}

pub(in crate::cli) fn verified(signature: &str, text: &str) -> Result<PublicKey, Failure> {
    let proven = SshSignature::parse(signature).and_then(|s| s.verify(text.as_bytes()));
    proven.map(|proven| proven.key).map_err(|e| Failure::unverified("signature", e.to_string()))
}

pub(in crate::cli) fn root_signer(key: &PublicKey, current: &Authority, next: &Authority) -> Option<String> {
    let signers = next.root.signers.iter().chain(&current.root.signers);
    signers.into_iter().find(|signer| signer.key == *key).map(|signer| signer.name.clone())
}

/// What is missing until both thresholds are reached.
pub(super) fn missing(trust: &Trust, envelope: &Envelope) -> Option<String> {
    trust.clone().learn(envelope).err().map(|error| error.to_string())
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        let (exit, code) = match &error {
            TrustError::RootThreshold(_) | TrustError::Unsigned(_) => {
                (Exit::MissingSignatures, "root-threshold")
            }
            TrustError::VersionGap { .. } | TrustError::OtherPredecessor { .. } => {
                (Exit::Refused, "succession")
            }
            _ => (Exit::Refused, "authority"),
        };
        Self::new(exit, code, format!("{error}; nothing was sent"))
    }
}
