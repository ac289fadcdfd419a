//! Bodies on their way through: frames pass as they are, and whoever waits at the end learns how it ended.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::live::Live;
use crate::observer::SocketObserver;
use crate::record::{End, ErrorKind};
use crate::relay::Relay;
use crate::upstream::Upstream;

/// What the upstream gets.
pub(crate) struct RequestBody(Source);

enum Source {
    Nothing,
    Upload(Upload),
    /// What was kept of another's, in order.
    Kept(std::vec::IntoIter<Bytes>),
}

/// A body that has bytes.
struct Upload {
    /// Gone only when it was given back.
    incoming: Option<Incoming>,
    live: Rc<RefCell<Live>>,
    /// Whether anything of it was taken.
    taken: bool,
    /// Where it is kept as well.
    copying: Option<Box<Copying>>,
}

/// A body is kept as it passes, for those who want it when it is whole.
pub(crate) struct Copying {
    kept: Vec<Bytes>,
    /// Bytes that may still be kept.
    room: usize,
    /// Gets the whole body, or nothing where it was longer or broke off.
    then: Option<Then>,
}

type Then = Box<dyn FnOnce(Option<Vec<Bytes>>)>;

impl Copying {
    pub(crate) fn new(room: usize, then: Then) -> Box<Self> {
        Box::new(Self { kept: Vec::new(), room, then: Some(then) })
    }

    /// Whether there is room for it.
    fn keep(&mut self, data: &Bytes) -> bool {
        let left = self.room.checked_sub(data.len());
        self.room = left.unwrap_or_default();
        self.kept.push(data.clone());
        left.is_some()
    }

    fn finish(mut self) {
        if let Some(then) = self.then.take() {
            then(Some(std::mem::take(&mut self.kept)));
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if let Some(then) = self.then.take() {
            then(None);
        }
    }
}

impl RequestBody {
    pub(crate) const EMPTY: Self = Self(Source::Nothing);

    pub(crate) fn new(incoming: Incoming, live: &Rc<RefCell<Live>>) -> Self {
        if incoming.is_end_stream() {
            return Self::EMPTY;
        }
        let live = Rc::clone(live);
        Self(Source::Upload(Upload { incoming: Some(incoming), live, taken: false, copying: None }))
    }

    /// One that was kept.
    pub(crate) fn kept(body: Vec<Bytes>) -> Self {
        Self(Source::Kept(body.into_iter()))
    }

    /// Keeps it as it passes.
    pub(crate) fn copy(&mut self, copying: Box<Copying>) {
        match &mut self.0 {
            Source::Upload(upload) => upload.copying = Some(copying),
            Source::Nothing | Source::Kept(_) => copying.finish(),
        }
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(cx);
        self.taken |= polled.is_ready();
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.live.borrow_mut().head.request_body_bytes += u64::try_from(data.len()).unwrap_or(0);
        }
        if self.copying.is_some() {
            self.keep(&polled);
        }
        polled
    }

    #[cold]
    fn keep(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) {
        let Some(mut copying) = self.copying.take() else { return };
        let whole = match polled {
            Poll::Pending => false,
            Poll::Ready(Some(Err(_))) => return,
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => {
                if frame.data_ref().is_some_and(|data| !copying.keep(data)) {
                    return;
                }
                // hyper does not ask again behind the last byte that was promised, nor behind trailers.
                frame.is_trailers() || self.incoming.as_ref().is_none_or(Body::is_end_stream)
            }
        };
        if whole {
            copying.finish();
        } else {
            self.copying = Some(copying);
        }
    }
}

impl Drop for Upload {
    /// A body of which nothing was taken can go over another connection.
    fn drop(&mut self) {
        if let (false, Some(incoming)) = (self.taken, self.incoming.take()) {
            self.live.borrow_mut().resend.give_back(incoming);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Source::Nothing => Poll::Ready(None),
            Source::Upload(upload) => upload.poll_frame(cx),
            Source::Kept(kept) => Poll::Ready(kept.next().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Nothing => true,
            Source::Upload(upload) => upload.incoming.as_ref().is_none_or(Body::is_end_stream),
            Source::Kept(kept) => kept.as_slice().is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Upload(upload) => upload.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint),
            Source::Kept(kept) => {
                let bytes: usize = kept.as_slice().iter().map(Bytes::len).sum();
                SizeHint::with_exact(u64::try_from(bytes).unwrap_or(0))
            }
        }
    }
}

