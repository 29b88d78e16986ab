//! Guards in the stacks of HTTP clients: every request that passes is a call of its own, from before it is sent until the
//! last byte of its answer was read or dropped. A stop refuses it, or cuts it where it stands, also in the middle of a body.
//!
//! Put it inside of what retries, so that each attempt asks. What it says is final: `reqwest-retry` repeats no error of a
//! middleware, a policy of tower's can tell by [`Stopped::find`], which finds it in whatever a framework has made of it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};

use crate::call::{Call, Watched};
use crate::denied::{Denied, Stopped};
use crate::guard::{EssentialGuard, Guard};

/// What such stacks pass on as an error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A [`Stopped`] on its way through other people's errors. Transparent ones show the cause of what they hold, and not that
/// itself: so it is a cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Carried(#[source] pub(crate) Stopped);

/// What stands before the calls of a stack.
pub trait Gate: Clone + Send + Sync + 'static + sealed::Sealed {
    /// Begins a call.
    ///
    /// # Errors
    /// [`Denied`] if it may not begin.
    fn begin(&self) -> Result<Call, Denied>;
}

impl Gate for Guard {
    fn begin(&self) -> Result<Call, Denied> {
        self.call()
    }
}

impl Gate for EssentialGuard {
    fn begin(&self) -> Result<Call, Denied> {
        self.call()
    }
}

/// An answer whose body can be put under a guard.
pub trait Answer: sealed::Sealed {
    type Guarded;

    /// The call goes on until the body ends or is dropped.
    fn under(self, call: Call) -> Self::Guarded;
}

impl<B: Body> Answer for http::Response<B> {
    type Guarded = http::Response<GuardedBody<B>>;

    fn under(self, call: Call) -> Self::Guarded {
        self.map(|body| GuardedBody::new(body, call))
    }
}

impl Answer for reqwest::Response {
    type Guarded = Self;

    fn under(self, call: Call) -> Self {
        // It loses its address on the way, and only a builder takes one.
        let address = reqwest::ResponseBuilderExt::url(http::Response::builder(), self.url().clone());
        let (mut parts, body) = http::Response::<reqwest::Body>::from(self).into_parts();
        if let Ok(named) = address.body(()) {
            parts.extensions.extend(named.into_parts().0.extensions);
        }
        let body = reqwest::Body::wrap(GuardedBody::new(body, call));
        http::Response::from_parts(parts, body).into()
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Guard {}
    impl Sealed for crate::EssentialGuard {}
    impl<B> Sealed for http::Response<B> {}
    impl Sealed for reqwest::Response {}
}

/// The body of an answer under a guard: what comes, and one error with a [`Stopped::Cut`] as the last if it was cut.
pub struct GuardedBody<B>(State<B>);

enum State<B> {
    // In the order of dropping: the call is over only when its body is gone.
    Open { body: Pin<Box<B>>, call: Watched },
    Ended,
}

impl<B> GuardedBody<B> {
    fn new(body: B, call: Call) -> Self {
        Self(State::Open { body: Box::pin(body), call: call.watched() })
    }
}

impl<B: Body> Body for GuardedBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let State::Open { body, call } = &mut self.0 else { return Poll::Ready(None) };
        if let Poll::Ready(stopped) = call.poll_cut(context) {
            self.0 = State::Ended;
            return Poll::Ready(Some(Err(Carried(stopped).into())));
        }
        let frame = ready!(body.as_mut().poll_frame(context));
        if frame.is_none() {
            self.0 = State::Ended;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Open { body, .. } => body.is_end_stream(),
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Open { body, .. } => body.size_hint(),
            State::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> std::fmt::Debug for GuardedBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = match &self.0 {
            State::Open { call, .. } => Some(call.call()),
            State::Ended => None,
        };
        f.debug_tuple("GuardedBody").field(&call).finish()
    }
}

/// `reqwest_middleware::ClientBuilder::new(client).with(guard)`.
#[cfg(feature = "reqwest-middleware")]
mod reqwest_stack {
    use async_trait::async_trait;
    use http::Extensions;
    use reqwest::{Request, Response};
    use reqwest_middleware::{Error, Middleware, Next, Result};

    use super::{Answer, Carried, Gate};
    use crate::denied::Stopped;
    use crate::guard::{EssentialGuard, Guard};

    async fn send(
        gate: &impl Gate,
        request: Request,
        with: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let refused = |stopped: Stopped| Error::middleware(Carried(stopped));
        let call = gate.begin().map_err(|denied| refused(denied.into()))?;
        let answer = call.run(next.run(request, with)).await.map_err(refused)??;
        Ok(answer.under(call))
    }

    #[async_trait]
    impl Middleware for Guard {
        async fn handle(&self, request: Request, with: &mut Extensions, next: Next<'_>) -> Result<Response> {
            send(self, request, with, next).await
        }
    }

    #[async_trait]
    impl Middleware for EssentialGuard {
        async fn handle(&self, request: Request, with: &mut Extensions, next: Next<'_>) -> Result<Response> {
            send(self, request, with, next).await
        }
    }
}

/// `tower::ServiceBuilder::new().layer(guard)`.
#[cfg(feature = "tower")]
mod tower_stack {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tower_layer::Layer;
    use tower_service::Service;

    use super::{Answer, BoxError, Carried, Gate};
    use crate::guard::{EssentialGuard, Guard};

    /// A service whose calls are guarded: its requests may be of any kind, its answers are those of `http` or `reqwest`.
    #[derive(Clone, Debug)]
    pub struct GuardedService<S, G = Guard> {
        service: S,
        gate: G,
    }

    impl<S> Layer<S> for Guard {
        type Service = GuardedService<S>;

        fn layer(&self, service: S) -> GuardedService<S> {
            GuardedService { service, gate: self.clone() }
        }
    }

    impl<S> Layer<S> for EssentialGuard {
        type Service = GuardedService<S, Self>;

        fn layer(&self, service: S) -> GuardedService<S, Self> {
            GuardedService { service, gate: self.clone() }
        }
    }

    impl<S, G, R> Service<R> for GuardedService<S, G>
    where
        S: Service<R>,
        S::Response: Answer,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        G: Gate,
    {
        type Response = <S::Response as Answer>::Guarded;
        type Error = BoxError;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

        fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.service.poll_ready(context).map_err(Into::into)
        }

        fn call(&mut self, request: R) -> Self::Future {
            // The call is dropped last.
            let begun = self.gate.begin().map(|call| (self.service.call(request), call));
            Box::pin(async move {
                let (sent, call) = begun.map_err(|denied| Carried(denied.into()))?;
                let answer = call.run(sent).await.map_err(Carried)?.map_err(Into::into)?;
                Ok(answer.under(call))
            })
        }
    }
}

#[cfg(feature = "tower")]
pub use tower_stack::GuardedService;
