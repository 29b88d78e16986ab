//! What keys sign: SSHSIG, OpenSSH public keys, signed notes with checkpoints and leases.

use data_encoding::BASE64;
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256};
use tagout_fuzz::{Answer, Target, mutate, same};
use tagout_proto::digest::Digest;
use tagout_proto::lease::Lease;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::note::VerifierKey;
use tagout_proto::sshsig::{self, NAMESPACE, PublicKey, SshSignature};

use crate::lossy;
use crate::support::*;

const MESSAGE: &str = "{\"tagout\":1}\n";

/// What stands between the markers.
fn blob_of(armored: &str) -> Vec<u8> {
    let body: String = armored.split(['\r', '\n']).filter(|line| !line.starts_with('-')).collect();
    BASE64.decode(body.as_bytes()).unwrap()
}

fn armored(blob: &[u8]) -> String {
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", BASE64.encode(blob))
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// A signature over SHA-256, which `ssh-keygen -O hashalg=sha256` makes.
fn signed_with_sha256(who: u8) -> Vec<u8> {
    let fields = [&string(NAMESPACE.as_bytes())[..], &string(b""), &string(b"sha256")].concat();
    let signed = [b"SSHSIG", &fields[..], &string(&Sha256::digest(MESSAGE))].concat();
    let signature = sshsig::ed25519_signature_blob(&signing_key(who).sign(&signed).to_bytes());
    [b"SSHSIG\0\0\0\x01", &string(&public_key(who).blob())[..], &fields, &string(&signature)].concat()
}

/// All that the keys of these tests ever signed: Ed25519 makes one signature for one message.
fn signed_blobs() -> Vec<Vec<u8>> {
    vec![blob_of(&sign(ALICE, MESSAGE)), blob_of(&sign(BOB, MESSAGE)), signed_with_sha256(ALICE)]
}

/// S5: whatever verifies is a signature that was made, for these bytes and no others.
fn check_signature(text: &str, signed: &[Vec<u8>]) -> Answer {
    let parsed = SshSignature::parse(text);
    if let Ok(signature) = &parsed {
        let key = signature.claimed_key();
        assert_eq!(PublicKey::parse_openssh(&key.to_openssh()), Ok(key));
        let verified = signature.verify(MESSAGE.as_bytes());
        Answer::of(&verified);
        if verified.is_ok() {
            assert_eq!(verified, Ok(key));
            assert!(signed.contains(&blob_of(text)), "forged: {text}");
            assert!(signature.verify(MESSAGE.trim_end().as_bytes()).is_err());
        }
    }
    Answer::of(&parsed)
}

#[test]
fn sshsig_armor() {
    let signed = signed_blobs();
    let seeds = [sign(ALICE, MESSAGE), sign(BOB, MESSAGE), sign(ALICE, MESSAGE).replace('\n', "\r\n")];
    let target = Target::new("sshsig-armor", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::lines(random, &seed).into_bytes()
    });
    target.check(|bytes| check_signature(&lossy(bytes), &signed));
}

#[test]
fn sshsig_blob() {
    let signed = signed_blobs();
    let keys = [ALICE, BOB].map(|who| public_key(who).blob());
    let target = Target::new("sshsig-blob", signed.clone()).make(|random| {
        let seed = random.pick(&signed);
        // The inner signature is the last string; its own two are changed as well.
        let signature = &seed[seed.len() - 64..];
        let inner = [b"ssh-ed25519".to_vec(), signature.to_vec()];
        let inner = if random.one_in(3) {
            mutate::strings(random, &inner)
        } else {
            inner.map(|s| string(&s)).concat()
        };
        let hash = random.pick(&[&b"sha512"[..], b"sha256"]).to_vec();
        let fields = [random.pick(&keys), NAMESPACE.as_bytes().to_vec(), vec![], hash, inner];
        [b"SSHSIG\0\0\0\x01", &mutate::strings(random, &fields)[..]].concat()
    });
    target.check(|bytes| check_signature(&armored(bytes), &signed));
}

#[test]
fn public_key_line() {
    let seeds: Vec<String> =
        [ALICE, BOB].iter().map(|who| format!("{} someone@host", public_key(*who).to_openssh())).collect();
    let target = Target::new("public-key", seeds.clone()).make(|random| {
        let blob = public_key(random.pick(&[ALICE, BOB])).blob();
        let key =
            if random.one_in(2) { blob[blob.len() - 32..].to_vec() } else { random.array::<32>().to_vec() };
        let blob = mutate::strings(random, &[b"ssh-ed25519".to_vec(), key]);
        format!("ssh-ed25519 {}", BASE64.encode(&blob)).into_bytes()
    });
    target.check(|bytes| {
        let text = lossy(bytes);
        let parsed = same(|| PublicKey::parse_openssh(&text));
        if let Ok(key) = &parsed {
            let words: Vec<&str> = text.split_ascii_whitespace().take(2).collect();
            assert_eq!(words.join(" "), key.to_openssh());
            assert_eq!(PublicKey::parse_openssh(&key.to_openssh()), Ok(*key));
        }
        Answer::of(&parsed)
    });
}

