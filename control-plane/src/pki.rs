//! The deployment's private certificate authority and the TLS certificates that it issues.
//!
//! TLS carries confidentiality and names; no consent rests on it (S5), so a stolen TLS key can neither stop nor
//! start an agent. Keys are ECDSA on P-256: rustls, OpenSSL, Python, Go, browsers and operating systems all take
//! them, which is not yet so for Ed25519 certificates.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::store::files;
use crate::tls::{self, TlsError};

/// How long a new CA is valid.
pub const CA_DAYS: u64 = 3650;
/// How long a new node or client certificate is valid.
pub const LEAF_DAYS: u64 = 365;
/// The CA certificate's name in its folder; everybody may have it.
pub const CA_CERT_FILE: &str = "ca.crt";
/// The CA key's name in its folder.
pub const CA_KEY_FILE: &str = "ca.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates begin in the past, so that a peer whose clock is behind takes them too.
const BACKDATED: Duration = DAY;
/// A node is a server to everybody, and a client of the other nodes.
const NODE_USAGES: &[ExtendedKeyUsagePurpose] =
    &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
const MAX_NAME_BYTES: usize = 64; // RFC 5280, ub-common-name
const MAX_SANS: usize = 64;

/// A certificate with its private key, both as PEM text.
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The private key stays out of logs.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Issued {
    /// Writes `<name>.crt` (0644) and `<name>.key` (0600) into `dir` and returns their paths. Never overwrites:
    /// [`renew`] does that, for a certificate whose key stays.
    ///
    /// # Errors
    /// If one of the two exists already, or cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf), PkiError> {
        check_name(name)?;
        write_pair(&dir.join(format!("{name}.crt")), &dir.join(format!("{name}.key")), self)
    }
}

/// Makes the deployment's CA in `dir` (made with mode 0700 if it is missing), valid for ten years: `ca.crt` and
/// `ca.key`. Returns the CA certificate.
///
/// # Errors
/// If there is a CA already, or it cannot be written.
pub fn create_ca(dir: &Path, deployment_name: &str) -> Result<String, PkiError> {
    check_name(deployment_name)?;
    // The suffix keeps the CA's subject apart from every node's, and fits because of the check above.
    let mut params =
        params(&format!("{} CA", &deployment_name[..deployment_name.len().min(MAX_NAME_BYTES - 3)]), CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let issued = Issued { cert_pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() };

    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| PkiError::Write { path: dir.to_owned(), source })?;
    write_pair(&dir.join(CA_CERT_FILE), &dir.join(CA_KEY_FILE), &issued)?;
    Ok(issued.cert_pem)
}

/// Issues a node's certificate, valid for a year, with a new key. `sans` are the DNS names and IP addresses under
/// which guards, people and other nodes reach it. It serves for both ends of the nodes' mutual TLS.
///
/// # Errors
/// If `ca_dir` holds no CA, the CA ends sooner than the certificate would, or a name is not one.
pub fn issue(ca_dir: &Path, name: &str, sans: &[impl AsRef<str>]) -> Result<Issued, PkiError> {
    if sans.is_empty() || sans.len() > MAX_SANS {
        return Err(PkiError::SanCount { max: MAX_SANS });
    }
    let mut params = params(name, LEAF_DAYS);
    params.subject_alt_names = sans.iter().map(|san| parse_san(san.as_ref())).collect::<Result<_, _>>()?;
    params.extended_key_usages = NODE_USAGES.to_vec();
    sign_leaf(ca_dir, name, params)
}

/// Issues a client certificate, valid for a year, with a new key: it lets a process say which enrolled client it
/// is, and serves nothing.
///
/// # Errors
/// As [`issue`].
pub fn issue_client(ca_dir: &Path, name: &str) -> Result<Issued, PkiError> {
    let mut params = params(name, LEAF_DAYS);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign_leaf(ca_dir, name, params)
}

/// What a renewal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    pub before: Validity,
    pub now: Validity,
    /// Of the CA that issued it.
    pub ca: Validity,
}

