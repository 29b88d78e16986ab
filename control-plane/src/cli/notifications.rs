//! `tagout notifications`: who is told of what happens, what could not be delivered, and the keys that notifications are
//! signed with.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tagout_proto::wire::{NotificationReceiver, NotificationTest};

use super::Globals;
use super::client::Client;
use super::failure::{Exit, Failure};
use super::files::{quoted, write_new};
use super::out::{Ink, Out, count, instant, now_ms, span};
use super::profile::{self, Profile};
use crate::notify::key::Key;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NotificationsArgs {
    #[command(subcommand)]
    verb: Option<NotificationVerb>,
}

#[derive(Subcommand)]
enum NotificationVerb {
    /// Send dead letters again
    Replay(ReplayArgs),
    /// Go on with a receiver that answered 410; one that fails is tried at once
    Resume(ReceiverArgs),
    /// Send one event that says nothing, and show the answer
    Test(ReceiverArgs),
    /// Show what a key's signatures are verified with; a file that is not there gets a new key
    Key(KeyFileArgs),
}

#[derive(Args)]
struct ReplayArgs {
    /// The receiver's name
    receiver: String,
    /// A dead letter's id, or that of any entry that it was or would have been told of
    #[arg(required_unless_present = "all")]
    id: Option<String>,
    /// Every dead letter
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

#[derive(Args)]
struct ReceiverArgs {
    /// The receiver's name
    receiver: String,
}

#[derive(Args)]
struct KeyFileArgs {
    /// The file of the private key, such as notify.key
    file: PathBuf,
}

pub fn run(out: &Out, globals: &Globals, args: NotificationsArgs) -> Result<Exit, Failure> {
    let client = || {
        let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
        Client::new(&profile, globals)
    };
    match args.verb {
        None => list(out, &client()?),
        Some(NotificationVerb::Replay(args)) => replay(out, &client()?, &args),
        Some(NotificationVerb::Resume(args)) => {
            out.document(&client()?.resume_notifications(&args.receiver)?);
            out.line(format!("{} is told again, from where it was", args.receiver));
            Ok(Exit::Ok)
        }
        Some(NotificationVerb::Test(args)) => test(out, &client()?, &args.receiver),
        Some(NotificationVerb::Key(args)) => key(out, &args),
    }
}

fn list(out: &Out, client: &Client) -> Result<Exit, Failure> {
    let notifications = client.notifications()?;
    out.document(&notifications);
    if notifications.receivers.is_empty() {
        out.line("nobody is told: name a file of receivers as \"notify\" in the nodes' tagout.toml");
    }
    for receiver in &notifications.receivers {
        say(out, receiver);
    }
    Ok(Exit::Ok)
}

fn say(out: &Out, receiver: &NotificationReceiver) {
    let NotificationReceiver { name, format, place, cursor, behind, queued, .. } = receiver;
    let mut waiting = match behind {
        0 => "was told of everything".to_owned(),
        1 => format!("1 entry behind, at entry {cursor}"),
        behind => format!("{behind} entries behind, at entry {cursor}"),
    };
    if *queued > 0 {
        waiting = format!("{waiting}; {} of what no log has", count(*queued, "event"));
    }
    out.line(format!("{} {format} {place}  {waiting}", out.ink(Ink::Bold, name)));
    if let Some(why) = &receiver.disabled {
        let what = format!("  DISABLED: it wants no more ({why}): tagout notifications resume {name}");
        out.line(out.ink(Ink::Red, what));
    }
    if let Some(failing) = &receiver.failing {
        let (attempts, error) = (count(failing.attempts.into(), "attempt"), &failing.error);
        let (since, next) = (instant(failing.since_ms), span(failing.next_ms.saturating_sub(now_ms())));
        let what = format!("  {} not taken since {since}, {attempts}: {error}; again in {next}", failing.id);
        out.line(out.ink(Ink::Yellow, what));
    }
    if !receiver.dead_letters.is_empty() || receiver.dead_letters_dropped > 0 {
        let dead = count(receiver.dead_letters.len() as u64, "dead letter");
        let dropped = match receiver.dead_letters_dropped {
            0 => String::new(),
            dropped => format!(", and {dropped} that there was no room for"),
        };
        out.line(
            out.ink(Ink::Yellow, format!("  {dead}{dropped}: tagout notifications replay {name} --all")),
        );
    }
    for letter in &receiver.dead_letters {
        let (attempts, at) = (count(letter.attempts.into(), "attempt"), instant(letter.at_ms));
        let again = if letter.again { ", about to be sent again" } else { "" };
        out.line(format!("    {} {at} after {attempts}: {}{again}", letter.id, letter.error));
    }
}

fn replay(out: &Out, client: &Client, args: &ReplayArgs) -> Result<Exit, Failure> {
    let answer = client.replay_notifications(&args.receiver, args.id.as_deref())?;
    out.document(&answer);
    out.line(format!(
        "{} about to be sent again to {}: `tagout notifications` shows what becomes of it",
        count(answer.replayed, "notification"),
        answer.receiver
    ));
    Ok(Exit::Ok)
}

fn test(out: &Out, client: &Client, receiver: &str) -> Result<Exit, Failure> {
    let test: NotificationTest = client.test_notification(receiver)?;
    out.document(&test);
    if test.delivered {
        out.line(format!("{receiver} took {}: {}", test.id, test.answer));
        return Ok(Exit::Ok);
    }
    out.line(out.ink(Ink::Red, format!("{receiver} did not take {}: {}", test.id, test.answer)));
    Ok(Exit::Failed)
}

fn key(out: &Out, args: &KeyFileArgs) -> Result<Exit, Failure> {
    let (path, shown) = (&args.file, quoted(&args.file));
    let made = !path.exists();
    let key = if made {
        let key = Key::generate();
        write_new(path, format!("{}\n", *key.secret_line()).as_bytes(), 0o600)?;
        key
    } else {
        let text = std::fs::read_to_string(path).map(zeroize::Zeroizing::new);
        let text = text.map_err(|e| Failure::file("read the key", path, &e))?;
        Key::parse(&text)
            .map_err(|why| Failure::new(Exit::Failed, "key", format!("{shown} holds no key: {why}")))?
    };
    let public = key.public_line().ok_or_else(|| {
        let detail = format!(
            "{shown} is a shared secret, which has no public half: its receiver needs the file's own line"
        );
        Failure::new(Exit::Failed, "key", detail)
    })?;
    out.document(&serde_json::json!({ "key": path, "public": public, "made": made }));
    if made {
        out.line(format!("made {shown}, for its node alone; receivers verify with"));
    }
    out.line(public);
    Ok(Exit::Ok)
}
