//! SSHSIG (OpenSSH PROTOCOL.sshsig): the signatures that `ssh-keygen -Y sign` makes and `-Y verify` checks, by keys
//! in files and by keys in FIDO2 tokens (OpenSSH PROTOCOL.u2f).

use std::fmt;

use data_encoding::BASE64;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::limits::{APPLICATION_MAX_BYTES, SIGNATURE_MAX_BYTES};
use crate::strict;

/// The namespace of every command that Tagout accepts, and of restores: a signature made for git or e-mail means nothing here.
pub const NAMESPACE: &str = "tagout-command";
/// That of drills: whoever signs what was never signs a command by it.
pub const DRILL_NAMESPACE: &str = "tagout-drill";

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const MAGIC: &[u8] = b"SSHSIG";
const ED25519: &str = "ssh-ed25519";
const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";

/// The flags byte of a FIDO2 token (WebAuthn section 6.1, authenticator data): somebody touched it, …
const USER_PRESENT: u8 = 0x01;
/// … it knew who, by PIN or fingerprint, …
const USER_VERIFIED: u8 = 0x04;
/// … and it signed attested credential data or extensions too, which an SSH signature has no place for.
const MORE_IS_SIGNED: u8 = 0x40 | 0x80;

/// A principal's public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PublicKey {
    /// `ssh-ed25519`: the private half is in a file or an agent.
    Ed25519([u8; 32]),
    /// `sk-ssh-ed25519@openssh.com`: the private half never leaves a FIDO2 token. It signs for one `application`,
    /// `ssh:` or `ssh:` and a name.
    SkEd25519 { key: [u8; 32], application: String },
}

/// What a good signature proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    pub key: PublicKey,
    /// Somebody touched the token for this very signature. Without it a program alone may have made the signature,
    /// and `ssh-keygen -Y verify` accepts it all the same.
    pub presence: bool,
    /// The token knew its user, by PIN or fingerprint.
    pub verification: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshsigError {
    #[error(
        "the signature has more than {SIGNATURE_MAX_BYTES} bytes; one by an Ed25519 key has about 300 (an RSA key does not do)"
    )]
    TooLarge,
    #[error(
        "the signature is not an armored SSH signature; make one with: ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE"
    )]
    Armor,
    #[error("the SSH signature is malformed: {0}")]
    Malformed(&'static str),
    #[error(
        "the signature is for namespace {found:?}; sign again with: ssh-keygen -Y sign -n {wanted} -f KEY FILE"
    )]
    Namespace { found: String, wanted: String },
    #[error(
        "the key is neither {ED25519} nor {SK_ED25519}; make one with: ssh-keygen -t ed25519, or -t ed25519-sk in a FIDO2 token"
    )]
    Algorithm,
    #[error("the signature says that it is {found:?}, but its key is {key}, and the key decides")]
    AlgorithmOfKey { key: &'static str, found: String },
    #[error(
        "the FIDO2 key is for application {0:?}, not for SSH: its application must be \"ssh:\" or begin with it, in at \
         most {APPLICATION_MAX_BYTES} printable ASCII characters"
    )]
    Application(String),
    #[error(
        "the FIDO2 token says that it signed more than an SSH signature can hold (flags {0:#04x}); sign with: \
         ssh-keygen -Y sign"
    )]
    MoreIsSigned(u8),
    #[error("the key is one of Ed25519's weak points of small order and proves nothing")]
    WeakKey,
    #[error(
        "the signature does not fit the document and the key; sign the exact bytes that are sent (curl -d strips newlines)"
    )]
    Mismatch,
}

