//! A guard's check beside those of a circuit breaker, a limiter, feature flags and policies. They are measured in one process
//! of a package of its own, `check/`, so that nothing else here depends on the peers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use tagout_control_plane::store::StoreKind;
use tagout_proto::rule::Terms;

use crate::cluster::Cluster;
use crate::deployment;
use crate::figures::{Table, median, quantile};
use crate::measured::{Measured, Role};

#[derive(clap::Args, Clone)]
pub struct CheckArgs {
    /// Turns of some 0.2 ms that each side has alone, and as many beside itself
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub rounds: usize,
    /// Single calls of each side with cold caches, and as many beside itself
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub cold_rounds: usize,
}

const CHECKED: &str = "checked";
const AGENT: &str = "checked/agent_1";
const CLASS: &str = "safety";

/// The aims: of the clock read, and of each peer by as many times.
const CLOCK_AIM: f64 = 1.1;
const PEER_AIM: f64 = 3.0;

pub async fn run(folder: &Path, args: &CheckArgs) -> anyhow::Result<Table> {
    let cluster = Cluster::tagout(folder, CHECKED, 1, StoreKind::Sled, None).await?;
    let terms = Terms { essential: BTreeSet::from([CLASS.to_owned()]), ..Terms::default() };
    cluster.deployment()?.grant(&cluster.connect(0).await?, CHECKED, terms).await?;
    Ok(table(args, &measured(folder, &cluster, args)?))
}

/// What the other process says. It has the machine to itself, but for the node that gives its guard leases.
fn measured(folder: &Path, cluster: &Cluster, args: &CheckArgs) -> anyhow::Result<Vec<Measured>> {
    let profile = deployment::profile(&cluster.deployment()?.profile())?;
    let program = std::env::current_exe()?.with_file_name("tagout-bench-check");
    let output = Command::new(&program)
        .args(["--agent", AGENT, "--class", CLASS, "--pinned", &profile.deployment])
        .arg("--genesis")
        .arg(profile.genesis)
        .arg("--ca")
        .arg(profile.ca)
        .args(profile.nodes.iter().flat_map(|node| ["--node", node]))
        .args(["--rounds", &args.rounds.to_string(), "--cold-rounds", &args.cold_rounds.to_string()])
        .arg("--dir")
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}; tests/bench/run builds it", program.display()))?;
    if !output.status.success() {
        bail!("the sides were not measured ({}); why is above", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// How a call is made, and where its figures are.
struct Way {
    name: &'static str,
    cold: bool,
    figures: fn(&Measured) -> &[f64],
}

const WAYS: [Way; 4] = [
    Way { name: "warm", cold: false, figures: |measured| &measured.warm },
    Way { name: "warm, 2 threads", cold: false, figures: |measured| &measured.warm_shared },
    Way { name: "cold", cold: true, figures: |measured| &measured.cold },
    Way { name: "cold, 2 threads", cold: true, figures: |measured| &measured.cold_shared },
];

fn table(args: &CheckArgs, measured: &[Measured]) -> Table {
    let columns: Vec<_> = WAYS.iter().map(|way| Column::of(way, measured)).collect();
    let heads: Vec<_> = [""].into_iter().chain(columns.iter().flat_map(|c| [c.way, "× check"])).collect();
    let mut table = Table::new("check(), ns a call: median (best to 90th percentile of the rounds)", &heads);
    for (n, side) in measured.iter().enumerate() {
        let cells = columns.iter().flat_map(|column| [column.cells[n].clone(), column.ratio(n)]);
        table.row([side.side.clone()].into_iter().chain(cells));
    }
    for side in measured {
        table.note(format!("{}: {}.", side.side, side.decides));
    }
    table.note(
        "Warm: the loop is in the figures. Cold: one call after 64 MiB of other memory were read, timed by the processor's \
         counter; what that takes for nothing, in the median, is taken off the others. 2 threads: both ask the same object \
         at once; ns of one of them.",
    );
    let kept = measured.iter().map(|m| m.warm_shared.len() / 2).min().unwrap_or(0);
    table.note(format!(
        "{} rounds warm, of which at least {kept} had both threads side by side, and {} cold.",
        args.rounds, args.cold_rounds
    ));
    for column in &columns {
        table.note(column.verdict(measured));
    }
    table
}

/// One way of calling: what each side takes.
struct Column {
    way: &'static str,
    cells: Vec<String>,
    medians: Vec<f64>,
    /// Ours.
    check: f64,
}

impl Column {
    fn of(way: &Way, measured: &[Measured]) -> Self {
        let mut column = Self { way: way.name, cells: Vec::new(), medians: Vec::new(), check: f64::NAN };
        // The floor is the first.
        let mut floor = 0.0;
        for side in measured {
            let mut ns: Vec<_> = (way.figures)(side).iter().map(|ns| ns - floor).collect();
            let (median, best, most) = (median(&mut ns), quantile(&mut ns, 0.0), quantile(&mut ns, 0.9));
            if way.cold && side.role == Role::Floor {
                floor = median;
            }
            let digits = usize::from(!way.cold);
            column.cells.push(format!("{median:.digits$} ({best:.digits$} to {most:.digits$})"));
            column.medians.push(median);
            if side.role == Role::Check {
                column.check = median;
            }
        }
        column
    }

    fn ratio(&self, n: usize) -> String {
        format!("{:.2}", self.medians[n] / self.check)
    }

    /// Whether the aims are met.
    fn verdict(&self, measured: &[Measured]) -> String {
        let sides = || measured.iter().zip(&self.medians).map(|(side, ns)| (side, ns / self.check));
        let clock =
            sides().find(|(side, _)| side.role == Role::Clock).map_or(f64::NAN, |(_, part)| 1.0 / part);
        let missed: Vec<_> = sides()
            .filter(|(side, times)| side.role == Role::Peer && *times < PEER_AIM)
            .map(|(side, times)| format!("{} ({times:.2})", side.side))
            .collect();
        format!(
            "{}: check is {clock:.2} × the clock read (aim ≤ {CLOCK_AIM}: {}); peers ≥ {PEER_AIM} × check: {}.",
            self.way,
            if clock <= CLOCK_AIM { "met" } else { "missed" },
            if missed.is_empty() { "met".to_owned() } else { format!("missed by {}", missed.join(", ")) }
        )
    }
}
