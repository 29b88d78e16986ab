//! Redis as a peer: its process, and two commands of its protocol (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;

const READY: Duration = Duration::from_secs(30);

pub struct Redis {
    pub address: SocketAddr,
    pub process: Process,
    publisher: TcpStream,
}

impl Redis {
    /// Without any file: it keeps nothing.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = address.port().to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let arguments = arguments.into_iter().chain(["--maxclients", "60000", "--tcp-backlog", "4096"]);
        let arguments: Vec<String> = arguments.map(str::to_owned).collect();
        let process = Process::spawn("redis", folder, &PathBuf::from("redis-server"), &arguments)?;
        let began = Instant::now();
        let publisher = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > READY => {
                    return Err(error).context("redis-server does not answer");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        publisher.set_nodelay(true)?;
        Ok(Self { address, process, publisher })
    }

    pub async fn publish(&mut self, channel: &str, message: &[u8]) -> anyhow::Result<()> {
        self.publisher.write_all(&command(&[b"PUBLISH", channel.as_bytes(), message])).await?;
        let mut answer = [0; 32];
        let length = self.publisher.read(&mut answer).await?;
        if !answer[..length].starts_with(b":") {
            bail!("redis refused: {}", String::from_utf8_lossy(&answer[..length]));
        }
        Ok(())
    }
}

pub struct Subscriber {
    stream: TcpStream,
    /// One message, as it arrives.
    message: Vec<u8>,
}

impl Subscriber {
    /// Returns once Redis has said that it subscribes. Every message will have `bytes` bytes.
    pub async fn open(address: SocketAddr, channel: &str, bytes: usize) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&command(&[b"SUBSCRIBE", channel.as_bytes()])).await?;
        let mut said = command(&[b"subscribe", channel.as_bytes()]);
        // The last of three is how many channels there are now.
        said[1] = b'3';
        said.extend_from_slice(b":1\r\n");
        let expected = said.clone();
        stream.read_exact(&mut said).await?;
        if said != expected {
            bail!("redis did not subscribe: {}", String::from_utf8_lossy(&said));
        }
        let message = command(&[b"message", channel.as_bytes(), &vec![b'x'; bytes]]);
        Ok(Self { stream, message })
    }

    pub async fn next(&mut self) -> anyhow::Result<()> {
        self.stream.read_exact(&mut self.message).await?;
        Ok(())
    }
}

/// An array of bulk strings.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