/// Replaces a node's certificate by one for the same key and the same names, valid for a year, or until the CA ends if
/// that is sooner. Only one file changes, and as a whole: a crash leaves the old pair or the new one.
///
/// `trusted_pem` are the CAs that clients and peers take; without it, it is the CA that issued the old certificate. A
/// certificate of another CA would lock everybody out, and is not written.
///
/// # Errors
/// If the pair or the CA cannot be read, the CA is not one of `trusted_pem` or has ended, or the file cannot be written.
pub fn renew(ca_dir: &Path, cert: &Path, key: &Path, trusted_pem: Option<&str>) -> Result<Renewed, PkiError> {
    let old = load(cert, key)?;
    let unusable = |source| PkiError::Unusable { path: cert.to_owned(), source };
    tls::check_pair(&old.cert_pem, &old.key_pem).map_err(unusable)?;
    let node_key = KeyPair::from_pem(&old.key_pem)?;
    let (name, sans) = names(&old.cert_pem)?;
    let (ca_cert, issuer) = open_ca(ca_dir)?;
    let (before, ca) = (validity(&old.cert_pem)?, validity(&ca_cert)?);

    let mut params = params(&name, LEAF_DAYS);
    if ca.ends <= unix_now() {
        return Err(PkiError::CaEnded { dir: ca_dir.to_owned() });
    }
    // Ending with its CA is better than ending without a successor, and the CA's own end is warned of for a long time.
    params.not_after = params.not_after.min(instant(ca.ends).into());
    params.subject_alt_names = sans;
    params.extended_key_usages = NODE_USAGES.to_vec();
    let new = leaf(params, &node_key, &issuer)?;

    let trusted = trusted_pem.unwrap_or(&ca_cert);
    let other_ca = |source| PkiError::OtherCa { dir: ca_dir.to_owned(), source };
    if trusted_pem.is_none() {
        tls::check_issuer(&old.cert_pem, trusted).map_err(other_ca)?;
    }
    tls::check_issuer(&new, trusted).map_err(other_ca)?;
    files::replace(cert, new.as_bytes())
        .map_err(|source| PkiError::Write { path: cert.to_owned(), source })?;
    Ok(Renewed { before, now: validity(&new)?, ca })
}

/// The CA certificate in `ca_dir`, as PEM text.
///
/// # Errors
/// If there is none.
pub fn load_ca_cert(ca_dir: &Path) -> Result<String, PkiError> {
    load_pem(&ca_dir.join(CA_CERT_FILE))
}

/// A certificate and its key from two PEM files, such as those of [`Issued::write`].
///
/// # Errors
/// If one cannot be read.
pub fn load(cert: &Path, key: &Path) -> Result<Issued, PkiError> {
    Ok(Issued { cert_pem: load_pem(cert)?, key_pem: read_private_pem(key)? })
}

/// From when until when a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub begins: i64,
    pub ends: i64,
}

impl Validity {
    /// Days until it ends, as seen now; negative once it has ended.
    pub fn days_left(self) -> f64 {
        (self.ends - unix_now()) as f64 / DAY.as_secs() as f64
    }

    pub fn is_now(self) -> bool {
        (self.begins..=self.ends).contains(&unix_now())
    }

    /// Less than a third of its lifetime is left: time to renew it.
    pub fn is_late(self) -> bool {
        self.ends.saturating_sub(unix_now()) < self.ends.saturating_sub(self.begins) / 3
    }
}

/// The validity of the first certificate in `cert_pem`.
///
/// # Errors
/// If there is no certificate in it.
pub fn validity(cert_pem: &str) -> Result<Validity, PkiError> {
    validity_of(&CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| PkiError::NoCertificate)?)
}

/// As [`validity`], of its DER.
///
/// # Errors
/// If it is none.
pub fn validity_of(der: &CertificateDer<'_>) -> Result<Validity, PkiError> {
    with_certificate(der, |certificate| {
        let validity = certificate.validity();
        Validity { begins: validity.not_before.timestamp(), ends: validity.not_after.timestamp() }
    })
}

/// Whole days until the first certificate in `cert_pem` ends; negative once it has ended.
///
/// # Errors
/// If there is no certificate in it.
pub fn days_left(cert_pem: &str) -> Result<i64, PkiError> {
    days_left_at(cert_pem, SystemTime::now())
}

/// As [`days_left`], seen from `now`.
///
/// # Errors
/// As [`days_left`].
pub fn days_left_at(cert_pem: &str, now: SystemTime) -> Result<i64, PkiError> {
    Ok(validity(cert_pem)?.ends.saturating_sub(unix(now)).div_euclid(DAY.as_secs() as i64))
}

