//! A call under way, in its caller's hands: what `run` and `stream` are made of, and what code takes that is neither.

use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::calls::Registered;
use crate::denied::{Denied, Stopped};
use crate::guard::Guard;
use crate::sockets::{GuardedSocket, SocketError};

/// A call under way: [`Guard::call`] begins it and dropping it ends it.
///
/// A cut cannot drop what it does not hold. So look at [`check`](Self::check) between two steps, await
/// [`cancelled`](Self::cancelled) beside them, or register the socket that the code blocks on; then come to an end and drop
/// this: only then the stop is confirmed, and people see until then that it is not.
///
/// ```no_run
/// # use std::{io::Read, net::TcpStream};
/// # fn ask(guard: &tagout::Guard, mut connection: TcpStream) -> Result<String, Box<dyn std::error::Error>> {
/// let call = guard.call()?;
/// let _cut = call.socket(&connection)?; // shut by the client's own thread
/// let mut answer = String::new();
/// connection.read_to_string(&mut answer)?; // blocks, and ends early if the agent is stopped
/// call.check()?; // a cut looks like the end of the answer
/// # Ok(answer)
/// # }
/// ```
#[must_use = "dropped, the call is over"]
pub struct Call {
    registered: Registered,
    guard: Guard,
}

impl Call {
    /// Of a call that was registered first and checked after: see `calls.rs`.
    pub(crate) fn begun(registered: Registered, guard: Guard) -> Self {
        Self { registered, guard }
    }

    /// Whether the call may go on.
    ///
    /// # Errors
    /// [`Stopped::Cut`] once it was cut.
    pub fn check(&self) -> Result<(), Stopped> {
        let forked = self.guard.forked();
        if forked || self.registered.is_cut() { Err(self.stopped()) } else { Ok(()) }
    }

    /// Resolves when the call is cut, and says why.
    pub async fn cancelled(&self) -> Stopped {
        self.registered.cut().await;
        self.stopped()
    }

    /// A token that is cancelled when the call is cut, for what takes one. To cancel it cancels nothing else.
    pub fn token(&self) -> CancellationToken {
        self.registered.token()
    }

    /// Counts tokens of the call, where people have limited them: best before it is sent, by how many it may take.
    ///
    /// # Errors
    /// [`Denied`] with [`Reason::Throttled`](crate::Reason::Throttled): they are more than is left, and not counted.
    pub fn spend(&self, tokens: u64) -> Result<(), Denied> {
        self.guard.spend(0, tokens)
    }

    /// Runs a part of the call, and drops it where it stands if the call is cut.
    ///
    /// # Errors
    /// [`Stopped::Cut`] if it was dropped.
    pub async fn run<F: Future>(&self, part: F) -> Result<F::Output, Stopped> {
        let mut part = pin!(part);
        tokio::select! {
            biased;
            () = self.registered.cut() => Err(self.stopped()),
            output = &mut part => Ok(output),
        }
    }

    /// The rest of the call is this stream.
    pub fn stream<S: Stream>(self, stream: S) -> GuardedStream<S> {
        GuardedStream(Some(Open { stream: Box::pin(stream), call: self.watched() }))
    }

    /// Has the client's own thread shut `socket`, as shutdown(2) does, when a cut comes: a halt, the end of a drain, a lapse
    /// past its grace. Code that blocks on it comes back with the end of the stream or an error, though nobody polls it.
    ///
    /// The SDK keeps a duplicate of the descriptor and closes only that.
    ///
    /// # Errors
    /// [`SocketError`]; if the call was cut, the socket is shut by then.
    pub fn socket(&self, socket: &impl AsFd) -> Result<GuardedSocket, SocketError> {
        // Nor may a forked child shut what it shares with its parent.
        if self.guard.forked() {
            return Err(self.stopped().into());
        }
        // Registers first and checks after; a cut cancels first and shuts after. None slips through between.
        let guarded = GuardedSocket::register(&self.guard, socket)?;
        if self.registered.is_cut() {
            guarded.shut();
            return Err(self.stopped().into());
        }
        Ok(guarded)
    }

    pub(crate) fn watched(self) -> Watched {
        Watched { cut: Box::pin(self.registered.cut()), call: self }
    }

    fn stopped(&self) -> Stopped {
        Stopped::Cut(self.registered.why().unwrap_or_else(|| self.guard.denied()))
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Call").field(self.guard.agent()).finish()
    }
}

/// A call under way that nothing can cut: [`Guard::running`] begins it and dropping it ends it.
#[must_use = "dropped, the call is over"]
pub struct Running<'a> {
    _registered: Registered,
    /// Keeps the client running.
    _guard: PhantomData<&'a Guard>,
}

impl Running<'_> {
    pub(crate) fn begun(registered: Registered) -> Self {
        Self { _registered: registered, _guard: PhantomData }
    }
}

/// A call whose cut is polled for.
pub(crate) struct Watched {
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    call: Call,
}

impl Watched {
    #[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    pub(crate) fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<Stopped> {
        self.cut.as_mut().poll(context).map(|()| self.call.stopped())
    }
}

/// A stream under a guard: items as they come, and one [`Stopped::Cut`] as the last one if it was cut.
pub struct GuardedStream<S: Stream>(Option<Open<S>>);

struct Open<S> {
    // In the order of dropping: the call is over only when its stream is gone.
    stream: Pin<Box<S>>,
    call: Watched,
}

impl<S: Stream> Stream for GuardedStream<S> {
    type Item = Result<S::Item, Stopped>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        if let Poll::Ready(stopped) = open.call.poll_cut(context) {
            self.0 = None;
            return Poll::Ready(Some(Err(stopped)));
        }
        let item = std::task::ready!(open.stream.as_mut().poll_next(context));
        if item.is_none() {
            self.0 = None;
        }
        Poll::Ready(item.map(Ok))
    }
}
