//! Security keys without the hardware. The real `ssh-keygen` and `ssh-agent` talk to tokens through a helper program
//! that `SSH_SK_HELPER` names; here it hands their requests to a token in software.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use super::*;
use crate::sign::wire::Reader;

const KIND: &[u8] = b"sk-ssh-ed25519@openssh.com";
const HANDLE: &[u8] = b"only the token understands this";
const MESSAGE: &[u8] = b"{\"tagout\":1}\n";

/// What the file of a security key says that its owner must do.
const TOUCH: u8 = 0x01;
const PIN: u8 = 0x04;

/// A token that signs as OpenSSH's PROTOCOL.u2f says.
#[derive(Clone)]
pub(super) struct SoftToken {
    pub(super) key: SigningKey,
    pub(super) application: &'static str,
    /// What it says of its user: 1, touched; 4, knew the PIN.
    pub(super) flags: u8,
    pub(super) counter: u32,
}

impl SoftToken {
    pub(super) fn new() -> Self {
        Self { key: SigningKey::from_bytes(&[7; 32]), application: "ssh:", flags: TOUCH, counter: 9 }
    }

    pub(super) fn public(&self) -> sshsig::PublicKey {
        let key = self.key.verifying_key().to_bytes();
        sshsig::PublicKey::SkEd25519 { key, application: self.application.into() }
    }

    pub(super) fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let state = [&[self.flags][..], &self.counter.to_be_bytes()].concat();
        let hashes = [Sha256::digest(self.application), Sha256::digest(signed)];
        let signature = self.key.sign(&[&hashes[0][..], &state, &hashes[1][..]].concat());
        [strings(&[KIND, &signature.to_bytes()]), state].concat()
    }

    /// The key's file, as `ssh-keygen -t ed25519-sk` leaves it, and its public half beside it.
    fn write_file(&self, dir: &Path, flags: u8) -> PathBuf {
        let path = dir.join("id_ed25519_sk");
        let public = self.public().blob();
        let mut private =
            [&[1, 2, 3, 4, 1, 2, 3, 4][..], &public, &[flags], &strings(&[HANDLE, b"", b"anna@desk"])]
                .concat();
        let padding = (1..).take(private.len().next_multiple_of(8) - private.len());
        private.extend(padding);
        let blob = [
            b"openssh-key-v1\0".to_vec(),
            strings(&[b"none", b"none", b""]),
            vec![0, 0, 0, 1],
            strings(&[&public, &private]),
        ]
        .concat();
        let encoded = BASE64.encode(&blob);
        let text =
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{encoded}\n-----END OPENSSH PRIVATE KEY-----\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.join("id_ed25519_sk.pub"), format!("{} anna@desk\n", self.public().to_openssh()))
            .unwrap();
        path
    }

    /// Plugs the token in for `requests` signatures, and gives the helper program through which it is reached.
    fn plug_in(&self, dir: &Path, requests: usize) -> (PathBuf, JoinHandle<()>) {
        // Pipes of its own for each request: a late end of one must not be taken for the next.
        let dir = dir.to_owned();
        let pipe = move |name: &str, request: usize| dir.join(format!("{name}.{request}"));
        for request in 0..requests {
            run_well(Command::new("mkfifo").arg(pipe("asked", request)).arg(pipe("answered", request)));
        }
        let place = pipe("", 0).parent().unwrap().display().to_string();
        let helper = script(
            &Path::new(&place).join("helper"),
            &format!(
                "exec 3<&0\ncd '{place}'\nn=0\nwhile ! mkdir $n 2>/dev/null; do n=$((n+1)); done\n\
                 cat <&3 >asked.$n &\nexec cat answered.$n\n"
            ),
        );
        let token = self.clone();
        let served = thread::spawn(move || {
            for number in 0..requests {
                let mut asking = fs::File::open(pipe("asked", number)).unwrap();
                let mut length = [0; 4];
                asking.read_exact(&mut length).unwrap();
                let mut request = vec![0; u32::from_be_bytes(length) as usize];
                asking.read_exact(&mut request).unwrap();
                let mut answering = OpenOptions::new().write(true).open(pipe("answered", number)).unwrap();
                answering.write_all(&token.answer(&request)).unwrap();
            }
        });
        (helper, served)
    }

    /// The helper's protocol, which is OpenSSH's own (`ssh-sk-client.c`): a version, the kind of request (1 is to
    /// sign), how to log, the key, the provider, the data.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let (head, rest) = request.split_at(10);
        assert_eq!(head[1..5], [0, 0, 0, 1]);
        let mut reader = Reader(rest);
        let key = reader.string().unwrap();
        let expected = [self.public().blob(), key[self.public().blob().len()..][..1].to_vec()].concat();
        assert_eq!(key, [expected, strings(&[HANDLE, b""])].concat(), "the file's handle");
        assert_eq!(reader.string(), Some(&b"internal"[..]));
        let signature = self.sign(reader.string().unwrap());
        strings(&[&[&head[..5], &strings(&[&signature])].concat()])
    }
}

