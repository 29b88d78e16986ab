//! Tagout's guard: a circuit breaker that asks for consent before every model call, and fails closed.
//!
//! A [`Client`] keeps a short signed *lease* per agent from the consent service. A [`Guard`] stands before one agent's
//! calls and is one word of memory: until when calls may begin. People stop an agent with one signed command; connected
//! guards hear of it in milliseconds, and one that hears nothing denies when its lease runs out, whatever the network,
//! the service or this process does.
//!
//! ```no_run
//! use std::time::Duration;
//! use tagout::{Client, Stopped};
//!
//! # async fn complete(prompt: &str) -> String { prompt.into() }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .node("https://node-1.example:7470")
//!     .node("https://node-2.example:7470")
//!     .ca_file("ca.pem")
//!     .genesis_file("genesis.json")
//!     // From the people who made the deployment, not from where genesis.json came from.
//!     .pinned("demo:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
//!     .token_file("agent.token") // from `tagout agent enroll`
//!     .build()?; // waits for nobody
//!
//! let guard = client.guard("demo/agent_2")?;
//! guard.ready(Duration::from_secs(10)).await?;
//!
//! loop {
//!     // Refused if the agent is stopped; dropped where it stands if it is stopped meanwhile.
//!     match guard.run(complete("the next thing to do")).await {
//!         Ok(answer) => println!("{answer}"),
//!         Err(Stopped::Cut(denied)) => println!("cut: {denied}"),
//!         Err(Stopped::Denied(denied)) => {
//!             println!("{denied}"); // says who, why, and what lifts it
//!             let _permit = guard.wait_enabled().await?;
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! # What it promises
//!
//! - **It fails closed.** No lease, a lapsed one, bytes that do not verify, a forked child, a client whose thread has
//!   died: [`Denied`], with a typed [`Reason`]. There is no default answer, and nothing on disk ever says "allow".
//! - **A stop is bounded.** The permission dates from the moment the request's nonce was made and ends `ttl` later, by a
//!   clock that counts suspended time. Calls under [`Guard::run`], [`Guard::stream`] and [`Guard::call`] are cut by a halt
//!   or an isolation, at the end of a drain, and when a lapse outlasts its grace. A pause lets them finish.
//! - **Essential calls go on** during a drain and under a restriction: [`Guard::essential`] guards the calls of one class
//!   that people named in the consent. A class that nobody named is denied, always.
//! - **Any path stops.** A signed stop is one by whatever way it comes: from any node, from a file in the
//!   [folder of stops](Builder::stop_folder), or brought by the program itself ([`Client::deliver`]). And the program can
//!   stop its own agent without anybody's signature, in all its instances: [`Guard::trip`].
//! - **Limits are kept**: no minute has more calls, nor more tokens that the code tells of ([`Guard::acquire`],
//!   [`Call::spend`]), than this instance's share of what people allow. The refusal says when to try again.
//! - **A stop stays.** A lock that this process ever saw denies until its signed release, and after a halt or drain its
//!   signed start, were verified here. No node can leave one out, and making the guard anew does not
//!   help; nor does starting the process again where it has a [state folder](Builder::state_folder).
//! - **It guards what it was enrolled for.** The nodes give leases to a process for the scope of its token and all below:
//!   [`Reason::NotEnrolled`] for every other agent, whose guards deny while those of this client's own agents go on.
//! - **Consent is verified here**, from the pinned genesis on and by the newest authority: see [`trusted`]. A service that was taken over whole can
//!   stop agents; it cannot let one run that people did not consent to.
//!
//! # What it asks of you
//!
//! - Ask before *every* call, with [`Guard::check`] (about the time of reading the clock), [`Guard::run`] or
//!   [`Guard::stream`]; and never retry on [`Denied`] or [`Stopped`]: they are answers.
//! - A cut drops the future or stream when its task is next polled, which the cut itself brings about. One that blocks its
//!   thread, or that nobody polls, cannot be dropped; its stop is then not confirmed, and people see that. For such code
//!   [`Guard::call`] gives a token, and [`Call::socket`] has the socket shut that it blocks on.
//! - It is cooperative: code that the agent itself may rewrite can leave it out, unless the keys to the model are elsewhere.
//! - After `fork`, make a new client in the child.
//!
//! # Features
//!
//! - `reqwest-middleware`: a [`Guard`] is a middleware of `reqwest_middleware`'s, and guards each request of a client.
//! - `tower`: it is a layer, for services whose answers are those of `http` or `reqwest`.

mod call;
mod calls;
mod cell;
mod client;
mod clock;
mod confirm;
mod counters;
mod deliver;
mod denied;
mod driver;
mod guard;
#[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
pub mod http;
pub mod limits;
mod nodes;
mod pace;
mod push;
mod sockets;
mod sse;
mod state_folder;
mod stop_folder;
mod throttle;
/// For the nodes and the command, which demand the same of a certificate.
#[doc(hidden)]
pub mod tls;
mod trip;
pub mod trusted;

pub use call::{Call, GuardedStream, Running};
pub use client::{BuildError, Builder, Client, GuardError};
pub use clock::Now;
pub use counters::Counters;
pub use deliver::{DeliverError, Delivered};
pub use denied::{Denied, Gone, Lock, Obstacle, Reason, Stopped, Unproven};
pub use guard::{Change, Changes, EssentialGuard, Guard, Permit, State};
pub use nodes::NodesError;
pub use sockets::{GuardedSocket, SocketError};
pub use state_folder::StateError;
pub use stop_folder::{Found, StopFile, StopFileError, StopFolder};
pub use tagout_proto as proto;
pub use trip::TripError;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
