//! Keys in files, in OpenSSH's formats: `PROTOCOL.key` for private ones, one line for public ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::Ed25519PublicKey;
use ssh_key::{Cipher, Kdf, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::SignError;
use super::wire::{NotUsable, PublicKey, Reader};

const MAX_FILE_BYTES: u64 = 64 * 1024;
const MAX_COMMENT_BYTES: usize = 256;
/// What `ssh-keygen` uses since OpenSSH 9.4.
const BCRYPT_ROUNDS: u32 = 24;

/// What is in a key file.
pub(super) enum KeyFile {
    Public(PublicKey),
    Private(Box<PrivateFile>),
}

impl KeyFile {
    /// Reads `path`; its content says whether it is a public or a private key. If only `path.pub` exists, then
    /// the private half is elsewhere, in an agent.
    pub(super) fn read(path: &Path) -> Result<Self, SignError> {
        let (text, metadata) = match read_bounded(path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let public = beside(path);
                return match read_bounded(&public) {
                    Ok((text, _)) => parse_public(&public, &text).map(Self::Public),
                    Err(_) => Err(SignError::NoSuchKey { path: path.to_owned() }),
                };
            }
            Err(source) => return Err(SignError::Read { path: path.to_owned(), source }),
        };
        if !text.trim_start().starts_with("-----BEGIN ") {
            return parse_public(path, &text).map(Self::Public);
        }
        // As ssh does: a file of another owner was arranged by an administrator, and its owner's modes are not
        // ours to judge.
        let mode = metadata.mode() & 0o777;
        if metadata.uid() == rustix::process::getuid().as_raw() && mode & 0o077 != 0 {
            return Err(SignError::OpenToOthers { path: path.to_owned(), mode });
        }
        PrivateFile::parse(path, &text).map(|file| Self::Private(Box::new(file)))
    }
}

/// A private key file that may still need its passphrase. Its public half is readable without.
pub(super) struct PrivateFile {
    public: PublicKey,
    key: PrivateKey,
}

/// A private key that is ready to sign.
pub(super) struct Unlocked {
    pub(super) public: PublicKey,
    pub(super) key: Box<SigningKey>,
}

