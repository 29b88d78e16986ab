use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use data_encoding::BASE64;

use super::wire::put_string;
use super::*;

const NAMESPACE: &str = "tagout-command";
const PASSPHRASE: &str = "correct horse";

fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().expect("OpenSSH is installed");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn run_well(command: &mut Command) -> String {
    let (good, said) = run(command);
    assert!(good, "{command:?}: {said}");
    said
}

fn keygen(path: &Path, kind: &[&str], passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    run_well(command.args(["-q", "-C", "anna@desk", "-N", passphrase, "-t"]).args(kind).arg("-f").arg(path));
}

/// The judge of every signature here is the real `ssh-keygen -Y verify`.
fn openssh_accepts(dir: &Path, public: &PublicKey, namespace: &str, message: &[u8], signature: &str) -> bool {
    let allowed = dir.join("allowed_signers");
    let signature_file = dir.join("document.sig");
    let document = dir.join("document");
    fs::write(&allowed, format!("anna {}\n", public.line())).unwrap();
    fs::write(&signature_file, signature).unwrap();
    fs::write(&document, message).unwrap();
    let output = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "anna", "-n", namespace, "-f"])
        .arg(&allowed)
        .arg("-s")
        .arg(&signature_file)
        .stdin(fs::File::open(&document).unwrap())
        .output()
        .expect("OpenSSH is installed");
    output.status.success()
}

fn assert_signs(dir: &Path, signer: &Signer) {
    for message in [&b"{\"tagout\":1}\n"[..], b"", &[0xff; 40_000]] {
        let signature = signer.sign(NAMESPACE, message).unwrap();
        assert!(openssh_accepts(dir, signer.public_key(), NAMESPACE, message, &signature));
        assert!(!openssh_accepts(dir, signer.public_key(), "file", message, &signature));
        assert!(!openssh_accepts(dir, signer.public_key(), NAMESPACE, &[message, b"x"].concat(), &signature));
    }
}

fn open(path: &Path, surroundings: &Surroundings) -> Result<Signer, SignError> {
    Signer::open_with(path.to_str().unwrap(), surroundings)
}

fn with_passphrase(passphrase: &str) -> Surroundings {
    Surroundings { passphrase: Some(Zeroizing::new(passphrase.to_owned())), ..Default::default() }
}

/// A real ssh-agent in the foreground, ended by its process id.
struct RealAgent {
    process: Child,
    socket: PathBuf,
}

impl RealAgent {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, &mut Command::new("ssh-agent"))
    }

    fn start_with(dir: &Path, command: &mut Command) -> Self {
        let socket = dir.join("agent.sock");
        let mut process = command
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("OpenSSH is installed");
        // It says where it listens once it does.
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("SSH_AUTH_SOCK="), "{line}");
        Self { process, socket }
    }

    fn add(&self, key: &Path) {
        run_well(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket));
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings { agent_socket: Some(self.socket.clone()), ..Default::default() }
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn openssh_accepts_signatures_of_a_key_file() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id");
    keygen(&key, &["ed25519"], "");
    let signer = open(&key, &Surroundings::default()).unwrap();
    assert_signs(dir.path(), &signer);
    assert_eq!(signer.public_key().comment(), "anna@desk");
    assert_eq!(signer.public_key().line(), fs::read_to_string(dir.path().join("id.pub")).unwrap().trim());
    assert!(run_well(Command::new("ssh-keygen").arg("-lf").arg(&key)).contains(&signer.fingerprint()));
    assert!(matches!(signer.sign("", b"x"), Err(SignError::EmptyNamespace)));
}

#[test]
fn our_signature_is_the_same_as_that_of_ssh_keygen() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id");
    let document = dir.path().join("stop.json");
    keygen(&key, &["ed25519"], "");
    fs::write(&document, b"{\"tagout\":1}").unwrap();
    run_well(Command::new("ssh-keygen").args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(&key).arg(&document));
    let theirs = fs::read_to_string(dir.path().join("stop.json.sig")).unwrap();
    let ours = open(&key, &Surroundings::default()).unwrap().sign(NAMESPACE, b"{\"tagout\":1}").unwrap();
    assert_eq!(ours, theirs);
}

#[test]
fn openssh_accepts_signatures_of_an_encrypted_key_file() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id");
    keygen(&key, &["ed25519"], PASSPHRASE);
    assert_signs(dir.path(), &open(&key, &with_passphrase(PASSPHRASE)).unwrap());

    let wrong = open(&key, &with_passphrase("wrong")).unwrap_err();
    assert!(matches!(wrong, SignError::WrongPassphrase { .. }), "{wrong}");
    let none = open(&key, &Surroundings::default()).unwrap_err().to_string();
    assert!(none.contains("TAGOUT_KEY_PASSPHRASE") && none.contains("ssh-add"), "{none}");
}

