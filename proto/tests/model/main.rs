//! A model of a whole deployment, small enough that everything that can happen in it is tried: stops, restricts and the
//! like are signed, pushed and committed, leases are asked for and answered, guards and nodes fail, the service is
//! restored from a backup, and all of it in every order. The safety properties are checked in every state.
//!
//! **What is in it.** One service, as the set of documents that its quorum has committed (`service.rs`); one or two
//! guards (`guard.rs`); people who sign documents (`documents.rs`); and time, in ticks. The verdicts come from the real
//! rule, `tagout_proto::rule::verdict`. The rest says in the model's words what the nodes and the SDK do in code.
//!
//! **What can go wrong in it.** A message needs no network to be late, lost, doubled or out of order: a signed lock may
//! reach a guard at any time after it was signed, or never, whether or not it was committed; a request is read by the
//! service at any time, or never; an answer arrives at any time after that, again and again, until a newer one was
//! accepted or the guard has given up. So minorities, followers behind the others, pending stops, files dropped on a host
//! and nodes that crash are all there, as a node that cannot read from the quorum is one that does not answer. A guard that
//! is suspended is one that does nothing while time passes. Guards restart without memory. In one world old answers are
//! replayed, for other nonces and to other guards; in another the whole service lies, with live keys and with every
//! document that could exist, signed or not.
//!
//! **How it ends.** Times are ages that stop growing once they decide nothing any more, so a world has finitely many states
//! although time in it does not end, and all of them are visited. What bounds a world is its catalogue of documents (each
//! is signed at most once), its agents, `ttl`, `grace`, and the requests that a guard has under way: see `World`.
//!
//! **What is left out.** Bytes and signatures: a document is signed or it is not, and only what verifies it may use it.
//! Elections and replication, which are openraft's to get right, and other tests'. The order of the log: locks are a set,
//! and a start is committed after its release. The wall clocks, but for a leader that dates a drain ahead. Authority
//! changes, suspensions and revocations, limits and throttles. Nodes of before a restore that still answer: whoever
//! restores must make sure that there are none (`Mutation::OldServiceAnswers` shows why).
//!
//! **Why to believe it.** Each world lists sights that it must reach, such as an agent that runs again after a restore; it
//! has a least number of states; and for each property some deliberate mistakes (`mutation.rs`) must break it. Every
//! run prints its figures and the counterexamples. `TAGOUT_LONG=1` explores larger worlds.

mod documents;
mod guard;
mod mutation;
mod properties;
mod scenarios;
mod service;
mod world;