impl PublicKey {
    /// Reads `ssh-ed25519 AAAA… comment` or `sk-ssh-ed25519@openssh.com AAAA… comment`, as in a `.pub` file.
    pub fn parse_openssh(line: &str) -> Result<Self, SshsigError> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| [ED25519, SK_ED25519].contains(name));
        let name = name.ok_or(SshsigError::Algorithm)?;
        let encoded = words.next().ok_or(SshsigError::Malformed("the public key line has no key"))?;
        let blob = strict::base64(encoded).ok_or(SshsigError::Malformed("the key is not base64"))?;
        let key = Self::from_blob(&blob)?;
        if key.algorithm() != name {
            return Err(SshsigError::Malformed("the public key line names another kind than its key"));
        }
        Ok(key)
    }

    /// Reads OpenSSH's wire format.
    pub fn from_blob(blob: &[u8]) -> Result<Self, SshsigError> {
        let key = Self::read(blob)?;
        key.point()?;
        Ok(key)
    }

    /// The curve point, unless it is none or a weak one.
    fn point(&self) -> Result<VerifyingKey, SshsigError> {
        let point = VerifyingKey::from_bytes(self.raw())
            .map_err(|_| SshsigError::Malformed("the key is no curve point"))?;
        if point.is_weak() { Err(SshsigError::WeakKey) } else { Ok(point) }
    }

    /// As `from_blob`, with the point not looked at: whose key it claims to be is asked first, and a stranger's costs no
    /// curve arithmetic (S10).
    fn read(blob: &[u8]) -> Result<Self, SshsigError> {
        let mut rest = blob;
        let algorithm = string(&mut rest)?;
        let is_sk = algorithm == SK_ED25519.as_bytes();
        if !is_sk && algorithm != ED25519.as_bytes() {
            return Err(SshsigError::Algorithm);
        }
        let raw: [u8; 32] = string(&mut rest)?
            .try_into()
            .map_err(|_| SshsigError::Malformed("an Ed25519 key has 32 bytes"))?;
        let parsed = if is_sk {
            Self::SkEd25519 { key: raw, application: application(string(&mut rest)?)? }
        } else {
            Self::Ed25519(raw)
        };
        end(rest)?;
        Ok(parsed)
    }

    /// The name of its kind in OpenSSH's formats.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => ED25519,
            Self::SkEd25519 { .. } => SK_ED25519,
        }
    }

    /// The Ed25519 key itself. Two keys with the same are one: whoever can sign with this can sign with that.
    pub fn raw(&self) -> &[u8; 32] {
        match self {
            Self::Ed25519(raw) | Self::SkEd25519 { key: raw, .. } => raw,
        }
    }

    /// The key as OpenSSH's wire format has it.
    pub fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, self.algorithm().as_bytes());
        put_string(&mut blob, self.raw());
        match self {
            Self::Ed25519(_) => {}
            Self::SkEd25519 { application, .. } => put_string(&mut blob, application.as_bytes()),
        }
        blob
    }

    /// `ssh-ed25519 AAAA…` or `sk-ssh-ed25519@openssh.com AAAA…`, without a comment.
    pub fn to_openssh(&self) -> String {
        format!("{} {}", self.algorithm(), BASE64.encode(&self.blob()))
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&Sha256::digest(self.blob())))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// One parsed signature; nothing is proven until `verify`.
#[derive(Clone, Debug)]
pub struct SshSignature {
    key: PublicKey,
    namespace: Vec<u8>,
    hash: Hash,
    signature: RawSignature,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha512,
}