fn unix_now() -> i64 {
    unix(SystemTime::now())
}

fn unix(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0, // before 1970: a clock that was never set
    }
}

fn instant(unix: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix.try_into().unwrap_or_default())
}

fn with_certificate<T>(
    der: &CertificateDer<'_>,
    read: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PkiError::NoCertificate)?;
    Ok(read(&certificate))
}

/// A certificate's common name, and what it may be reached under.
fn names(cert_pem: &str) -> Result<(String, Vec<SanType>), PkiError> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| PkiError::NoCertificate)?;
    with_certificate(&der, |certificate| {
        let common_name = certificate.subject().iter_common_name().next();
        let name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
        let sans = certificate.subject_alternative_name().ok().flatten();
        let sans = sans.into_iter().flat_map(|sans| &sans.value.general_names);
        let sans = sans.map(|san| match san {
            GeneralName::DNSName(name) => parse_san(name),
            GeneralName::IPAddress(bytes) => {
                match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => Ok(SanType::IpAddress(v4.into())),
                    (_, Ok(v6)) => Ok(SanType::IpAddress(v6.into())),
                    _ => Err(PkiError::BadSan { san: "an IP address of another length".into() }),
                }
            }
            // Left out silently, it would be missed by whoever asked for it.
            other => Err(PkiError::BadSan { san: other.to_string() }),
        });
        Ok((name, sans.collect::<Result<_, _>>()?))
    })?
}

fn params(common_name: &str, days: u64) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    // By default it is a hash of the key, and a renewal keeps the key: two certificates would have one number.
    params.serial_number = Some(random_serial());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Tagout");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * u32::try_from(days).expect("a lifetime in days is small")).into();
    params
}

fn random_serial() -> SerialNumber {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes[0] = bytes[0] & 0x7f | 0x40; // positive, and of full length (RFC 5280, 4.1.2.2)
    SerialNumber::from_slice(&bytes)
}

fn sign_leaf(ca_dir: &Path, name: &str, params: CertificateParams) -> Result<Issued, PkiError> {
    check_name(name)?;
    let (ca_cert, issuer) = open_ca(ca_dir)?;
    // A certificate that outlives its CA fails on the CA's last day, when nobody expects it.
    let ca_days_left = days_left(&ca_cert)?;
    if ca_days_left < LEAF_DAYS as i64 {
        return Err(PkiError::CaEndsSoon { dir: ca_dir.to_owned(), days_left: ca_days_left });
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Issued { cert_pem: leaf(params, &key, &issuer)?, key_pem: key.serialize_pem() })
}

fn open_ca(ca_dir: &Path) -> Result<(String, Issuer<'static, KeyPair>), PkiError> {
    let ca_cert = load_ca_cert(ca_dir)?;
    let path = ca_dir.join(CA_KEY_FILE);
    let ca_key =
        KeyPair::from_pem(&read_private_pem(&path)?).map_err(|source| PkiError::BadCaKey { path, source })?;
    let issuer = Issuer::from_ca_cert_pem(&ca_cert, ca_key)?;
    Ok((ca_cert, issuer))
}

fn leaf(
    mut params: CertificateParams,
    key: &KeyPair,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, PkiError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true; // asked for by strict verifiers, such as Python 3.13's
    Ok(params.signed_by(key, issuer)?.pem())
}

fn parse_san(text: &str) -> Result<SanType, PkiError> {
    let wrong = || PkiError::BadSan { san: text.to_owned() };
    if let Ok(address) = text.parse::<IpAddr>() {
        if address.is_unspecified() {
            return Err(wrong());
        }
        return Ok(SanType::IpAddress(address));
    }
    let without_wildcard = text.strip_prefix("*.").unwrap_or(text);
    DnsName::try_from(without_wildcard).map_err(|_| wrong())?;
    Ok(SanType::DnsName(text.try_into().map_err(|_| wrong())?))
}

/// Names become file names and certificate subjects.
fn check_name(name: &str) -> Result<(), PkiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let good =
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('.') && name.bytes().all(plain);
    if good { Ok(()) } else { Err(PkiError::BadName { name: name.to_owned() }) }
}

