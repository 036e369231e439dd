//! Lets an endpoint recall an attempt that has not begun to send, for example because its webhook was changed or its
//! delivery cancelled. Both run on the endpoint's thread.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::Notify;

/// Shared by an attempt and its endpoint. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::engine) struct Recall(Rc<Shared>);

#[derive(Default)]
struct Shared {
    stage: Cell<Stage>,
    recalled: Notify,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// The attempt waits: nothing of its request was sent.
    #[default]
    Waiting,
    Sending,
    /// Recalled while it was sending: it goes on, but if nothing was sent after all, it ends.
    LastTry,
    Recalled,
}

/// The endpoint's side.
impl Recall {
    /// Takes the attempt back, if it still waits. Answers whether it did; then nothing is sent.
    pub(super) fn recall(&self) -> bool {
        match self.0.stage.get() {
            Stage::Waiting => {
                self.0.stage.set(Stage::Recalled);
                self.0.recalled.notify_one();
                true
            }
            Stage::Sending => {
                self.0.stage.set(Stage::LastTry);
                false
            }
            Stage::LastTry | Stage::Recalled => false,
        }
    }

    pub(super) fn is_recalled(&self) -> bool {
        self.0.stage.get() == Stage::Recalled
    }

    pub(super) fn is_of(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// The attempt's side.
impl Recall {
    /// Waits for what the request needs; `None` if the attempt is taken back first.
    pub(super) async fn unless_recalled<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = wait => Some(done),
            () = self.0.recalled.notified() => None,
        }
    }

    /// From here on the attempt cannot be taken back. Answers whether it may send.
    pub(super) fn begin(&self) -> bool {
        let may_send = !self.is_recalled();
        if may_send {
            self.0.stage.set(Stage::Sending);
        }
        may_send
    }

    /// Nothing was sent after all. Answers whether the attempt waits again; otherwise it was recalled meanwhile.
    pub(super) fn wait_again(&self) -> bool {
        let waits = self.0.stage.get() == Stage::Sending;
        if waits {
            self.0.stage.set(Stage::Waiting);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_attempt_is_taken_back_until_it_sends() {
        let recall = Recall::default();
        assert!(recall.recall() && !recall.recall());
        assert_eq!(recall.unless_recalled(std::future::pending::<()>()).await, None);
        assert!(!recall.begin() && recall.is_recalled());
    }

    #[tokio::test]
    async fn a_request_that_is_sent_is_not_taken_back_unless_it_waits_again() {
        let recall = Recall::default();
        assert_eq!(recall.unless_recalled(async { 7 }).await, Some(7));
        assert!(recall.begin() && recall.wait_again());
        assert!(recall.recall() && !recall.begin());
    }

    #[test]
    fn an_attempt_that_was_to_be_recalled_while_it_sent_does_not_wait_again() {
        let recall = Recall::default();
        assert!(recall.begin() && !recall.recall() && !recall.wait_again());
        assert!(!recall.is_recalled(), "its end comes as that of an attempt that was not sent");
    }
}