#[test]
fn verifier_key() {
    let seeds = [node_signer().verifier().to_string()];
    let target = Target::new("verifier-key", seeds).make(|random| {
        // The key id is a hash of the rest, so a changed key needs one of its own.
        let name = mutate::text(random, "demo/node-1");
        let raw = if random.one_in(2) {
            random.array()
        } else {
            signing_key(random.byte()).verifying_key().to_bytes()
        };
        match VerifierKey::new(&name, raw) {
            Ok(key) => key.to_string().into_bytes(),
            Err(error) => error.to_string().into_bytes(),
        }
    });
    target.check(|bytes| {
        let text = lossy(bytes);
        let parsed = same(|| text.parse::<VerifierKey>());
        if let Ok(key) = &parsed {
            assert_eq!(key.to_string(), text);
        }
        Answer::of(&parsed)
    });
}

fn checkpoint() -> Checkpoint {
    Checkpoint { origin: deployment(), size: 7, root: Digest([9; 32]) }
}

pub(crate) fn lease() -> Lease {
    Lease {
        deployment: deployment().parse().unwrap(),
        epoch_number: 1,
        epoch: Digest([2; 32]),
        authority_version: 1,
        authority: Digest([1; 32]),
        log_size: 12,
        log_root: Digest([3; 32]),
        time_ms: T0,
        ttl_ms: 10_000,
        lapse_grace_ms: 20_000,
        rule_version: tagout_proto::lease::RULE_VERSION,
        batch_size: 3,
        batch_root: Digest([4; 32]),
    }
}

#[test]
fn signed_note() {
    let (signer, key, origin) = (node_signer(), node_signer().verifier(), deployment());
    let stranger = tagout_proto::note::NoteSigner::new("demo/node-2", &[22; 32]).unwrap().sign("a\n");
    let checkpoint = checkpoint().sign(&signer);
    let both = format!("{checkpoint}{}", stranger.rsplit_once("\n\n").unwrap().1);
    let seeds = [checkpoint, lease().sign(&signer), both];
    let signed = seeds.clone().map(|note| note.rsplit_once("\n\n").unwrap().0.to_owned() + "\n");
    let target = Target::new("note", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::lines(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let note = lossy(bytes);
        let opened = key.open(&note);
        if let Ok(text) = opened {
            assert!(signed.iter().any(|signed| signed == text), "forged: {note:?}");
            // A statement of one kind is none of another.
            let (checkpoint, lease) = (Checkpoint::open(&note, &key, &origin), Lease::open(&note, &key));
            assert_ne!(checkpoint.is_ok(), lease.is_ok());
        }
        Answer::of(&opened)
    });
}

/// Signs whatever lines an input has, as a node with a stolen key could.
fn signed(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.ends_with('\n') && !text.contains("\n\n")).then(|| node_signer().sign(text))
}

fn text_of(note: &str) -> String {
    note.split_once("\n\n").unwrap().0.to_owned() + "\n"
}

#[test]
fn checkpoint_text() {
    let (signer, key) = (node_signer(), node_signer().verifier());
    let seed = text_of(&checkpoint().sign(&signer));
    let extended = format!("{seed}extension 1\nanother\n");
    let target = Target::new("checkpoint", [seed.clone(), extended])
        .make(|random| mutate::lines(random, &seed).into_bytes());
    target.check(|bytes| {
        let Some(note) = signed(bytes) else { return Answer::Refused };
        let opened = Checkpoint::open(&note, &key, &deployment());
        if let Ok(checkpoint) = &opened {
            // Lines after the third are extensions, which a reader leaves out; the three have one spelling.
            let lines: Vec<&str> = note.splitn(4, '\n').collect();
            let again = checkpoint.sign(&signer);
            assert_eq!(lines[..3], again.splitn(4, '\n').collect::<Vec<_>>()[..3]);
        }
        Answer::of(&opened)
    });
}

#[test]
fn lease_text() {
    let (signer, key) = (node_signer(), node_signer().verifier());
    let seed = text_of(&lease().sign(&signer));
    let target =
        Target::new("lease", [seed.clone()]).make(|random| mutate::lines(random, &seed).into_bytes());
    target.check(|bytes| {
        let Some(note) = signed(bytes) else { return Answer::Refused };
        let opened = Lease::open(&note, &key);
        if let Ok(lease) = &opened {
            assert_eq!(lease.sign(&signer), note, "a lease has one spelling");
        }
        Answer::of(&opened)
    });
}