fn write_pair(cert: &Path, key: &Path, issued: &Issued) -> Result<(PathBuf, PathBuf), PkiError> {
    if fs::symlink_metadata(cert).is_ok() {
        return Err(PkiError::Exists { path: cert.to_owned() });
    }
    write_new(key, &issued.key_pem, 0o600)?;
    if let Err(error) = write_new(cert, &issued.cert_pem, 0o644) {
        // Only this call's own new file goes; half a pair would block the next attempt.
        let _ = fs::remove_file(key);
        return Err(error);
    }
    Ok((cert.to_owned(), key.to_owned()))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned() },
        _ => PkiError::Write { path: path.to_owned(), source },
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|source| {
        let _ = fs::remove_file(path);
        PkiError::Write { path: path.to_owned(), source }
    })
}

/// The text of a PEM file that everybody may read.
///
/// # Errors
/// If it cannot be read.
pub fn load_pem(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

/// Refuses a key that others can read, as ssh does; what another owner arranged, such as a mounted secret, is
/// that owner's decision.
fn read_private_pem(path: &Path) -> Result<String, PkiError> {
    let unreadable = |source| PkiError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    if metadata.uid() == rustix::process::getuid().as_raw() && mode & 0o077 != 0 {
        return Err(PkiError::OpenToOthers { path: path.to_owned(), mode });
    }
    io::read_to_string(file).map_err(unreadable)
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    #[error("{} exists already and is left as it is: choose another name or folder, or move it away first", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the private key {path} can be read by others (its permissions are {mode:04o}): run `chmod 600 {path}`",
        path = path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error(
        "{name:?} is no name for a certificate: use up to 64 letters, digits, `.`, `_` and `-`, not `.` first"
    )]
    BadName { name: String },
    #[error(
        "{san:?} is neither a DNS name nor an IP address: give what clients connect to, without scheme and port"
    )]
    BadSan { san: String },
    #[error(
        "a node's certificate needs 1 to {max} DNS names or IP addresses, those that its clients connect to"
    )]
    SanCount { max: usize },
    #[error("the CA key {} is damaged or of another kind: restore it from a copy", path.display())]
    BadCaKey { path: PathBuf, source: rcgen::Error },
    #[error(
        "the CA in {} ends in {days_left} days, sooner than the new certificate would: make a new CA, have clients trust \
         both, then issue from the new one",
        dir.display()
    )]
    CaEndsSoon { dir: PathBuf, days_left: i64 },
    #[error(
        "the CA in {} has ended: make a new CA, have clients and nodes trust both, then issue from the new one",
        dir.display()
    )]
    CaEnded { dir: PathBuf },
    #[error(
        "the CA in {} is not one that this node's clients trust: name the folder of the CA that issued its certificate, or \
         have all clients and nodes trust the new CA first (the node's own `ca` file too)",
        dir.display()
    )]
    OtherCa { dir: PathBuf, source: TlsError },
    #[error("the certificate {} and its key cannot be used", path.display())]
    Unusable { path: PathBuf, source: TlsError },
    #[error(
        "there is no certificate in this text: give a PEM file that begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate,
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) const DAY_S: i64 = DAY.as_secs() as i64;

    /// A node's certificate for a time of its own, in seconds from now.
    pub(crate) fn issue_between(
        ca_dir: &Path,
        name: &str,
        sans: &[&str],
        from_s: i64,
        until_s: i64,
    ) -> Issued {
        let (_, issuer) = open_ca(ca_dir).unwrap();
        let mut params = params(name, LEAF_DAYS);
        params.not_before = instant(unix_now() + from_s).into();
        params.not_after = instant(unix_now() + until_s).into();
        params.subject_alt_names = sans.iter().map(|san| parse_san(san).unwrap()).collect();
        params.extended_key_usages = NODE_USAGES.to_vec();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Issued { cert_pem: leaf(params, &key, &issuer).unwrap(), key_pem: key.serialize_pem() }
    }

    /// A CA that ends so many days from now.
    pub(crate) fn create_ca_for(dir: &Path, days: u64) {
        let mut params = params("short CA", days);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let issued =
            Issued { cert_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() };
        write_pair(&dir.join(CA_CERT_FILE), &dir.join(CA_KEY_FILE), &issued).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn openssl(args: &[&str]) -> (bool, String) {
        let output = Command::new("openssl").args(args).output().expect("openssl is installed");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("test paths are UTF-8")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("the file exists").permissions().mode() & 0o777
    }

    #[test]
    fn openssl_accepts_the_chain_and_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        create_ca(&ca, "moltbook-prod").unwrap();
        let issued =
            issue(&ca, "node-1", &["node-1.example.com", "*.nodes.example.com", "127.0.0.1", "::1"]).unwrap();
        let (cert, key) = issued.write(dir.path(), "node-1").unwrap();

        assert_eq!(mode(&ca), 0o700);
        assert_eq!(mode(&ca.join(CA_KEY_FILE)), 0o600);
        assert_eq!(mode(&key), 0o600);

        let ca_cert = ca.join(CA_CERT_FILE);
        for purpose in ["sslserver", "sslclient"] {
            let (good, said) = openssl(&[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                text(&ca_cert),
                text(&cert),
            ]);
            assert!(good, "{said}");
        }
        for (option, name, expected) in [
            ("-checkhost", "node-1.example.com", true),
            ("-checkhost", "a.nodes.example.com", true),
            ("-checkhost", "node-2.example.com", false),
            ("-checkip", "127.0.0.1", true),
            ("-checkip", "::1", true),
            ("-checkip", "127.0.0.2", false),
        ] {
            let (_, said) = openssl(&["x509", "-noout", option, name, "-in", text(&cert)]);
            assert_eq!(said.contains("does match certificate"), expected, "{option} {name}: {said}");
        }
        let (good, said) = openssl(&["pkey", "-noout", "-check", "-in", text(&key)]);
        assert!(good, "{said}");
    }

    #[test]
    fn a_client_certificate_serves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        create_ca(dir.path(), "prod").unwrap();
        let (cert, _) = issue_client(dir.path(), "agent-7").unwrap().write(dir.path(), "agent-7").unwrap();
        let ca_cert = dir.path().join(CA_CERT_FILE);
        assert!(openssl(&["verify", "-purpose", "sslclient", "-CAfile", text(&ca_cert), text(&cert)]).0);
        assert!(!openssl(&["verify", "-purpose", "sslserver", "-CAfile", text(&ca_cert), text(&cert)]).0);
    }

    #[test]
    fn days_left_counts_whole_days_and_goes_below_zero() {
        let dir = tempfile::tempdir().unwrap();
        let ca = create_ca(dir.path(), "prod").unwrap();
        let node = issue(dir.path(), "n", &["localhost"]).unwrap().cert_pem;
        let end = instant(validity(&node).unwrap().ends);

        assert!((3649..=3650).contains(&days_left(&ca).unwrap()));
        assert!((364..=365).contains(&days_left(&node).unwrap()));
        assert_eq!(days_left_at(&node, end).unwrap(), 0);
        assert_eq!(days_left_at(&node, end - DAY).unwrap(), 1);
        assert_eq!(days_left_at(&node, end - Duration::from_secs(1)).unwrap(), 0);
        assert_eq!(days_left_at(&node, end + Duration::from_secs(1)).unwrap(), -1);
        assert!(matches!(days_left("nothing here"), Err(PkiError::NoCertificate)));
    }

    #[test]
    fn nothing_is_ever_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let ca = create_ca(dir.path(), "prod").unwrap();
        let error = create_ca(dir.path(), "prod").unwrap_err();
        assert!(error.to_string().contains("ca.crt exists already and is left as it is"), "{error}");
        assert_eq!(load_ca_cert(dir.path()).unwrap(), ca);

        let first = issue(dir.path(), "n", &["localhost"]).unwrap();
        let (cert, key) = first.write(dir.path(), "n").unwrap();
        let second = issue(dir.path(), "n", &["localhost"]).unwrap();
        assert!(matches!(second.write(dir.path(), "n"), Err(PkiError::Exists { .. })));
        fs::remove_file(&cert).unwrap();
        assert!(
            matches!(second.write(dir.path(), "n"), Err(PkiError::Exists { .. })),
            "the key is still there"
        );
        assert_eq!(fs::read_to_string(&key).unwrap(), first.key_pem);
        assert!(!cert.exists());
    }

    #[test]
    fn a_renewal_keeps_the_key_and_the_names_and_replaces_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        create_ca(&ca, "prod").unwrap();
        let sans = ["node-1.example.com", "*.nodes.example.com", "127.0.0.1", "::1"];
        let old = testing::issue_between(&ca, "node-1", &sans, -400 * testing::DAY_S, -testing::DAY_S);
        let (cert, key) = old.write(dir.path(), "node-1").unwrap();
        let renewed = renew(&ca, &cert, &key, None).unwrap();
        assert!(renewed.before.days_left() < 0.0 && (364.0..=365.0).contains(&renewed.now.days_left()));

        let new = load(&cert, &key).unwrap();
        assert_eq!(new.key_pem, old.key_pem);
        assert_eq!((mode(&cert), mode(&key)), (0o644, 0o600));
        let (names_before, names_now) = (names(&old.cert_pem).unwrap(), names(&new.cert_pem).unwrap());
        assert_eq!((names_before.1.len(), &names_before), (4, &names_now));
        let field = |option: &str, pem: &str| {
            let path = dir.path().join("one.pem");
            fs::write(&path, pem).unwrap();
            openssl(&["x509", "-noout", option, "-in", text(&path)]).1
        };
        assert_ne!(field("-serial", &old.cert_pem), field("-serial", &new.cert_pem));
        assert_eq!(field("-pubkey", &old.cert_pem), field("-pubkey", &new.cert_pem));
        let ca_cert = ca.join(CA_CERT_FILE);
        let (good, said) = openssl(&["verify", "-x509_strict", "-CAfile", text(&ca_cert), text(&cert)]);
        assert!(good, "{said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing else is left there");
    }

    #[test]
    fn a_renewal_that_would_lock_everybody_out_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other) = (dir.path().join("ca"), dir.path().join("other"));
        create_ca(&ca, "prod").unwrap();
        create_ca(&other, "prod").unwrap();
        let (cert, key) = issue(&ca, "n", &["localhost"]).unwrap().write(dir.path(), "n").unwrap();
        let before = fs::read(&cert).unwrap();
        assert!(matches!(renew(&other, &cert, &key, None), Err(PkiError::OtherCa { .. })));
        let (_, other_key) = issue(&ca, "m", &["localhost"]).unwrap().write(dir.path(), "m").unwrap();
        assert!(matches!(renew(&ca, &cert, &other_key, None), Err(PkiError::Unusable { .. })));
        assert_eq!(fs::read(&cert).unwrap(), before);
    }

    #[test]
    fn a_renewal_ends_with_its_ca_if_that_is_sooner() {
        let dir = tempfile::tempdir().unwrap();
        testing::create_ca_for(dir.path(), 100);
        assert!(matches!(issue(dir.path(), "n", &["localhost"]), Err(PkiError::CaEndsSoon { .. })));
        let old = testing::issue_between(
            dir.path(),
            "n",
            &["localhost"],
            -300 * testing::DAY_S,
            9 * testing::DAY_S,
        );
        let (cert, key) = old.write(dir.path(), "n").unwrap();
        let renewed = renew(dir.path(), &cert, &key, None).unwrap();
        assert_eq!(renewed.now.ends, renewed.ca.ends);
    }

    #[test]
    fn wrong_names_are_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        create_ca(dir.path(), "prod").unwrap();
        for san in ["", "https://a.example", "a.example:7470", "a b", "0.0.0.0", "::", "*", "a..b"] {
            let error = issue(dir.path(), "n", &[san]).unwrap_err();
            assert!(error.to_string().contains("without scheme and port"), "{san:?}: {error}");
        }
        for name in ["", "../x", ".x", "a/b", "a b", &"x".repeat(65)] {
            assert!(
                matches!(issue(dir.path(), name, &["localhost"]), Err(PkiError::BadName { .. })),
                "{name:?}"
            );
        }
        assert!(matches!(issue(dir.path(), "n", &[] as &[&str]), Err(PkiError::SanCount { .. })));
        create_ca(&dir.path().join("long"), &"x".repeat(MAX_NAME_BYTES)).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        create_ca(dir.path(), "prod").unwrap();
        let key = dir.path().join(CA_KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let error = issue(dir.path(), "n", &["localhost"]).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }
}
