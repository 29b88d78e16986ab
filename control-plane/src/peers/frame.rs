//! The frames of a connection between nodes.
//!
//! ```text
//! request   length u32 | call u64 | kind u8 | body
//! answer    length u32 | call u64 | 0 done or 1 refused | body, or the refusal in words
//! ```
//!
//! Numbers are little-endian; the length counts what follows it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Above the largest batch of entries that consensus sends at once, and the largest piece of a snapshot.
pub const FRAME_MAX_BYTES: usize = 32 << 20;
const HEAD_BYTES: usize = 9;

pub(super) struct Frame {
    pub(super) call: u64,
    /// The kind of a request, the outcome of an answer.
    pub(super) tag: u8,
    pub(super) body: Vec<u8>,
}

pub(super) const DONE: u8 = 0;
pub(super) const REFUSED: u8 = 1;

pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let length = stream.read_u32_le().await? as usize;
    if !(HEAD_BYTES..=FRAME_MAX_BYTES).contains(&length) {
        let what = format!("a frame of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let (call, tag) = (stream.read_u64_le().await?, stream.read_u8().await?);
    let mut body = vec![0; length - HEAD_BYTES];
    stream.read_exact(&mut body).await?;
    Ok(Frame { call, tag, body })
}

/// Writes it into the stream's buffer; the caller flushes.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let length = HEAD_BYTES + frame.body.len();
    if length > FRAME_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {length} bytes")));
    }
    stream.write_u32_le(length as u32).await?;
    stream.write_u64_le(frame.call).await?;
    stream.write_u8(frame.tag).await?;
    stream.write_all(&frame.body).await
}