impl SshSignature {
    pub fn parse(armored: &str) -> Result<Self, SshsigError> {
        if armored.len() > SIGNATURE_MAX_BYTES {
            return Err(SshsigError::TooLarge);
        }
        // Both markers on lines of their own: ssh-keygen reads nothing else, and what is logged must verify with it.
        let body = armored
            .trim_end_matches(['\r', '\n'])
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(END))
            .filter(|body| body.starts_with(['\r', '\n']) && body.ends_with('\n'))
            .ok_or(SshsigError::Armor)?;
        let encoded: String = body.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        Self::from_blob(&strict::base64(&encoded).ok_or(SshsigError::Armor)?)
    }

    fn from_blob(blob: &[u8]) -> Result<Self, SshsigError> {
        let mut rest =
            blob.strip_prefix(MAGIC).ok_or(SshsigError::Malformed("it does not begin with SSHSIG"))?;
        if number(&mut rest)? != 1 {
            return Err(SshsigError::Malformed("its version is not 1"));
        }
        let key = PublicKey::read(string(&mut rest)?)?;
        let namespace = string(&mut rest)?.to_vec();
        // "reserved" must be ignored when read, but it is signed: keep to what ssh-keygen writes, so that it hides nothing.
        if !string(&mut rest)?.is_empty() {
            return Err(SshsigError::Malformed("its reserved field is not empty"));
        }
        let hash = match string(&mut rest)? {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            _ => return Err(SshsigError::Malformed("its hash is neither sha256 nor sha512")),
        };
        let signature = RawSignature::parse(string(&mut rest)?, &key)?;
        end(rest)?;
        Ok(Self { key, namespace, hash, signature })
    }

    /// The key that the signature names; believe it only after `verify`.
    pub fn claimed_key(&self) -> &PublicKey {
        &self.key
    }

    /// Proves that the claimed key signed `message` for Tagout. Whether a touch or a PIN is needed as well is for
    /// the caller to say.
    pub fn verify(&self, message: &[u8]) -> Result<Proven, SshsigError> {
        self.verify_for(NAMESPACE, message)
    }

    /// As [`SshSignature::verify`], for another namespace. It is for whoever made the signature; nothing that
    /// arrives from elsewhere may choose what it was signed for.
    pub fn verify_for(&self, namespace: &str, message: &[u8]) -> Result<Proven, SshsigError> {
        if self.namespace != namespace.as_bytes() {
            let (found, wanted) = (shown(&self.namespace), namespace.into());
            return Err(SshsigError::Namespace { found, wanted });
        }
        let signed = match self.hash {
            Hash::Sha256 => preimage(namespace, b"sha256", &Sha256::digest(message)),
            Hash::Sha512 => preimage(namespace, b"sha512", &Sha512::digest(message)),
        };
        self.signature.verify(&signed, &self.key)
    }
}

/// The signature proper, as it stands at the end of an SSHSIG blob and in an agent's answer.
#[derive(Clone, Debug)]
struct RawSignature {
    bytes: [u8; 64],
    /// What a token says, and signs, of the moment of signing; 0 for a plain key.
    flags: u8,
    /// How often the token has signed; 0 for a plain key. Only the token's owner could tell whether it is right.
    counter: u32,
}

impl RawSignature {
    fn parse(blob: &[u8], key: &PublicKey) -> Result<Self, SshsigError> {
        let mut rest = blob;
        // The key decides the algorithm: a signature that claims another one is refused, never followed.
        let algorithm = string(&mut rest)?;
        if algorithm != key.algorithm().as_bytes() {
            return Err(SshsigError::AlgorithmOfKey { key: key.algorithm(), found: shown(algorithm) });
        }
        let bytes = string(&mut rest)?
            .try_into()
            .map_err(|_| SshsigError::Malformed("an Ed25519 signature has 64 bytes"))?;
        let (flags, counter) = match key {
            PublicKey::Ed25519(_) => (0, 0),
            PublicKey::SkEd25519 { .. } => (byte(&mut rest)?, number(&mut rest)?),
        };
        end(rest)?;
        // The bits that are left, among them the two that tell of a synced passkey, change nothing of what is signed.
        if flags & MORE_IS_SIGNED != 0 {
            return Err(SshsigError::MoreIsSigned(flags));
        }
        Ok(Self { bytes, flags, counter })
    }

    fn verify(&self, signed: &[u8], key: &PublicKey) -> Result<Proven, SshsigError> {
        let by_token;
        let signed = match key {
            PublicKey::Ed25519(_) => signed,
            PublicKey::SkEd25519 { application, .. } => {
                by_token = sk_to_be_signed(application, self.flags, self.counter, signed);
                &by_token
            }
        };
        // Strict (RFC 8032 with small-order points refused): one message, one key, one meaning for every verifier.
        key.point()?
            .verify_strict(signed, &Signature::from_bytes(&self.bytes))
            .map_err(|_| SshsigError::Mismatch)?;
        let says = |flag: u8| self.flags & flag != 0;
        Ok(Proven { key: key.clone(), presence: says(USER_PRESENT), verification: says(USER_VERIFIED) })
    }
}

/// The bytes that a key signs for `message`, with SHA-512 as `ssh-keygen` does by default.
pub fn to_be_signed(namespace: &str, message: &[u8]) -> Vec<u8> {
    preimage(namespace, b"sha512", &Sha512::digest(message))
}

