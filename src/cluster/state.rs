//! The cluster as this node knows it: the last survey of nodes and shards, and whether the node has converged. The member
//! keeps this state, and the engine shows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::host::Host;
use crate::store::leases::Survey;

/// How long a start waits for the first survey, which takes milliseconds as a rule, so that the engine is at work when
/// the start returns.
const FIRST_SURVEY: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterState {
    survey: Arc<ArcSwapOption<(Survey, Instant)>>,
    /// Whether the node has acquired what it should own and what was free.
    converged: watch::Sender<bool>,
    host: Host,
}

impl ClusterState {
    pub(crate) fn new(is_alone: bool, host: Host) -> Self {
        Self { survey: Arc::default(), converged: watch::Sender::new(is_alone), host }
    }

    /// Whether this node has made a survey and acquired the shards that it should own and that were free.
    pub(crate) fn is_converged(&self) -> bool {
        *self.converged.borrow()
    }

    /// Waits until the node has converged, for [`FIRST_SURVEY`] at most.
    pub(crate) async fn wait_converged(&self) {
        let mut converged = self.converged.subscribe();
        if self.host.timeout(FIRST_SURVEY, converged.wait_for(|converged| *converged)).await.is_none() {
            tracing::warn!(
                "first survey of the cluster not completed; the node starts without its shards and keeps trying"
            );
        }
    }

    /// The last survey, and how long ago it was made.
    pub(crate) fn last_survey(&self) -> Option<(Survey, Duration)> {
        let now = self.host.steady();
        self.survey.load().as_ref().map(|made| (made.0.clone(), now.saturating_duration_since(made.1)))
    }

    /// This survey was made just now.
    pub(super) fn set_survey(&self, survey: Survey) {
        self.survey.store(Some(Arc::new((survey, self.host.steady()))));
    }

    pub(super) fn set_converged(&self, is_converged: bool) {
        self.converged.send_replace(is_converged);
    }
}