#[test]
fn openssh_accepts_signatures_of_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id");
    keygen(&key, &["ed25519"], "");
    let agent = RealAgent::start(dir.path());
    agent.add(&key);
    let public = dir.path().join("id.pub");
    let fingerprint = open(&key, &Surroundings::default()).unwrap().fingerprint();

    let by_fingerprint = format!("agent:{fingerprint}");
    for spec in [public.to_str().unwrap(), &by_fingerprint, "agent:anna@desk"] {
        let signer = Signer::open_with(spec, &agent.surroundings()).unwrap();
        assert!(signer.held_by().starts_with("the agent at"), "{}", signer.held_by());
        assert_eq!(signer.fingerprint(), fingerprint);
        assert_signs(dir.path(), &signer);
    }

    // The private file may be on another machine: its public half says which key the agent shall use.
    fs::remove_file(&key).unwrap();
    assert!(open(&key, &agent.surroundings()).unwrap().held_by().starts_with("the agent at"));
}

#[test]
fn the_agent_is_preferred_only_to_a_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, locked) = (dir.path().join("plain"), dir.path().join("locked"));
    keygen(&plain, &["ed25519"], "");
    keygen(&locked, &["ed25519"], "");
    let agent = RealAgent::start(dir.path());
    agent.add(&plain);
    agent.add(&locked);
    run_well(Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", PASSPHRASE, "-f"]).arg(&locked));

    assert!(open(&plain, &agent.surroundings()).unwrap().held_by().starts_with("the key file"));
    let signer = open(&locked, &agent.surroundings()).unwrap();
    assert!(signer.held_by().starts_with("the agent at"));
    assert_signs(dir.path(), &signer);

    let ambiguous = Signer::open_with("agent:anna@desk", &agent.surroundings()).unwrap_err().to_string();
    assert!(ambiguous.contains("several keys") && ambiguous.contains("agent:SHA256:"), "{ambiguous}");
}

#[test]
fn an_agent_that_cannot_help_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (held, other) = (dir.path().join("held"), dir.path().join("other"));
    keygen(&held, &["ed25519"], "");
    keygen(&other, &["ed25519"], "");
    let public = dir.path().join("other.pub");

    let error = open(&public, &Surroundings::default()).unwrap_err().to_string();
    assert!(error.contains("SSH_AUTH_SOCK is not set"), "{error}");
    let gone = Surroundings { agent_socket: Some(dir.path().join("none")), ..Default::default() };
    let error = open(&public, &gone).unwrap_err().to_string();
    assert!(error.contains("cannot reach the ssh-agent"), "{error}");

    let agent = RealAgent::start(dir.path());
    let error = open(&public, &agent.surroundings()).unwrap_err().to_string();
    assert!(error.contains("it holds no key"), "{error}");
    agent.add(&held);
    let error = open(&public, &agent.surroundings()).unwrap_err().to_string();
    assert!(error.contains("it holds SHA256:") && error.contains("(anna@desk)"), "{error}");

    let signer = Signer::open_with("agent:anna@desk", &agent.surroundings()).unwrap();
    run_well(Command::new("ssh-add").arg("-qD").env("SSH_AUTH_SOCK", &agent.socket));
    assert!(matches!(signer.sign(NAMESPACE, b"x"), Err(SignError::AgentRefused)));
}

#[test]
fn other_kinds_of_key_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (name, kind, found) in [
        ("rsa", &["rsa", "-b", "2048"][..], "ssh-rsa"),
        ("ecdsa", &["ecdsa"], "ecdsa-sha2-nistp256"),
        ("rsa-pem", &["rsa", "-b", "2048", "-m", "PEM"], "RSA"),
        ("ecdsa-pem", &["ecdsa", "-m", "PEM"], "ECDSA"),
        ("pkcs8", &["ecdsa", "-m", "PKCS8"], "PKCS#8 (not OpenSSH)"),
    ] {
        let key = dir.path().join(name);
        keygen(&key, kind, "");
        let error = open(&key, &Surroundings::default()).unwrap_err().to_string();
        let expected = format!("is a {found} key, and Tagout takes only Ed25519 keys");
        assert!(error.contains(&expected), "{name}: {error}");
    }
    let public = dir.path().join("rsa.pub");
    let error = open(&public, &Surroundings::default()).unwrap_err().to_string();
    assert!(error.contains("is a ssh-rsa key"), "{error}");
}