/// Armors a signature over `to_be_signed`. `algorithm_and_signature` is the SSH wire form that an agent returns.
pub fn armor(public_key_blob: &[u8], namespace: &str, algorithm_and_signature: &[u8]) -> String {
    let mut blob = MAGIC.to_vec();
    blob.extend(1u32.to_be_bytes());
    put_string(&mut blob, public_key_blob);
    put_string(&mut blob, namespace.as_bytes());
    put_string(&mut blob, b"");
    put_string(&mut blob, b"sha512");
    put_string(&mut blob, algorithm_and_signature);
    let encoded = BASE64.encode(&blob);
    let mut armored = format!("{BEGIN}\n");
    for line in encoded.as_bytes().chunks(70) {
        armored.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        armored.push('\n');
    }
    armored.push_str(END);
    armored.push('\n');
    armored
}

/// The SSH wire form of an Ed25519 signature.
pub fn ed25519_signature_blob(signature: &[u8; 64]) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, ED25519.as_bytes());
    put_string(&mut blob, signature);
    blob
}

/// The SSH wire form of a FIDO2 token's signature over [`sk_to_be_signed`].
pub fn sk_ed25519_signature_blob(signature: &[u8; 64], flags: u8, counter: u32) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, SK_ED25519.as_bytes());
    put_string(&mut blob, signature);
    blob.push(flags);
    blob.extend(counter.to_be_bytes());
    blob
}

/// What a FIDO2 token signs when it is asked to sign `signed`: it adds its own view of the moment.
pub fn sk_to_be_signed(application: &str, flags: u8, counter: u32, signed: &[u8]) -> Vec<u8> {
    let mut bytes = Sha256::digest(application).to_vec();
    bytes.push(flags);
    bytes.extend(counter.to_be_bytes());
    bytes.extend(Sha256::digest(signed));
    bytes
}

fn preimage(namespace: &str, hash_name: &[u8], hash: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_string(&mut bytes, namespace.as_bytes());
    put_string(&mut bytes, b"");
    put_string(&mut bytes, hash_name);
    put_string(&mut bytes, hash);
    bytes
}

/// A key of another application belongs to some web site, which can have its users sign what it likes.
fn application(bytes: &[u8]) -> Result<String, SshsigError> {
    let printable = |text: &&str| text.bytes().all(|b| matches!(b, b' '..=b'~'));
    (std::str::from_utf8(bytes).ok())
        .filter(|text| text.starts_with("ssh:") && text.len() <= APPLICATION_MAX_BYTES)
        .filter(printable)
        .map(str::to_owned)
        .ok_or_else(|| SshsigError::Application(shown(bytes)))
}

/// A stranger's text, short enough for an error.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(64).collect()
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).expect("an SSH string is short").to_be_bytes());
    out.extend(bytes);
}

fn byte(rest: &mut &[u8]) -> Result<u8, SshsigError> {
    let (head, tail) = rest.split_first().ok_or(SshsigError::Malformed("it ends too early"))?;
    *rest = tail;
    Ok(*head)
}

