//! A change of the authority that a command makes by itself, `tagout node` for one: signed and submitted in one go where
//! enough root keys are at hand, and otherwise left as a draft for those who hold them.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tagout_proto::authority::Authority;
use tagout_proto::command::Action;

use super::sign::{beside, missing, sign_as_root};
use super::{diff, document};
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::{quoted, write_new};
use crate::cli::session::{Done, Session};
use crate::cli::signing::{self, Signed};

#[derive(Args)]
pub struct ChangeArgs {
    /// A root key that signs the change: a file, or agent:SHA256:…; with enough of them it takes effect at once, without any
    /// it is written as a draft
    #[arg(long = "key", value_name = "ROOT_KEY")]
    keys: Vec<String>,
    /// Why; it stands in the document
    #[arg(long)]
    pub reason: Option<String>,
    /// Where a draft goes [default: authority-N.json, N being the next version]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A change that can be carried out: it follows the authority in force, and its signatures are made.
pub struct Prepared {
    draft: Authority,
    changes: Vec<String>,
    signed: Signed,
    /// Of each signature: whose it is.
    signed_by: Vec<String>,
    missing: Option<String>,
    file: PathBuf,
}

/// What became of a change, for programs.
#[derive(Serialize)]
pub struct Changed {
    pub version: u64,
    pub changes: Vec<String>,
    /// The draft; absent once it is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What the draft lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Done>,
}

impl Changed {
    pub fn in_force(&self) -> bool {
        self.file.is_none()
    }
}

impl Prepared {
    /// Checks the change and signs it, which asks for passphrases and touches; nothing has been written or sent then.
    pub fn new(session: &Session<'_>, next: &Authority, args: &ChangeArgs) -> Result<Self, Failure> {
        let current = session.authority();
        let text = document::text(next);
        let draft = Authority::parse(text.as_bytes())?;
        session.trust().check_succession(&draft)?;
        let changes = diff::changes(current, &draft);
        let file =
            args.out.clone().unwrap_or_else(|| PathBuf::from(format!("authority-{}.json", draft.version)));
        changes.iter().for_each(|change| session.out.line(change));
        let signers = if args.keys.is_empty() { vec![] } else { signing::open_signers(&args.keys)? };
        let (mut envelope, mut signed_by) = (signing::sign(text, &[])?, Vec::new());
        for (signer, spec) in signers.iter().zip(&args.keys) {
            let (signature, name) = sign_as_root(signer, spec, &envelope.document, current, &draft)?;
            envelope.signatures.push(signature);
            signed_by.push(name);
        }
        let missing = missing(session.trust(), &envelope);
        let signed = Signed { action: Action::Authority(Box::new(draft.clone())), envelope };
        Ok(Self { draft, changes, signed, signed_by, missing, file })
    }

    /// Has it take effect, or writes the draft with the signatures that there are.
    pub fn carry_out(self, session: &mut Session<'_>) -> Result<Changed, Failure> {
        let Self { draft, changes, signed, signed_by, missing, file } = self;
        let version = draft.version;
        if missing.is_some() {
            write_new(&file, signed.envelope.document.as_bytes(), 0o644)?;
            for (signature, name) in signed.envelope.signatures.iter().zip(&signed_by) {
                write_new(&beside(&file, &format!(".sig.{name}")), signature.as_bytes(), 0o644)?;
            }
            let (out, shown) = (session.out, quoted(&file));
            out.line(format!(
                "wrote {shown}: version {version} of the authority, which is not in force yet; next:"
            ));
            out.line(format!(
                "  tagout authority sign {shown} --key ROOT_KEY    for each root key that it takes"
            ));
            out.line(format!("  tagout authority submit {shown}"));
            let commands = Vec::new();
            return Ok(Changed { version, changes, file: Some(file), missing, commands });
        }
        // Whoever sends it relies on a log that continues what was seen, as with anything that gives.
        session.checkpoint_to_sign_on()?;
        let answer = session.send_said(&signed)?;
        let done = session.prove_done(&signed, answer)?;
        session.learn()?;
        session.out.line(format!("authority version {version} is in force"));
        Ok(Changed { version, changes, file: None, missing: None, commands: vec![done] })
    }
}

impl Changed {
    /// Some keys signed, and not enough: whoever runs this expected more.
    pub fn exit(&self, args: &ChangeArgs) -> Exit {
        if self.in_force() || args.keys.is_empty() { Exit::Ok } else { Exit::MissingSignatures }
    }
}