impl PrivateFile {
    fn parse(path: &Path, text: &str) -> Result<Self, SignError> {
        const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
        const END: &str = "-----END OPENSSH PRIVATE KEY-----";
        let damaged = |what: &str| SignError::Damaged { path: path.to_owned(), what: what.to_owned() };

        let Some(body) = text.trim().strip_prefix(BEGIN) else {
            return Err(other_pem(path, text));
        };
        let body = body.strip_suffix(END).ok_or_else(|| damaged("its last line is missing"))?;
        let encoded = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
        let bytes = BASE64
            .decode(encoded.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| damaged("its base64 is broken"))?;
        let blob = public_blob(&bytes).ok_or_else(|| damaged("its header is broken"))?;
        let public = PublicKey::from_blob(blob, String::new()).map_err(|error| not_usable(path, error))?;
        let key = PrivateKey::from_bytes(&bytes).map_err(|error| damaged(&error.to_string()))?;
        Ok(Self { public, key })
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Empty while the file is encrypted.
    pub(super) fn comment(&self) -> String {
        self.key.comment().replace(char::is_control, "?")
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.key.is_encrypted()
    }

    /// Whether a person must give a passphrase or PIN when this file of a security key signs. The flags of an
    /// encrypted one cannot be read, but then the passphrase is a question already.
    pub(super) fn asks(&self) -> bool {
        const VERIFICATION_REQUIRED: u8 = 0x04; // OpenSSH PROTOCOL.u2f and sk-api.h
        let flags = self.key.key_data().sk_ed25519().map(|handle| handle.flags());
        flags.is_none_or(|flags| flags & VERIFICATION_REQUIRED != 0)
    }

    pub(super) fn unlock(&self, path: &Path, passphrase: Option<&str>) -> Result<Unlocked, SignError> {
        let damaged = |what: String| SignError::Damaged { path: path.to_owned(), what };
        let opened;
        let key = match passphrase {
            Some(passphrase) => {
                opened = self.key.decrypt(passphrase).map_err(|error| match error {
                    ssh_key::Error::Crypto => SignError::WrongPassphrase { path: path.to_owned() },
                    error => damaged(error.to_string()),
                })?;
                &opened
            }
            None => &self.key,
        };
        let pair = key.key_data().ed25519().ok_or_else(|| damaged("it holds no Ed25519 key".to_owned()))?;
        let signing = Box::new(SigningKey::from_bytes(pair.private.as_ref()));
        // Signing with one half while naming another would give the private key away.
        if signing.verifying_key().to_bytes() != self.public.bytes() {
            return Err(damaged("its public half belongs to another key".to_owned()));
        }
        let comment = key.comment().replace(char::is_control, "?");
        Ok(Unlocked { public: self.public.with_comment(comment), key: signing })
    }
}

/// Makes a new Ed25519 key pair: `path` (mode 0600) and `path.pub`, with a passphrase if one is given that is
/// not empty. Never replaces a file.
///
/// # Errors
/// If one of the two files exists already, or cannot be written; then none is left behind.
pub fn generate(path: &Path, comment: &str, passphrase: Option<&str>) -> Result<PublicKey, SignError> {
    if comment.len() > MAX_COMMENT_BYTES || comment.contains(char::is_control) {
        return Err(SignError::BadComment { max_bytes: MAX_COMMENT_BYTES });
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(SignError::Randomness)?;
    let public =
        PublicKey::ed25519(SigningKey::from_bytes(&seed).verifying_key().to_bytes(), comment.to_owned());

    let unlike_openssh =
        |error: ssh_key::Error| SignError::Write { path: path.to_owned(), source: io::Error::other(error) };
    let pair = Ed25519Keypair {
        public: Ed25519PublicKey(public.bytes()),
        private: Ed25519PrivateKey::from_bytes(&seed),
    };
    let mut key = PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(unlike_openssh)?;
    if let Some(passphrase) = passphrase.filter(|passphrase| !passphrase.is_empty()) {
        let mut salt = vec![0; 16];
        getrandom::fill(&mut salt).map_err(SignError::Randomness)?;
        let check = getrandom::u32().map_err(SignError::Randomness)?;
        let kdf = Kdf::Bcrypt { salt, rounds: BCRYPT_ROUNDS };
        key = key.encrypt_with(Cipher::Aes256Ctr, kdf, check, passphrase).map_err(unlike_openssh)?;
    }
    let private_text = key.to_openssh(LineEnding::LF).map_err(unlike_openssh)?;

    let public_path = beside(path);
    if fs::symlink_metadata(&public_path).is_ok() {
        return Err(SignError::Exists { path: public_path });
    }
    write_new(path, private_text.as_bytes(), 0o600)?;
    if let Err(error) = write_new(&public_path, format!("{}\n", public.line()).as_bytes(), 0o644) {
        // Only this call's own new file goes; half a pair would block the next attempt.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(public)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SignError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => SignError::Exists { path: path.to_owned() },
        _ => SignError::Write { path: path.to_owned(), source },
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| {
        let _ = fs::remove_file(path);
        SignError::Write { path: path.to_owned(), source }
    })
}

fn read_bounded(path: &Path) -> io::Result<(Zeroizing<String>, fs::Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is far too large for a key"));
    }
    // Room for all of it at once: growing would leave copies behind that nobody wipes.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES as usize + 1));
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok((text, metadata))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

fn parse_public(path: &Path, text: &str) -> Result<PublicKey, SignError> {
    PublicKey::from_line(text).map_err(|error| not_usable(path, error))
}

fn not_usable(path: &Path, error: NotUsable) -> SignError {
    match error {
        NotUsable::Malformed => SignError::NotAKey { path: path.to_owned() },
        NotUsable::WrongKind(found) => SignError::WrongKind { path: path.to_owned(), found },
        NotUsable::Unfit(source) => SignError::Unfit { path: path.to_owned(), source },
    }
}

/// A PEM file that is not OpenSSH's: name what it is, since these are the keys people try first.
fn other_pem(path: &Path, text: &str) -> SignError {
    let label = text.trim_start().strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----"));
    let found = match label.map(|(label, _)| label) {
        Some("RSA PRIVATE KEY") => "RSA",
        Some("EC PRIVATE KEY") => "ECDSA",
        Some("DSA PRIVATE KEY") => "DSA",
        Some("PRIVATE KEY" | "ENCRYPTED PRIVATE KEY") => "PKCS#8 (not OpenSSH)",
        _ => return SignError::NotAKey { path: path.to_owned() },
    };
    SignError::WrongKind { path: path.to_owned(), found: found.to_owned() }
}

/// The public key in front of the (possibly encrypted) private section, so that other kinds can be named.
fn public_blob(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes.strip_prefix(b"openssh-key-v1\0")?);
    let (_cipher, _kdf, _kdf_options) = (reader.string()?, reader.string()?, reader.string()?);
    (reader.u32()? == 1).then_some(())?;
    reader.string()
}