fn number(rest: &mut &[u8]) -> Result<u32, SshsigError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(SshsigError::Malformed("it ends too early"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], SshsigError> {
    let len = number(rest)? as usize;
    let (head, tail) = rest.split_at_checked(len).ok_or(SshsigError::Malformed("it ends too early"))?;
    *rest = tail;
    Ok(head)
}

fn end(rest: &[u8]) -> Result<(), SshsigError> {
    if rest.is_empty() { Ok(()) } else { Err(SshsigError::Malformed("bytes are left over after its end")) }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    use super::*;

    /// The known answer of OpenSSH's own tests (regress/unittests/sshsig/testdata, key "ED25519-SK test key"). It
    /// is for a namespace that no document of ours has.
    #[test]
    fn openssh_s_own_test_vector_verifies() {
        const KEY: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJsaDYXQYruc6bil\
            CYDIK4YSOeG+zmrRO2M9t03//7LHAAAABHNzaDo=";
        const SIGNATURE: &str = "-----BEGIN SSH SIGNATURE-----\n\
            U1NIU0lHAAAAAQAAAEoAAAAac2stc3NoLWVkMjU1MTlAb3BlbnNzaC5jb20AAAAgmxoNhd\n\
            Biu5zpuKUJgMgrhhI54b7OatE7Yz23Tf//sscAAAAEc3NoOgAAAAh1bml0dGVzdAAAAAAA\n\
            AAAGc2hhNTEyAAAAZwAAABpzay1zc2gtZWQyNTUxOUBvcGVuc3NoLmNvbQAAAEAi+7eTjW\n\
            /+LQ2M+sCD+KFtH1n7VFFJon/SZFsxODyV8cWTlFKj617Ys1Ur5TV6uaEXQhck8rBA2oQI\n\
            HTPANLIPARI0Vng=\n\
            -----END SSH SIGNATURE-----\n";
        const DATA: &[u8] = b"This is a test, this is only a test";

        let key = PublicKey::parse_openssh(KEY).unwrap();
        let signature = SshSignature::parse(SIGNATURE).unwrap();
        assert_eq!(signature.claimed_key(), &key);
        assert_eq!((signature.signature.flags, signature.signature.counter), (USER_PRESENT, 0x1234_5678));
        let proven = Proven { key, presence: true, verification: false };
        assert_eq!(signature.verify_for("unittest", DATA), Ok(proven));
        assert_eq!(signature.verify_for("unittest", b"This is no test"), Err(SshsigError::Mismatch));
        let (found, wanted) = ("unittest".into(), NAMESPACE.into());
        assert_eq!(signature.verify(DATA), Err(SshsigError::Namespace { found, wanted }));
        assert_eq!(encoded(&signature), SIGNATURE);
    }

    /// From the parsed fields alone, so that nothing can hide between them.
    fn encoded(signature: &SshSignature) -> String {
        let RawSignature { bytes, flags, counter } = &signature.signature;
        let raw = match &signature.key {
            PublicKey::Ed25519(_) => ed25519_signature_blob(bytes),
            PublicKey::SkEd25519 { .. } => sk_ed25519_signature_blob(bytes, *flags, *counter),
        };
        let namespace = std::str::from_utf8(&signature.namespace).unwrap();
        let armored = armor(&signature.key.blob(), namespace, &raw);
        match signature.hash {
            Hash::Sha512 => armored,
            Hash::Sha256 => unreachable!("these tests make none"),
        }
    }

    prop_compose! {
        fn signatures()(
            seed: [u8; 32],
            application in proptest::option::of("ssh:[ -~]{0,60}"),
            namespace in "[a-z-]{1,20}",
            flags in 0..0x40_u8,
            counter: u32,
        ) -> String {
            let signer = SigningKey::from_bytes(&seed);
            let signed = to_be_signed(&namespace, b"x");
            let raw = signer.verifying_key().to_bytes();
            let (key, blob) = match application {
                None => {
                    (PublicKey::Ed25519(raw), ed25519_signature_blob(&signer.sign(&signed).to_bytes()))
                }
                Some(application) => {
                    let signed = sk_to_be_signed(&application, flags, counter, &signed);
                    let signature = signer.sign(&signed).to_bytes();
                    let key = PublicKey::SkEd25519 { key: raw, application };
                    (key, sk_ed25519_signature_blob(&signature, flags, counter))
                }
            };
            armor(&key.blob(), &namespace, &blob)
        }
    }

    proptest! {
        #[test]
        fn what_parses_encodes_to_the_same_bytes(
            armored in signatures(), at: prop::sample::Index, bit in 0..8_u32,
        ) {
            let signature = SshSignature::parse(&armored).unwrap();
            prop_assert_eq!(encoded(&signature), &armored[..]);
            let key = signature.claimed_key();
            prop_assert_eq!(&PublicKey::parse_openssh(&key.to_openssh()).unwrap(), key);
            let namespace = std::str::from_utf8(&signature.namespace).unwrap();
            prop_assert!(signature.verify_for(namespace, b"x").is_ok());

            // One bit changed anywhere: refused at once, or read as exactly what stands there and not proven.
            let body: String = armored.lines().filter(|l| !l.starts_with('-')).collect();
            let mut blob = BASE64.decode(body.as_bytes()).unwrap();
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
            if let Ok(changed) = SshSignature::from_blob(&blob) {
                let same = String::from_utf8(changed.namespace.clone()).is_err()
                    || encoded(&changed).lines().filter(|l| !l.starts_with('-')).collect::<String>()
                        == BASE64.encode(&blob);
                prop_assert!(same);
                prop_assert_eq!(changed.verify_for(namespace, b"x").ok(), None);
            }
        }
    }
}
