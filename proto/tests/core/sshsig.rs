//! SSHSIG: what we make and read is what OpenSSH makes and reads, and each forgery has an answer of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256, Sha512};
use tagout_proto::limits::{APPLICATION_MAX_BYTES, SIGNATURE_MAX_BYTES};
use tagout_proto::sshsig::{
    self, NAMESPACE, Proven, PublicKey, SshSignature, SshsigError, sk_ed25519_signature_blob,
    sk_to_be_signed, to_be_signed,
};

use crate::support::{ALICE, BOB, public_key, sign, signing_key};
use crate::token::{PIN, TOUCHED, Token};

const MESSAGE: &[u8] = b"{\"tagout\":1}\n";

/// A folder of this test's own, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn keygen(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("ssh-keygen");
        command
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .env_remove("SSH_AUTH_SOCK")
            .output()
            .unwrap()
    }

    /// Whether `ssh-keygen -Y verify` takes `armored` for a signature of MESSAGE by `key`.
    fn openssh_accepts(&self, key: &PublicKey, armored: &str) -> bool {
        let write = |name: &str, text: &[u8]| std::fs::write(self.0.join(name), text).unwrap();
        write("allowed", format!("someone {}\n", key.to_openssh()).as_bytes());
        write("sig", armored.as_bytes());
        write("message", MESSAGE);
        let arguments = ["-Y", "verify", "-f", "allowed", "-I", "someone", "-n", NAMESPACE, "-s", "sig"];
        let message = std::fs::File::open(self.0.join("message")).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(arguments).current_dir(&self.0).stdin(message).output().unwrap().status.success()
    }

    /// The fingerprint by which `ssh-keygen -l` shows a public key line.
    fn listed(&self, line: &str) -> String {
        std::fs::write(self.0.join("listed.pub"), format!("{line}\n")).unwrap();
        let listed = self.keygen(&["-l", "-f", "listed.pub"]);
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).unwrap().split(' ').nth(1).unwrap().into()
    }

    /// Makes a key of `kind`, signs MESSAGE with it, and gives the public key's line and the signature.
    fn signed_by_openssh(&self, kind: &[&str], more: &[&str]) -> (String, String) {
        let name = kind.join("-");
        let made = self.keygen(&[&["-q", "-N", "", "-C", "someone@host", "-f", &name, "-t"], kind].concat());
        assert!(made.status.success(), "{made:?}");
        std::fs::write(self.0.join("message"), MESSAGE).unwrap();
        let _ = std::fs::remove_file(self.0.join("message.sig"));
        let signed =
            self.keygen(&[&["-Y", "sign", "-n", NAMESPACE, "-f", &name], more, &["message"]].concat());
        assert!(signed.status.success(), "{signed:?}");
        let read = |file: String| std::fs::read_to_string(self.0.join(file)).unwrap();
        (read(format!("{name}.pub")), read("message.sig".into()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn proven(armored: &str, message: &[u8]) -> Result<Proven, SshsigError> {
    SshSignature::parse(armored)?.verify(message)
}

fn verify(armored: &str, message: &[u8]) -> Result<PublicKey, SshsigError> {
    Ok(proven(armored, message)?.key)
}

#[test]
fn accepts_what_ssh_keygen_signs_with_either_hash() {
    let folder = Folder::new("accepts");
    for more in [&[][..], &["-O", "hashalg=sha256"], &["-O", "hashalg=sha512"]] {
        let _ = std::fs::remove_file(folder.0.join("ed25519"));
        let (public, armored) = folder.signed_by_openssh(&["ed25519"], more);
        let key = PublicKey::parse_openssh(&public).unwrap();
        let plain = Proven { key: key.clone(), presence: false, verification: false };
        assert_eq!(proven(&armored, MESSAGE), Ok(plain));
        assert_eq!(
            verify(&armored.replace('\n', "\r\n"), MESSAGE).as_ref(),
            Ok(&key),
            "sent by a Windows tool"
        );
        assert_eq!(verify(armored.trim_end(), MESSAGE).as_ref(), Ok(&key));
        assert_eq!(verify(&armored, MESSAGE.trim_ascii_end()), Err(SshsigError::Mismatch), "curl -d");
        assert_eq!(folder.listed(&public), key.fingerprint());
        assert_eq!(public.rsplit_once(' ').unwrap().0, key.to_openssh());
    }
}

#[test]
fn refuses_the_other_keys_of_openssh() {
    let folder = Folder::new("refuses");
    for (kind, error) in [
        (&["ecdsa"][..], SshsigError::Algorithm),
        (&["rsa", "-b", "2048"], SshsigError::Algorithm),
        (&["rsa", "-b", "3072"], SshsigError::TooLarge),
    ] {
        let (public, armored) = folder.signed_by_openssh(kind, &[]);
        assert_eq!(PublicKey::parse_openssh(&public), Err(SshsigError::Algorithm), "{kind:?}");
        assert_eq!(verify(&armored, MESSAGE), Err(error), "{kind:?}");
    }
}

#[test]
fn ssh_keygen_verifies_what_we_armor() {
    let folder = Folder::new("verifies");
    let armored = sign(ALICE, std::str::from_utf8(MESSAGE).unwrap());
    assert!(folder.openssh_accepts(&public_key(ALICE), &armored));
    assert!(!folder.openssh_accepts(&public_key(BOB), &armored));
    assert!(!folder.openssh_accepts(&public_key(ALICE), &sign(ALICE, "{\"tagout\":1}")));
}

/// OpenSSH accepts each of these; only the flags byte tells that nobody touched the token.
#[test]
fn s5_a_token_proves_presence_only_if_it_says_so() {
    let folder = Folder::new("tokens");
    for application in ["ssh:", "ssh:tagout prod"] {
        // 0x08 and 0x10 tell of a synced passkey; 0x02 and 0x20 have no meaning yet.
        for flags in [0, TOUCHED, PIN, TOUCHED | PIN, 0x02, 0x18, 0x3f] {
            let token = Token { application, flags, counter: 0xfedc_ba98, ..Token::of(ALICE) };
            let (key, armored) = (token.public_key(), token.sign(MESSAGE));
            assert!(folder.openssh_accepts(&key, &armored), "{flags:#04x}");
            let presence = flags & TOUCHED != 0;
            let verification = flags & PIN != 0;
            assert_eq!(proven(&armored, MESSAGE), Ok(Proven { key, presence, verification }), "{flags:#04x}");
        }
    }
    let token = Token::of(ALICE);
    assert!(!folder.openssh_accepts(&token.public_key(), &Token::of(BOB).sign(MESSAGE)));
    assert!(
        !folder.openssh_accepts(&public_key(ALICE), &token.sign(MESSAGE)),
        "the same key, but not in a token"
    );
}

#[test]
fn a_tokens_key_has_the_line_and_fingerprint_of_openssh() {
    let folder = Folder::new("lines");
    for application in ["ssh:", "ssh:tagout"] {
        let key = Token { application, ..Token::of(ALICE) }.public_key();
        let line = key.to_openssh();
        assert!(line.starts_with("sk-ssh-ed25519@openssh.com AAAAGnNr"), "{line}");
        assert_eq!(PublicKey::parse_openssh(&format!("{line} alice@host\n")).as_ref(), Ok(&key));
        assert_eq!(folder.listed(&line), key.fingerprint());
        assert_eq!(key.raw(), &signing_key(ALICE).verifying_key().to_bytes());
        assert_ne!(key.fingerprint(), public_key(ALICE).fingerprint());
    }
}

#[test]
fn what_a_token_signs_and_returns_is_what_we_write() {
    let token = Token { flags: TOUCHED | PIN, counter: 258, ..Token::of(ALICE) };
    let signed = to_be_signed(NAMESPACE, MESSAGE);
    let by_token = sk_to_be_signed(token.application, token.flags, token.counter, &signed);
    let signature = token.key.sign(&by_token).to_bytes();
    let blob = sk_ed25519_signature_blob(&signature, token.flags, token.counter);
    assert_eq!(blob, token.sign_bytes(&signed));
    let key = token.public_key();
    let signature = SshSignature::parse(&sshsig::armor(&key.blob(), NAMESPACE, &blob)).unwrap();
    let whole = Proven { key, presence: true, verification: true };
    assert_eq!(signature.verify(MESSAGE).as_ref(), Ok(&whole));
    assert_eq!(signature.verify_for(NAMESPACE, MESSAGE).as_ref(), Ok(&whole));
    let (found, wanted) = (NAMESPACE.into(), "git".into());
    assert_eq!(signature.verify_for("git", MESSAGE), Err(SshsigError::Namespace { found, wanted }));
}

/// A signature in parts, each of which a forger may choose.
#[derive(Clone)]
struct Parts {
    magic: &'static [u8],
    version: u32,
    key: Vec<u8>,
    namespace: &'static [u8],
    reserved: &'static [u8],
    hash: &'static [u8],
    signature: Vec<u8>,
    trailing: &'static [u8],
}

impl Parts {
    fn good() -> Self {
        Self::signed(NAMESPACE.as_bytes(), b"", b"sha512")
    }

    /// Alice's true signature over these fields.
    fn signed(namespace: &'static [u8], reserved: &'static [u8], hash: &'static [u8]) -> Self {
        let digest = match hash {
            b"sha256" => Sha256::digest(MESSAGE).to_vec(),
            _ => Sha512::digest(MESSAGE).to_vec(),
        };
        let preimage =
            [b"SSHSIG", &*string(namespace), &*string(reserved), &*string(hash), &*string(&digest)].concat();
        let signature = signing_key(ALICE).sign(&preimage).to_bytes();
        let signature = [string(b"ssh-ed25519"), string(&signature)].concat();
        let key = public_key(ALICE).blob();
        Self { magic: b"SSHSIG", version: 1, key, namespace, reserved, hash, signature, trailing: b"" }
    }

    fn blob(&self) -> Vec<u8> {
        let mut blob = self.magic.to_vec();
        blob.extend(self.version.to_be_bytes());
        for part in [&self.key[..], self.namespace, self.reserved, self.hash, &self.signature] {
            blob.extend(string(part));
        }
        blob.extend(self.trailing);
        blob
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn armored(blob: &[u8]) -> String {
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", BASE64.encode(blob))
}

fn key_blob(algorithm: &[u8], raw: &[u8]) -> Vec<u8> {
    [string(algorithm), string(raw)].concat()
}

#[test]
fn s5_each_forgery_has_its_own_refusal() {
    use SshsigError::*;
    let good = Parts::good();
    assert_eq!(verify(&armored(&good.blob()), MESSAGE), Ok(public_key(ALICE)));
    assert_eq!(
        verify(&armored(&Parts::signed(NAMESPACE.as_bytes(), b"", b"sha256").blob()), MESSAGE),
        Ok(public_key(ALICE)),
        "sha256 is ssh-keygen's other hash"
    );
    let raw = signing_key(ALICE).verifying_key().to_bytes();
    let good_signature = good.signature[good.signature.len() - 64..].to_vec();
    let ed25519 = |signature: &[u8]| key_blob(b"ssh-ed25519", signature);
    // S + L is the same scalar to a lax verifier: the same signature in a second spelling.
    let order = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let order = data_encoding::HEXLOWER.decode(order.as_bytes()).unwrap();
    let mut malleable = good_signature.clone();
    let mut carry = 0u16;
    for (byte, add) in malleable[32..].iter_mut().zip(&order) {
        carry += u16::from(*byte) + u16::from(*add);
        *byte = carry as u8;
        carry >>= 8;
    }
    let mut small_order = [0; 32];
    small_order[0] = 1;
    // y = 2 is on no point of the curve.
    let mut no_point = [0; 32];
    no_point[0] = 2;
    let flipped = |at: usize| {
        let mut signature = good_signature.clone();
        signature[at] ^= 1;
        ed25519(&signature)
    };
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = good.clone();
        change(&mut parts);
        parts
    };
    let namespace = |found: &str| Namespace { found: found.into(), wanted: NAMESPACE.into() };
    for (what, forged, error) in [
        ("another namespace", Parts::signed(b"git", b"", b"sha512"), namespace("git")),
        ("a drill's", Parts::signed(b"tagout-drill", b"", b"sha512"), namespace("tagout-drill")),
        (
            "a namespace that only looks like ours",
            Parts::signed(b"tagout-command\0", b"", b"sha512"),
            namespace("tagout-command\0"),
        ),
        (
            "our namespace over a signature for another",
            with(&|p| p.signature = Parts::signed(b"git", b"", b"sha512").signature),
            Mismatch,
        ),
        ("sha256 named, sha512 signed", with(&|p| p.hash = b"sha256"), Mismatch),
        (
            "a hash that nobody knows",
            Parts::signed(NAMESPACE.as_bytes(), b"", b"md5"),
            Malformed("its hash is neither sha256 nor sha512"),
        ),
        (
            "a signed reserved field",
            Parts::signed(NAMESPACE.as_bytes(), b"x", b"sha512"),
            Malformed("its reserved field is not empty"),
        ),
        ("another magic", with(&|p| p.magic = b"SSHSIX"), Malformed("it does not begin with SSHSIG")),
        ("version 0", with(&|p| p.version = 0), Malformed("its version is not 1")),
        ("version 2", with(&|p| p.version = 2), Malformed("its version is not 1")),
        (
            "bytes after the end",
            with(&|p| p.trailing = b"\0"),
            Malformed("bytes are left over after its end"),
        ),
        ("bytes after the key", with(&|p| p.key.push(0)), Malformed("bytes are left over after its end")),
        (
            "bytes after the inner signature",
            with(&|p| p.signature.push(0)),
            Malformed("bytes are left over after its end"),
        ),
        ("an rsa key", with(&|p| p.key = key_blob(b"ssh-rsa", &raw)), Algorithm),
        ("an ecdsa key", with(&|p| p.key = key_blob(b"ecdsa-sha2-nistp256", &raw)), Algorithm),
        (
            "a key of a token without its application",
            with(&|p| p.key = key_blob(b"sk-ssh-ed25519@openssh.com", &raw)),
            Malformed("it ends too early"),
        ),
        ("a certificate", with(&|p| p.key = key_blob(b"ssh-ed25519-cert-v01@openssh.com", &raw)), Algorithm),
        (
            "a signature that names another algorithm",
            with(&|p| p.signature = key_blob(b"ssh-rsa", &good_signature)),
            AlgorithmOfKey { key: "ssh-ed25519", found: "ssh-rsa".into() },
        ),
        (
            "a signature that names the algorithm of tokens",
            with(&|p| p.signature = key_blob(b"sk-ssh-ed25519@openssh.com", &good_signature)),
            AlgorithmOfKey { key: "ssh-ed25519", found: "sk-ssh-ed25519@openssh.com".into() },
        ),
        ("a short key", with(&|p| p.key = ed25519(&raw[..31])), Malformed("an Ed25519 key has 32 bytes")),
        (
            "a long key",
            with(&|p| p.key = ed25519(&[&raw[..], &[0]].concat())),
            Malformed("an Ed25519 key has 32 bytes"),
        ),
        (
            "a key that is no point",
            with(&|p| p.key = ed25519(&no_point)),
            Malformed("the key is no curve point"),
        ),
        ("a key of small order", with(&|p| p.key = ed25519(&small_order)), WeakKey),
        ("the key of zeros, of order 4", with(&|p| p.key = ed25519(&[0; 32])), WeakKey),
        (
            "a short signature",
            with(&|p| p.signature = ed25519(&good_signature[..63])),
            Malformed("an Ed25519 signature has 64 bytes"),
        ),
        ("another's key", with(&|p| p.key = public_key(BOB).blob()), Mismatch),
        ("a flipped bit of R", with(&|p| p.signature = flipped(0)), Mismatch),
        ("a flipped bit of S", with(&|p| p.signature = flipped(40)), Mismatch),
        ("a signature that is not canonical", with(&|p| p.signature = ed25519(&malleable)), Mismatch),
        ("zeros", with(&|p| p.signature = ed25519(&[0; 64])), Mismatch),
    ] {
        assert_eq!(verify(&armored(&forged.blob()), MESSAGE), Err(error), "{what}");
    }
    for message in [&b""[..], b"{\"tagout\":1}", b"{\"tagout\":1}\n\n", b"{\"tagout\":2}\n"] {
        assert_eq!(verify(&armored(&good.blob()), message), Err(Mismatch), "{message:?}");
    }
}

#[test]
fn s5_each_forgery_with_a_token_has_its_own_refusal() {
    use SshsigError::*;
    const SK: &str = "sk-ssh-ed25519@openssh.com";
    let token = Token::of(ALICE);
    let signed = to_be_signed(NAMESPACE, MESSAGE);
    let good =
        Parts { key: token.public_key().blob(), signature: token.sign_bytes(&signed), ..Parts::good() };
    let check = |parts: &Parts| proven(&armored(&parts.blob()), MESSAGE);
    assert_eq!(check(&good), Ok(Proven { key: token.public_key(), presence: true, verification: false }));

    let raw = *token.public_key().raw();
    let sk_key =
        |raw: &[u8], application: &[u8]| [string(SK.as_bytes()), string(raw), string(application)].concat();
    let plain_signature = Parts::good().signature;
    let (mut small_order, mut no_point) = ([0; 32], [0; 32]);
    (small_order[0], no_point[0]) = (1, 2);
    // The last five bytes are flags and counter.
    let changed = |from_end: usize, xor: u8| {
        let mut signature = good.signature.clone();
        let at = signature.len() - from_end;
        signature[at] ^= xor;
        signature
    };
    let cut = |bytes: usize| good.signature[..good.signature.len() - bytes].to_vec();
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = good.clone();
        change(&mut parts);
        parts
    };
    let long = format!("ssh:{}", "x".repeat(APPLICATION_MAX_BYTES - 3));
    let of_key = |key, found: &str| AlgorithmOfKey { key, found: found.into() };
    for (what, forged, error) in [
        ("another application", with(&|p| p.key = sk_key(&raw, b"ssh:other")), Mismatch),
        ("another counter", with(&|p| p.signature = changed(1, 1)), Mismatch),
        ("a touch made up", with(&|p| p.signature = changed(5, TOUCHED)), Mismatch),
        ("a PIN made up", with(&|p| p.signature = changed(5, PIN)), Mismatch),
        ("a flag without meaning made up", with(&|p| p.signature = changed(5, 0x20)), Mismatch),
        ("credential data claimed", with(&|p| p.signature = changed(5, 0x40)), MoreIsSigned(0x41)),
        ("extensions claimed", with(&|p| p.signature = changed(5, 0x80)), MoreIsSigned(0x81)),
        (
            "extensions claimed, and signed so",
            with(&|p| p.signature = Token { flags: 0x81, ..token.clone() }.sign_bytes(&signed)),
            MoreIsSigned(0x81),
        ),
        ("a flipped bit of S", with(&|p| p.signature = changed(5 + 10, 1)), Mismatch),
        ("another's token", with(&|p| p.signature = Token::of(BOB).sign_bytes(&signed)), Mismatch),
        ("another's key", with(&|p| p.key = Token::of(BOB).public_key().blob()), Mismatch),
        (
            "a signature for another document",
            with(&|p| p.signature = token.sign_bytes(&to_be_signed(NAMESPACE, b"{}"))),
            Mismatch,
        ),
        (
            "what a plain key would sign, in a token's clothes",
            with(&|p| {
                p.signature =
                    [string(SK.as_bytes()), plain_signature[4 + 11..].to_vec(), vec![1, 0, 0, 0, 7]].concat()
            }),
            Mismatch,
        ),
        (
            "a plain signature under a token's key",
            with(&|p| p.signature = plain_signature.clone()),
            of_key(SK, "ssh-ed25519"),
        ),
        (
            "a token's signature under a plain key",
            with(&|p| p.key = public_key(ALICE).blob()),
            of_key("ssh-ed25519", SK),
        ),
        (
            "a token's signature that says it is plain",
            with(&|p| {
                p.signature = [string(b"ssh-ed25519"), good.signature[4 + SK.len()..].to_vec()].concat()
            }),
            of_key(SK, "ssh-ed25519"),
        ),
        (
            "the ECDSA of tokens",
            with(&|p| p.signature = key_blob(b"sk-ecdsa-sha2-nistp256@openssh.com", &[0; 64])),
            of_key(SK, "sk-ecdsa-sha2-nistp256@openssh.com"),
        ),
        (
            "a token's ECDSA key",
            with(&|p| p.key = key_blob(b"sk-ecdsa-sha2-nistp256@openssh.com", &raw)),
            Algorithm,
        ),
        (
            "a certificate of a token",
            with(&|p| p.key = key_blob(b"sk-ssh-ed25519-cert-v01@openssh.com", &raw)),
            Algorithm,
        ),
        ("no flags", with(&|p| p.signature = cut(5)), Malformed("it ends too early")),
        ("a counter of three bytes", with(&|p| p.signature = cut(1)), Malformed("it ends too early")),
        (
            "bytes after the counter",
            with(&|p| p.signature.push(0)),
            Malformed("bytes are left over after its end"),
        ),
        (
            "bytes after the application",
            with(&|p| p.key.push(0)),
            Malformed("bytes are left over after its end"),
        ),
        (
            "bytes after the end",
            with(&|p| p.trailing = b"\0"),
            Malformed("bytes are left over after its end"),
        ),
        (
            "a key of a web site",
            with(&|p| p.key = sk_key(&raw, b"https://example.org")),
            Application("https://example.org".into()),
        ),
        ("no application", with(&|p| p.key = sk_key(&raw, b"")), Application("".into())),
        ("ssh without its colon", with(&|p| p.key = sk_key(&raw, b"ssh")), Application("ssh".into())),
        ("capitals", with(&|p| p.key = sk_key(&raw, b"SSH:")), Application("SSH:".into())),
        ("a NUL", with(&|p| p.key = sk_key(&raw, b"ssh:\0")), Application("ssh:\0".into())),
        ("a newline", with(&|p| p.key = sk_key(&raw, b"ssh:\n")), Application("ssh:\n".into())),
        ("an umlaut", with(&|p| p.key = sk_key(&raw, "ssh:ü".as_bytes())), Application("ssh:ü".into())),
        (
            "an application that is too long",
            with(&|p| p.key = sk_key(&raw, long.as_bytes())),
            Application(long[..64].into()),
        ),
        ("a key of small order", with(&|p| p.key = sk_key(&small_order, b"ssh:")), WeakKey),
        (
            "a key that is no point",
            with(&|p| p.key = sk_key(&no_point, b"ssh:")),
            Malformed("the key is no curve point"),
        ),
        (
            "a short key",
            with(&|p| p.key = sk_key(&raw[..31], b"ssh:")),
            Malformed("an Ed25519 key has 32 bytes"),
        ),
    ] {
        assert_eq!(check(&forged), Err(error), "{what}");
    }
    let longest = PublicKey::SkEd25519 { key: raw, application: long[..APPLICATION_MAX_BYTES].into() };
    assert_eq!(PublicKey::from_blob(&longest.blob()).as_ref(), Ok(&longest));
    // The longest signature that a token can make has room.
    let armored = sshsig::armor(&longest.blob(), NAMESPACE, &good.signature);
    assert!(armored.len() < SIGNATURE_MAX_BYTES / 2 && SshSignature::parse(&armored).is_ok());
}

#[test]
fn the_armor_has_the_form_that_ssh_keygen_reads() {
    let blob = Parts::good().blob();
    let good = armored(&blob);
    let body = BASE64.encode(&blob);
    for bad in [
        String::new(),
        body.clone(),
        good.replace("SSH SIGNATURE", "PGP SIGNATURE"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}{good}"),
        format!("-----BEGIN SSH SIGNATURE-----{body}\n-----END SSH SIGNATURE-----\n"),
        format!("-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n"),
        "-----BEGIN SSH SIGNATURE----------END SSH SIGNATURE-----".into(),
        good.replace(&body[10..12], " "),
        good.replace(&body[10..12], "--"),
    ] {
        assert_eq!(verify(&bad, MESSAGE), Err(SshsigError::Armor), "{bad}");
    }
    let padding = "\n".repeat(SIGNATURE_MAX_BYTES);
    assert_eq!(verify(&format!("{good}{padding}"), MESSAGE), Err(SshsigError::TooLarge));
}

#[test]
fn a_signature_cut_short_at_any_length_is_refused() {
    let token = Token::of(ALICE);
    let (key, signature) = (token.public_key().blob(), token.sign_bytes(&to_be_signed(NAMESPACE, MESSAGE)));
    let by_token = Parts { key, signature, ..Parts::good() };
    let blob = Parts::good().blob();
    for blob in [&blob, &by_token.blob()] {
        for len in 0..blob.len() {
            let error = verify(&armored(&blob[..len]), MESSAGE).unwrap_err();
            let expected = if len < 6 { "it does not begin with SSHSIG" } else { "it ends too early" };
            assert_eq!(error, SshsigError::Malformed(expected), "{len} bytes");
        }
    }
    let armored = armored(&blob);
    for len in 0..armored.len() - 1 {
        assert_eq!(verify(&armored[..len], MESSAGE), Err(SshsigError::Armor), "{len} characters");
    }
}

#[test]
fn public_key_lines() {
    let line = public_key(ALICE).to_openssh();
    assert_eq!(PublicKey::parse_openssh(&format!("  {line} alice@host more\n")), Ok(public_key(ALICE)));
    let (algorithm, encoded) = line.split_once(' ').unwrap();
    let of_token = Token::of(ALICE).public_key().to_openssh();
    let (token_algorithm, token_encoded) = of_token.split_once(' ').unwrap();
    let crossed = [format!("{token_algorithm} {encoded}"), format!("{algorithm} {token_encoded}")];
    let other_kind = SshsigError::Malformed("the public key line names another kind than its key");
    let with_options = format!("namespaces=\"git\" {line}");
    for (bad, error) in [
        ("", SshsigError::Algorithm),
        ("ssh-rsa AAAA", SshsigError::Algorithm),
        (&*with_options, SshsigError::Algorithm),
        ("ssh-ed25519", SshsigError::Malformed("the public key line has no key")),
        ("ssh-ed25519 !", SshsigError::Malformed("the key is not base64")),
        ("ssh-ed25519 AAAA", SshsigError::Malformed("it ends too early")),
        (&line[..line.len() - 4], SshsigError::Malformed("it ends too early")),
        (&of_token[..of_token.len() - 4], SshsigError::Malformed("it ends too early")),
        ("sk-ecdsa-sha2-nistp256@openssh.com AAAA", SshsigError::Algorithm),
        (&crossed[0], other_kind.clone()),
        (&crossed[1], other_kind.clone()),
    ] {
        assert_eq!(PublicKey::parse_openssh(bad), Err(error), "{bad}");
    }
}