/// What the client gets.
pub(crate) enum ResponseBody<O: SocketObserver> {
    /// One of our own, or none.
    Own(Option<Bytes>),
    /// The server's.
    Relayed(Box<Relayed<O>>),
}

/// A server's body, and the connection that it comes over.
pub(crate) struct Relayed<O: SocketObserver> {
    pub(crate) incoming: Incoming,
    pub(crate) upstream: Option<Box<Upstream<O>>>,
    pub(crate) client: Rc<ClientConn<O>>,
    pub(crate) live: Rc<RefCell<Live>>,
    pub(crate) idle_max: usize,
    /// How long the pool keeps the connection.
    pub(crate) idle: std::time::Duration,
    /// It broke off, and hyper is told at the next poll.
    pub(crate) broken: Option<Cut>,
}

/// Why a body broke off. hyper ends the client's connection with it, which is the only way to say so in HTTP/1.
#[derive(Debug, thiserror::Error)]
#[error("the response's body broke off: {0}")]
pub(crate) struct Cut(&'static str);

impl<O: SocketObserver> Body for ResponseBody<O> {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(0))),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

impl<O: SocketObserver> Relayed<O> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.broken.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if self.client.exchange_expired() {
            return self.cut(cx, End::TimedOut, ErrorKind::ResponseTimeout, "time is up");
        }
        let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending()
            && let Some(upstream) = &mut self.upstream
        {
            // The frame comes from the connection, which nobody else drives.
            let alive = upstream.drive(cx);
            polled = Pin::new(&mut self.incoming).poll_frame(cx);
            if !alive {
                self.settle(None);
            }
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.live.borrow_mut().head.response_body_bytes += u64::try_from(data.len()).unwrap_or(0);
                }
                // Behind trailers there is nothing, and hyper does not ask again.
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.complete(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.complete(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.cut(cx, End::UpstreamCut, ErrorKind::UpstreamClosed, "the server closed"),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The body is whole: the connection can serve the next request.
    pub(crate) fn complete(&mut self, cx: &mut Context<'_>) {
        self.settle(Some(cx));
        self.live.borrow_mut().body_done = true;
    }

    /// Takes the exchange's stamps and gives the connection back, where it lives and `cx` says that it may.
    fn settle(&mut self, cx: Option<&mut Context<'_>>) {
        let Some(mut upstream) = self.upstream.take() else { return };
        // The codec notices the end of the message, and is ready for the next.
        let alive = cx.is_some_and(|cx| upstream.drive(cx));
        let mut ended = MonoNs::UNKNOWN;
        {
            let mut live = self.live.borrow_mut();
            if let Some(attempt) = live.attempts.last_mut() {
                upstream.seen.settle(attempt);
                ended = attempt.ended;
            }
        }
        upstream.seen.release();
        if alive && upstream.is_ready() {
            let idle_since = ended.known().unwrap_or_else(MonoNs::now);
            self.client.worker.pool.put(upstream, self.idle_max, after(idle_since, self.idle));
        }
    }

    /// Breaks the response off. hyper throws away what it has not flushed when a body fails, so it gets one turn to
    /// write what came before.
    fn cut(
        &mut self,
        cx: &Context<'_>,
        end: End,
        error: ErrorKind,
        why: &'static str,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.settle(None);
        let mut live = self.live.borrow_mut();
        live.fail(end, error);
        if let Some(attempt) = live.attempts.last_mut() {
            attempt.error = error;
        }
        self.broken = Some(Cut(why));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<O: SocketObserver> Drop for Relayed<O> {
    /// hyper drops a body as soon as it has all that the length promised, and also when the client is gone.
    fn drop(&mut self) {
        let whole = self.incoming.is_end_stream();
        if self.upstream.is_some() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            self.settle(whole.then_some(&mut cx));
        }
        let mut live = self.live.borrow_mut();
        if whole {
            live.body_done = true;
        } else if !live.body_done {
            live.relay(Relay::Idle, MonoNs::now());
        }
    }
}