#[test]
fn files_that_are_no_good_key_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id");
    let refusal = |path: &Path| open(path, &Surroundings::default()).unwrap_err().to_string();

    assert!(refusal(&key).contains("there is no key at"));
    fs::write(&key, "hello\n").unwrap();
    assert!(refusal(&key).contains("is not an OpenSSH key"));
    fs::write(&key, "-----BEGIN CERTIFICATE-----\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal(&key).contains("is not an OpenSSH key"));

    fs::remove_file(&key).unwrap();
    keygen(&key, &["ed25519"], "");
    let good = fs::read_to_string(&key).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let error = refusal(&key);
        assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    for end in [40, 120, good.len() - 40, good.len() - 2] {
        fs::write(&key, &good[..end]).unwrap();
        let error = refusal(&key);
        assert!(error.contains("is damaged"), "{end}: {error}");
    }
    fs::write(&key, good.replace('\n', "\r\n")).unwrap();
    open(&key, &Surroundings::default()).expect("line ends do not matter");
}

#[test]
fn a_file_whose_halves_differ_never_signs() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let first = generate(&one, "", None).unwrap();
    let second = generate(&two, "", None).unwrap();

    let text = fs::read_to_string(&one).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut bytes = BASE64.decode(body.as_bytes()).unwrap();
    // Every copy of the public key is replaced, so that only the curve can tell.
    while let Some(at) = bytes.windows(32).position(|window| window == first.bytes()) {
        bytes[at..at + 32].copy_from_slice(&second.bytes());
    }
    let forged = format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
        BASE64.encode(&bytes)
    );
    fs::write(&one, forged).unwrap();
    let error = open(&one, &Surroundings::default()).unwrap_err().to_string();
    assert!(error.contains("its public half belongs to another key"), "{error}");
}

#[test]
fn openssh_accepts_generated_keys() {
    let dir = tempfile::tempdir().unwrap();
    for (name, passphrase) in [("plain", None), ("locked", Some(PASSPHRASE))] {
        let key = dir.path().join(name);
        let public = generate(&key, "node key of prod", passphrase).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

        let mut derive = Command::new("ssh-keygen");
        let derived = run_well(derive.args(["-y", "-P", passphrase.unwrap_or_default(), "-f"]).arg(&key));
        assert_eq!(derived.trim(), public.line());
        let listed =
            run_well(Command::new("ssh-keygen").arg("-lf").arg(dir.path().join(format!("{name}.pub"))));
        assert!(listed.contains(&public.fingerprint()) && listed.contains("node key of prod"), "{listed}");

        let surroundings = passphrase.map(with_passphrase).unwrap_or_default();
        let signer = open(&key, &surroundings).unwrap();
        assert_eq!(signer.public_key(), &public);
        assert_signs(dir.path(), &signer);
    }
    assert!(!run(Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(dir.path().join("locked"))).0);
}

#[test]
fn generate_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id");
    generate(&key, "first", None).unwrap();
    let before = fs::read(&key).unwrap();
    assert!(generate(&key, "second", None).unwrap_err().to_string().contains("is left as it is"));
    fs::remove_file(dir.path().join("id.pub")).unwrap();
    assert!(matches!(generate(&key, "second", None), Err(SignError::Exists { path }) if path == key));
    assert_eq!(fs::read(&key).unwrap(), before);

    let other = dir.path().join("other");
    fs::write(dir.path().join("other.pub"), "mine").unwrap();
    assert!(matches!(generate(&other, "", None), Err(SignError::Exists { .. })));
    assert!(!other.exists());
    assert!(matches!(generate(&other, "two\nlines", None), Err(SignError::BadComment { .. })));
}

fn strings(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        put_string(&mut out, field);
    }
    out
}

mod security_key;

/// There is no token to touch here, so the agent is ours: what a security key adds to a signature must arrive
/// as it is, and an agent that lies or stalls must be found out.
mod with_a_made_up_agent {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use super::security_key::SoftToken;
    use super::*;

