//! `tagout token`: API tokens, with which people and tools read. A token is shown once; a node's access file has its SHA-256.
//! The node looks at the file by itself, so neither a new token nor a revoked one takes a restart.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{AccessRole, TokenRecord};

use super::client::Client;
use super::failure::{Exit, Failure, chain};
use super::files::{self, quoted, write_new};
use super::out::{Ink, Out, count, instant, now_ms, span};
use super::profile::{self, Profile};
use super::{Globals, duration_ms};
use crate::access::{self, ApiToken, ConfigError};
use crate::written::read;

/// A token always ends, and no later than this.
const FOR_MAX_MS: u64 = 400 * 24 * 3600 * 1000;
/// That of `tagout init`.
const FIRST_FOR_MS: u64 = 365 * 24 * 3600 * 1000;

#[derive(Subcommand)]
pub enum TokenVerb {
    /// Make a token with which somebody may read, and add it to a node's access file; it is shown once
    New(NewArgs),
    /// Show which tokens a node takes, and when each was last used there; for operators
    List,
    /// Take a token out of a node's access file: the node refuses it within seconds
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub struct NewArgs {
    /// Whose it is, as `tagout token list` shows it
    name: String,
    /// A viewer reads; an operator also sees who else does, and gives, where commands take an identity
    #[arg(long)]
    role: RoleArg,
    /// A scope that it may see with all below, and nothing of the others; repeat it for several [default: the whole fleet]
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// For how long from now, such as 90d; at most 400d
    #[arg(long = "for", value_name = "TIME", default_value = "90d", value_parser = duration_ms)]
    for_ms: u64,
    /// The access file of each node that shall take it; made where it is not there
    #[arg(long, value_name = "FILE", required = true)]
    access: Vec<PathBuf>,
    /// Write the token into a new file that only you can read, and do not show it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub struct RevokeArgs {
    /// Its name
    name: String,
    /// The access file of each node that takes it
    #[arg(long, value_name = "FILE", required = true)]
    access: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArg {
    Viewer,
    Operator,
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    role: AccessRole,
    scopes: &'a [Scope],
    expires_at_ms: u64,
    access: &'a [PathBuf],
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<&'a Path>,
}

pub fn run(out: &Out, globals: &Globals, verb: TokenVerb) -> Result<Exit, Failure> {
    match verb {
        TokenVerb::New(args) => new(out, &args),
        TokenVerb::List => list(out, globals),
        TokenVerb::Revoke(args) => revoke(out, &args),
    }
}

/// The token of a new deployment's operators, and the access file that takes it.
pub fn first() -> Result<(ApiToken, String), Failure> {
    let token = random()?;
    let expires_at_ms = now_ms().saturating_add(FIRST_FOR_MS);
    let lines = access::token_lines("operator", &token.digest(), AccessRole::Operator, &[], expires_at_ms);
    Ok((token, access::new_file("", &lines)))
}

fn random() -> Result<ApiToken, Failure> {
    ApiToken::random()
        .map_err(|e| Failure::new(Exit::Failed, "randomness", format!("no randomness for a token: {e}")))
}

fn new(out: &Out, args: &NewArgs) -> Result<Exit, Failure> {
    access::check_name(&args.name).map_err(Failure::usage)?;
    if args.for_ms == 0 {
        return Err(Failure::usage("--for 0s would make a token that has ended already"));
    }
    if args.for_ms > FOR_MAX_MS {
        return Err(Failure::usage(format!("a token is good for up to {}, and no longer", span(FOR_MAX_MS))));
    }
    let role = match args.role {
        RoleArg::Viewer => AccessRole::Viewer,
        RoleArg::Operator => AccessRole::Operator,
    };
    let token = random()?;
    let expires_at_ms = now_ms().saturating_add(args.for_ms);
    let lines = access::token_lines(&args.name, &token.digest(), role, &args.scopes, expires_at_ms);
    // Before it counts: a token that cannot be kept shall not be in force.
    if let Some(path) = &args.out {
        write_new(path, format!("{}\n", token.reveal()).as_bytes(), 0o600)?;
    }
    for path in &args.access {
        let added = change(path, |text| Ok(added(text, &lines)));
        if let (Err(_), Some(path)) = (&added, &args.out) {
            let _ = fs::remove_file(path);
        }
        added?;
    }
    let shown = args.out.is_none().then(|| token.reveal());
    out.document(&Made {
        name: &args.name,
        role,
        scopes: &args.scopes,
        expires_at_ms,
        access: &args.access,
        token: shown,
        token_file: args.out.as_deref(),
    });
    let places: Vec<_> = args.access.iter().map(|path| quoted(path)).collect();
    out.line(format!("added {} to {}, until {}", args.name, places.join(" and "), instant(expires_at_ms)));
    match (shown, &args.out) {
        (Some(token), _) => {
            out.line("the token, which is shown this once; send it as \"Authorization: Bearer TOKEN\":");
            out.line(out.ink(Ink::Bold, token));
        }
        (None, Some(path)) => out.line(format!(
            "the token is in {}; `tagout` takes it with --api-token, or as token = \"FILE\" in the profile",
            quoted(path)
        )),
        (None, None) => {}
    }
    Ok(Exit::Ok)
}

fn added(text: Option<&str>, lines: &str) -> String {
    let Some(text) = text else { return access::new_file("", lines) };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{lines}")
}

fn list(out: &Out, globals: &Globals) -> Result<Exit, Failure> {
    let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let client = Client::new(&profile, globals)?;
    let found = client.tokens()?;
    out.document(&found);
    out.line(format!(
        "{} takes {}; you are {}",
        client.node(),
        count(found.tokens.len() as u64, "token"),
        found.you
    ));
    let now = now_ms();
    let rows: Vec<_> = found
        .tokens
        .iter()
        .map(|TokenRecord { name, role, scopes, expires_at_ms, last_used_ms }| {
            let role = match role {
                AccessRole::Viewer => "viewer",
                AccessRole::Operator => "operator",
            };
            let scopes: Vec<_> = scopes.iter().map(Scope::as_str).collect();
            let until = match expires_at_ms.saturating_sub(now) {
                0 => out.ink(Ink::Yellow, "ended"),
                left => format!("until {} ({} left)", instant(*expires_at_ms), span(left)),
            };
            let used = match last_used_ms {
                Some(at) => format!("used {} ago", span(now.saturating_sub(*at))),
                None => "not used since the node's start".into(),
            };
            vec![name.clone(), role.into(), scopes.join(", "), until, used]
        })
        .collect();
    out.table(&rows);
    Ok(Exit::Ok)
}

fn revoke(out: &Out, args: &RevokeArgs) -> Result<Exit, Failure> {
    for path in &args.access {
        change(path, |text| without(path, text.unwrap_or(""), &args.name))?;
        out.line(format!("took {} out of {}; its node refuses it within seconds", args.name, quoted(path)));
    }
    out.document(&serde_json::json!({ "name": args.name, "access": args.access }));
    Ok(Exit::Ok)
}

fn without(path: &Path, text: &str, name: &str) -> Result<String, Failure> {
    let mut file: toml_edit::DocumentMut = text
        .parse()
        .map_err(|e| Failure::new(Exit::Failed, "bad-access", format!("{}: {e}", path.display())))?;
    let tokens = file.get_mut("token").and_then(|tokens| tokens.as_array_of_tables_mut());
    let named = |token: &toml_edit::Table| token.get("name").and_then(|found| found.as_str()) == Some(name);
    match tokens {
        Some(tokens) if tokens.iter().any(named) => {
            tokens.retain(|token| !named(token));
            Ok(file.to_string())
        }
        _ => {
            let detail = format!(
                "{} has no token {name:?}: `tagout token list` shows what a node takes",
                path.display()
            );
            Err(Failure::new(Exit::Failed, "no-such-token", detail))
        }
    }
}

/// Replaces an access file as a whole, if what it becomes is one that a node takes. Nobody else changes it meanwhile.
fn change(path: &Path, become_: impl FnOnce(Option<&str>) -> Result<String, Failure>) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e: std::io::Error| Failure::file("change", path, &e);
    // On the folder, since the file is another one afterwards.
    let lock = File::open(folder).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    let wrong = |error: ConfigError| {
        Failure::new(Exit::Failed, "bad-access", format!("{}: {}", path.display(), chain(&error)))
    };
    let before = match fs::metadata(path) {
        Ok(found) => Some((read(path).map_err(|error| wrong(error.into()))?, found.permissions())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let text = become_(before.as_ref().map(|(text, _)| text.as_str()))?;
    access::check(path, &text).map_err(wrong)?;
    match before {
        None => write_new(path, text.as_bytes(), 0o600),
        Some((_, permissions)) => files::replace_with(path, text.as_bytes(), Some(permissions)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, path: &Path) -> NewArgs {
        NewArgs {
            name: name.into(),
            role: RoleArg::Viewer,
            scopes: vec![Scope::parse("demo").unwrap()],
            for_ms: 3_600_000,
            access: vec![path.into()],
            out: Some(path.with_extension(format!("{name}.token"))),
        }
    }

    #[test]
    fn tokens_come_and_go_and_what_people_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let out = Out::new(true);
        new(&out, &args("one", &path)).unwrap();
        let text = fs::read_to_string(&path).unwrap() + "# ours\n";
        fs::write(&path, &text).unwrap();
        new(&out, &args("two", &path)).unwrap();

        let token: ApiToken =
            fs::read_to_string(path.with_extension("two.token")).unwrap().trim().parse().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("# ours\n") && text.contains(&token.digest().to_string()), "{text}");
        assert!(!text.contains(token.reveal()), "{text}");
        let failure = new(&out, &NewArgs { out: None, ..args("two", &path) }).unwrap_err();
        assert!(failure.to_string().contains("another one has this name"), "{failure}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);

        revoke(&out, &RevokeArgs { name: "two".into(), access: vec![path.clone()] }).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"one\"") && !text.contains(&token.digest().to_string()), "{text}");
        let failure = revoke(&out, &RevokeArgs { name: "two".into(), access: vec![path] }).unwrap_err();
        assert_eq!(failure.problem.code, "no-such-token");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the file and two tokens");
    }

    #[test]
    fn a_token_that_is_not_added_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        fs::write(&path, "tokn = 1\n").unwrap();
        let failure = new(&Out::new(true), &args("one", &path)).unwrap_err();
        assert!(failure.to_string().contains("unknown field `tokn`"), "{failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for (name, for_ms) in [("a b", 1), ("a", 0), ("a", FOR_MAX_MS + 1)] {
            let wrong = NewArgs { for_ms, ..args(name, &path) };
            assert_eq!(new(&Out::new(true), &wrong).unwrap_err().exit, Exit::Usage);
        }
    }
}
