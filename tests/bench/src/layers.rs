//! Where the time of one stop goes: the same request, let through one layer after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use hyper::StatusCode;
use tagout_control_plane::store::StoreKind;

use crate::cluster::Cluster;
use crate::deployment::{COMMANDS, FORM, form};
use crate::figures::{Table, ms, percentile};
use crate::http::{Answer, Connection};

#[derive(clap::Args, Clone)]
pub struct LayersArgs {
    /// Nodes
    #[arg(long, default_value_t = 1)]
    pub nodes: usize,
    /// Requests of each kind, one after the other
    #[arg(long, default_value_t = 1500)]
    pub requests: usize,
}

pub async fn run(folder: &Path, args: &LayersArgs) -> anyhow::Result<Table> {
    let title = format!("one stop by layers, {} node(s), 1 writer", args.nodes);
    let mut table = Table::new(&title, &["request", "store", "p50 ms", "p99 ms", "CPU µs"]);
    for (name, store) in [("sled", StoreKind::Sled), ("segment", StoreKind::Segment)] {
        let mut cluster = Cluster::tagout(folder, &format!("layers {name}"), args.nodes, store, None).await?;
        let leader = cluster.leader().await?;
        let connection = cluster.connect(leader).await?;
        let mut forged = cluster.stop()?;
        forged.document = forged.document.replace("4.1", "4.2");
        let forged = form(&forged);
        let repeated = cluster.writes(1)?.remove(0);
        cluster.write(&connection, repeated.clone()).await?;
        let mut stops = cluster.writes(args.requests + args.requests / 10)?;
        let mut next = move || stops.pop().unwrap_or_default();

        let mut measure =
            async |what: &str, ask: &mut dyn FnMut() -> (Bytes, StatusCode)| -> anyhow::Result<()> {
                let mut samples = Vec::new();
                let mut cpu = Duration::ZERO;
                for n in 0..args.requests + args.requests / 10 {
                    if n == args.requests / 10 {
                        samples.clear();
                        cpu = cluster.cpu()?;
                    }
                    let (body, wanted) = ask();
                    let began = Instant::now();
                    let answer = send(&connection, body).await?;
                    samples.push(began.elapsed());
                    if answer.status != wanted {
                        bail!("{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
                    }
                }
                let cpu = cluster.cpu()? - cpu;
                table.row([
                    what.into(),
                    name.into(),
                    format!("{:.3}", ms(percentile(&mut samples, 50.0))),
                    format!("{:.3}", ms(percentile(&mut samples, 99.0))),
                    format!("{:.0}", cpu.as_secs_f64() * 1e6 / args.requests as f64),
                ]);
                Ok(())
            };
        measure("GET /healthz: HTTP and TLS", &mut || (Bytes::new(), StatusCode::OK)).await?;
        measure("a forged stop: and the form, and one verification", &mut || {
            (forged.clone(), StatusCode::UNAUTHORIZED)
        })
        .await?;
        measure("a stop again: and its receipt", &mut || (repeated.clone(), StatusCode::OK)).await?;
        measure("a stop", &mut || (next(), StatusCode::CREATED)).await?;
    }
    Ok(table)
}

async fn send(connection: &Connection, body: Bytes) -> anyhow::Result<Answer> {
    if body.is_empty() {
        connection.get("/healthz").await
    } else {
        connection.post(COMMANDS, &FORM, body).await
    }
}
