//! The first words on a connection between nodes: which versions of the protocol each end speaks, and proof of who it is.
//!
//! ```text
//! "TGPR" | oldest version u16 | newest version u16 | length u32 | the words, in postcard
//! ```
//!
//! The connecting end speaks first. The newest version that both speak is used; where there is none, both ends say so
//! and hang up. What stands before the words never changes, so that any two versions can find that out.
//!
//! Each end signs, with its node key, a value that TLS derived for this connection alone (RFC 5705, RFC 8446 section 7.5):
//! nobody in the middle can carry the signature into another connection.

use std::io;

use ed25519_dalek::{Signature, Signer, VerifyingKey};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Me, decode, encode};

const MAGIC: &[u8; 4] = b"TGPR";
/// The oldest version that this build speaks; the newest is in [`Me`], since tests of upgrades pretend a newer one.
const OLDEST: u16 = 1;
pub const NEWEST: u16 = 1;
const WORDS_MAX_BYTES: usize = 4096;
const EXPORTER: &[u8] = b"EXPORTER-tagout-peer";
/// No signed note or document begins like this, so a signature of one is never one of the other.
const SIGNED: &[u8] = b"tagout-peer-hello\0";

#[derive(Serialize, Deserialize)]
struct Words {
    deployment: String,
    id: u64,
    /// Whom the connecting end expects; the answering end repeats its caller's id.
    to: u64,
    signature: Vec<u8>,
}

/// Which end speaks.
#[derive(Clone, Copy)]
pub(super) enum End {
    Connecting,
    Answering,
}

impl End {
    fn context(self) -> &'static [u8] {
        match self {
            Self::Connecting => b"connecting",
            Self::Answering => b"answering",
        }
    }
}

/// The value that both ends of one TLS connection derive, and nobody else.
pub(super) type Binding = [u8; 32];

/// What `end` signs on this connection.
pub(super) fn binding<D>(session: &rustls::ConnectionCommon<D>, end: End) -> io::Result<Binding> {
    session.export_keying_material([0; 32], EXPORTER, Some(end.context())).map_err(io::Error::other)
}

fn signed(binding: &Binding, deployment: &str, id: u64, to: u64) -> Vec<u8> {
    [SIGNED, binding, &id.to_le_bytes(), &to.to_le_bytes(), deployment.as_bytes()].concat()
}

pub(super) async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    me: &Me,
    to: u64,
    binding: &Binding,
) -> io::Result<()> {
    let signature = me.key.sign(&signed(binding, &me.deployment, me.id, to)).to_bytes().to_vec();
    let words = encode(&Words { deployment: me.deployment.clone(), id: me.id, to, signature });
    let mut bytes = MAGIC.to_vec();
    bytes.extend(OLDEST.to_le_bytes());
    bytes.extend(me.newest.to_le_bytes());
    bytes.extend((words.len() as u32).to_le_bytes());
    bytes.extend(words);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads the other end's words; returns who it is, proven by the key that `key_of` gives for its id.
pub(super) async fn hear(
    stream: &mut (impl AsyncRead + Unpin),
    me: &Me,
    binding: &Binding,
    key_of: impl FnOnce(u64) -> Option<[u8; 32]>,
) -> io::Result<u64> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return wrong("it does not speak as a node of Tagout does: is this the peer port of a node?".into());
    }
    let (oldest, newest) = (stream.read_u16_le().await?, stream.read_u16_le().await?);
    if oldest > me.newest || newest < OLDEST {
        let what = format!(
            "it speaks versions {oldest} to {newest} of the protocol between nodes, this node {OLDEST} to {}: \
             upgrade the older one, one version after the other",
            me.newest
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let length = stream.read_u32_le().await? as usize;
    if length > WORDS_MAX_BYTES {
        return wrong(format!("its first words have {length} bytes"));
    }
    let mut words = vec![0; length];
    stream.read_exact(&mut words).await?;
    let Words { deployment, id, to, signature } = decode(&words)?;
    if deployment != me.deployment {
        return wrong(format!("it is of deployment {deployment}, this node of {}", me.deployment));
    }
    if to != me.id {
        return wrong(format!("it is looking for node {to}, and this is node {}", me.id));
    }
    let Some(key) = key_of(id) else {
        return wrong(format!("it says that it is node {id}, which no authority that this node knows lists"));
    };
    let message = signed(binding, &deployment, id, to);
    let proven = VerifyingKey::from_bytes(&key).ok().zip(Signature::from_slice(&signature).ok());
    match proven {
        Some((key, signature)) if key.verify_strict(&message, &signature).is_ok() => Ok(id),
        _ => wrong(format!("it says that it is node {id} and does not prove it with that node's key")),
    }
}