/// Written by another process: what another test starts meanwhile would inherit a file that is open for writing here,
/// and such a file cannot be run ("text file busy").
fn script(path: &Path, body: &str) -> PathBuf {
    let write = "printf '#!/bin/sh\\n%s' \"$1\" >\"$0\" && chmod 755 \"$0\"";
    run_well(Command::new("sh").args(["-c", write]).arg(path).arg(body));
    path.to_owned()
}

/// The real `ssh-keygen`, which reaches tokens through `helper`.
fn ssh_keygen(dir: &Path, helper: &Path) -> Option<PathBuf> {
    let run = format!("SSH_SK_HELPER='{}' exec ssh-keygen \"$@\"\n", helper.display());
    Some(script(&dir.join("keygen"), &run))
}

/// The real `ssh-agent`, likewise, which holds the key of `file`.
fn ssh_agent(dir: &Path, helper: &Path, file: &Path) -> RealAgent {
    let mut command = Command::new("ssh-agent");
    command.env("SSH_SK_HELPER", helper).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    let agent = RealAgent::start_with(dir, command.stderr(Stdio::null()));
    agent.add(file);
    agent
}

fn assert_signs_once(dir: &Path, signer: &Signer, presence: bool) {
    let armored = signer.sign(NAMESPACE, MESSAGE).unwrap();
    assert!(openssh_accepts(dir, signer.public_key(), NAMESPACE, MESSAGE, &armored));
    assert!(!openssh_accepts(dir, signer.public_key(), NAMESPACE, b"{}", &armored));
    let proven = SshSignature::parse(&armored).unwrap().verify(MESSAGE).unwrap();
    assert_eq!((&proven.key, proven.presence), (signer.public_key().key(), presence));
}

#[test]
fn its_file_signs_through_ssh_keygen() {
    for flags in [TOUCH, 0] {
        let dir = tempfile::tempdir().unwrap();
        let token = SoftToken { flags, ..SoftToken::new() };
        let file = token.write_file(dir.path(), flags);
        let (helper, served) = token.plug_in(dir.path(), 1);
        let ssh_keygen = ssh_keygen(dir.path(), &helper);
        let signer = open(&file, &Surroundings { ssh_keygen, ..Default::default() }).unwrap();
        assert_eq!(signer.public_key().kind(), KeyKind::SecurityKey);
        assert_eq!(signer.public_key().comment(), "anna@desk");
        assert_eq!(signer.held_by(), format!("the security key of {}", file.display()));
        assert_signs_once(dir.path(), &signer, flags == TOUCH);
        served.join().unwrap();
    }
}

#[test]
fn an_agent_that_holds_it_signs_for_each_name_of_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let token = SoftToken::new();
    let file = token.write_file(dir.path(), TOUCH);
    let by_fingerprint = format!("agent:{}", token.public().fingerprint());
    let public = dir.path().join("id_ed25519_sk.pub");
    let specs = [file.to_str().unwrap(), public.to_str().unwrap(), &by_fingerprint, "agent:anna@desk"];
    let (helper, served) = token.plug_in(dir.path(), specs.len());
    let agent = ssh_agent(dir.path(), &helper, &file);
    for spec in specs {
        let signer = Signer::open_with(spec, &agent.surroundings()).unwrap();
        assert!(signer.held_by().starts_with("the agent at"), "{}", signer.held_by());
        assert_signs_once(dir.path(), &signer, true);
    }
    served.join().unwrap();
}

