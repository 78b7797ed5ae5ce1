//! The body of an answer, which may be made to end in the middle.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// All of it at once; or half of it, and then the connection is closed.
#[derive(Debug)]
pub struct Page {
    rest: Option<Bytes>,
    length: u64,
    cut: bool,
    /// The half was handed over.
    flushed: bool,
}

/// Ends a connection in the middle of an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut short, as the fault wants")]
pub struct Cut;

impl Page {
    pub fn new(text: String) -> Self {
        Self { length: text.len() as u64, rest: Some(Bytes::from(text)), cut: false, flushed: false }
    }

    /// Half of it is never sent.
    pub fn cut(&mut self) {
        self.cut = true;
        if let Some(rest) = &mut self.rest {
            rest.truncate(rest.len() / 2);
        }
    }
}

impl Body for Page {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.rest.take() {
            Some(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            _ if !self.cut => Poll::Ready(None),
            // An error at once would take the half that is still in the buffer with it.
            _ if !self.flushed => {
                self.flushed = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(Cut))),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.cut && self.rest.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