    fn serve(dir: &Path, answers: Vec<Vec<u8>>) -> (Surroundings, JoinHandle<Vec<Vec<u8>>>) {
        let socket = dir.join("made-up.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let served = thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut request = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut request).unwrap();
                requests.push(request);
                // A client that has seen enough may be gone already.
                let _ = stream.write_all(&answer);
            }
            requests
        });
        (Surroundings { agent_socket: Some(socket), ..Default::default() }, served)
    }

    fn framed(kind: u8, fields: &[u8]) -> Vec<u8> {
        let mut framed = Vec::new();
        put_string(&mut framed, &[&[kind], fields].concat());
        framed
    }

    fn listing(keys: &[(&[u8], &str)]) -> Vec<u8> {
        let mut fields = (keys.len() as u32).to_be_bytes().to_vec();
        for (blob, comment) in keys {
            put_string(&mut fields, blob);
            put_string(&mut fields, comment.as_bytes());
        }
        framed(12, &fields)
    }

    fn signature(blob: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        put_string(&mut fields, blob);
        framed(14, &fields)
    }

    #[test]
    fn a_security_keys_signature_is_kept_as_it_is() {
        let message = b"{\"tagout\":1}";
        let to_sign = sshsig::to_be_signed(NAMESPACE, message);
        for (flags, presence, verification) in
            [(0, false, false), (1, true, false), (4, false, true), (5, true, true)]
        {
            let dir = tempfile::tempdir().unwrap();
            let token = SoftToken { flags, ..SoftToken::new() };
            let key = token.public().blob();
            let (surroundings, served) =
                serve(dir.path(), vec![listing(&[(&key, "token")]), signature(&token.sign(&to_sign))]);
            let signer = Signer::open_with("agent:token", &surroundings).unwrap();
            assert_eq!(signer.public_key().kind(), KeyKind::SecurityKey);
            assert_eq!(signer.public_key().key(), &token.public());
            let armored = signer.sign(NAMESPACE, message).unwrap();
            // OpenSSH takes it whoever was there; what the flags prove is for us to tell.
            assert!(openssh_accepts(dir.path(), signer.public_key(), NAMESPACE, message, &armored));
            let proven = SshSignature::parse(&armored).unwrap().verify(message).unwrap();
            assert_eq!((proven.presence, proven.verification), (presence, verification));
            let asked = [&[13][..], &strings(&[&key, &to_sign]), &[0; 4]].concat();
            assert_eq!(served.join().unwrap(), [vec![11], asked]);
        }
    }

    #[test]
    fn a_wrong_signature_is_found_before_it_is_sent() {
        let seed = SigningKey::from_bytes(&[7; 32]);
        let plain = sshsig::PublicKey::Ed25519(seed.verifying_key().to_bytes());
        let token = SoftToken::new();
        let to_sign = sshsig::to_be_signed(NAMESPACE, b"x");
        let right = seed.sign(&to_sign).to_bytes();
        let other = SigningKey::from_bytes(&[8; 32]).sign(&to_sign).to_bytes();
        let by_token = token.sign(&to_sign);
        let (touched, counter) = (by_token.len() - 5, by_token.len() - 1);
        let flipped = |at: usize| {
            let mut blob = by_token.clone();
            blob[at] ^= 1;
            blob
        };
        for (key, blob) in [
            (&plain, strings(&[b"ssh-ed25519", &other])),
            (&plain, strings(&[b"ssh-ed25519", &other[..63]])),
            (&plain, strings(&[b"ssh-rsa", &other])),
            (&plain, strings(&[b"ssh-ed25519"])),
            (&plain, vec![]),
            (&plain, [strings(&[b"ssh-ed25519", &right]), vec![0]].concat()),
            (&plain, by_token.clone()),
            (&token.public(), strings(&[b"ssh-ed25519", &right])),
            (&token.public(), flipped(touched)),
            (&token.public(), flipped(counter)),
            (&token.public(), by_token[..counter].to_vec()),
            (&token.public(), [&by_token[..], &[0]].concat()),
            (&token.public(), SoftToken { application: "ssh:other", ..SoftToken::new() }.sign(&to_sign)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (surroundings, served) =
                serve(dir.path(), vec![listing(&[(&key.blob(), "k")]), signature(&blob)]);
            let signer = Signer::open_with("agent:k", &surroundings).unwrap();
            let error = signer.sign(NAMESPACE, b"x").unwrap_err();
            assert!(matches!(error, SignError::WrongSignature { .. }), "{error}");
            assert!(error.to_string().starts_with("the agent at"), "{error}");
            served.join().unwrap();
        }
    }

    #[test]
    fn broken_listings_are_refused() {
        let cut = |mut frame: Vec<u8>| {
            frame.truncate(frame.len() - 3);
            let length = frame.len() as u32 - 4;
            frame[..4].copy_from_slice(&length.to_be_bytes());
            frame
        };
        for (listing, expected) in [
            (cut(listing(&[(b"key", "comment")])), "cut short"),
            (framed(12, &u32::MAX.to_be_bytes()), "too many keys"),
            (framed(12, &[]), "cut short"),
            (framed(5, &[]), "no list of keys"),
            (u32::MAX.to_be_bytes().to_vec(), "too long"),
            (vec![0; 2], "cannot reach"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (surroundings, served) = serve(dir.path(), vec![listing]);
            let error = Signer::open_with("agent:k", &surroundings).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            served.join().unwrap();
        }
    }
}