#[test]
fn its_file_signs_although_the_agent_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let token = SoftToken::new();
    let file = token.write_file(dir.path(), TOUCH);
    let agent = ssh_agent(dir.path(), Path::new("/bin/false"), &file);
    let refused = Signer::open_with("agent:anna@desk", &agent.surroundings()).unwrap();
    assert!(matches!(refused.sign(NAMESPACE, MESSAGE), Err(SignError::AgentRefused)));

    let (helper, served) = token.plug_in(dir.path(), 1);
    let ssh_keygen = ssh_keygen(dir.path(), &helper);
    let signer = open(&file, &Surroundings { ssh_keygen, ..agent.surroundings() }).unwrap();
    assert_signs_once(dir.path(), &signer, true);
    served.join().unwrap();
}

/// Without a terminal `ssh-keygen` would read the PIN from standard input, which is the document.
#[test]
fn no_question_is_put_where_nobody_can_answer() {
    for (flags, passphrase) in [(TOUCH | PIN, ""), (TOUCH, PASSPHRASE)] {
        let dir = tempfile::tempdir().unwrap();
        let token = SoftToken { flags, ..SoftToken::new() };
        let file = token.write_file(dir.path(), flags);
        let (helper, served) = token.plug_in(dir.path(), 1);
        let agent = ssh_agent(dir.path(), &helper, &file);
        if !passphrase.is_empty() {
            run_well(
                Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", passphrase, "-f"]).arg(&file),
            );
        }
        let ssh_keygen = Some("/nowhere/ssh-keygen".into());
        let error = open(&file, &Surroundings { ssh_keygen, ..Default::default() }).unwrap_err();
        assert!(matches!(error, SignError::PinNeeded { .. }), "{error}");
        assert!(error.to_string().contains("ssh-add"), "{error}");
        if passphrase.is_empty() {
            continue; // the agent asks for PINs itself, in a window
        }
        assert_signs_once(dir.path(), &open(&file, &agent.surroundings()).unwrap(), true);
        served.join().unwrap();
    }
}

#[test]
fn a_signature_that_fails_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let token = SoftToken::new();
    let file = token.write_file(dir.path(), TOUCH);
    let refusal = |ssh_keygen: Option<PathBuf>| {
        let signer = open(&file, &Surroundings { ssh_keygen, ..Default::default() }).unwrap();
        signer.sign(NAMESPACE, MESSAGE).unwrap_err()
    };

    // It reads what it is asked before it fails, or else ssh-keygen dies of a broken pipe without a word.
    let unplugged = script(&dir.path().join("unplugged"), "head -c 200 >/dev/null\nexit 1\n");
    let error = refusal(ssh_keygen(dir.path(), &unplugged)).to_string();
    assert!(error.contains("plug it in") && error.contains("Signing (stdin) failed"), "{error}");
    let error =
        refusal(Some(script(&dir.path().join("mute"), "echo Confirm user presence for key >&2\nexit 1\n")))
            .to_string();
    assert!(error.ends_with("(ssh-keygen says: nothing)"), "{error}");
    let error = refusal(Some("/nowhere/ssh-keygen".into())).to_string();
    assert!(error.contains("cannot run ssh-keygen") && error.contains("ssh-add"), "{error}");

    let other = SoftToken { key: SigningKey::from_bytes(&[8; 32]), ..SoftToken::new() };
    let to_sign = sshsig::to_be_signed(NAMESPACE, MESSAGE);
    for (what, key, signature) in [
        ("another's key", &other, other.sign(&to_sign)),
        ("another's signature", &token, other.sign(&to_sign)),
        ("another document", &token, token.sign(&sshsig::to_be_signed(NAMESPACE, b"{}"))),
        ("another namespace", &token, token.sign(&sshsig::to_be_signed("git", MESSAGE))),
    ] {
        let armored = sshsig::armor(&key.public().blob(), NAMESPACE, &signature);
        let lies = script(&dir.path().join("lies"), &format!("cat >/dev/null\ncat <<END\n{armored}END\n"));
        let error = refusal(Some(lies));
        assert!(matches!(error, SignError::WrongSignature { .. }), "{what}: {error}");
        assert!(error.to_string().starts_with("the security key of"), "{what}: {error}");
    }
}

#[test]
fn a_key_of_a_web_site_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        SoftToken { application: "https://example.org", ..SoftToken::new() }.write_file(dir.path(), TOUCH);
    for path in [file.clone(), file.with_extension("pub")] {
        let error = open(&path, &Surroundings::default()).unwrap_err();
        assert!(matches!(error, SignError::Unfit { source: SshsigError::Application(_), .. }), "{error}");
    }
}
