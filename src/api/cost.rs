//! Charges callers for answers until they have taken them: a turn at the readers of the database while the answer is
//! made, and the memory that the answer holds until its last byte is sent. Each tenant, and all admins together, has at
//! most half of the readers and a quarter of the memory. So a caller that asks for the most expensive answers and takes
//! none of them keeps no other caller waiting. [`super::auth`] charges, because it knows the caller; [`Cost::hold`]
//! gives back.

mod held;
mod turns;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::Extensions;
use axum::http::request::Parts;
use axum::response::Response;
use parking_lot::Mutex;

use self::held::HeldBody;
use self::turns::{Turn, Turns};
use super::App;
use super::budget::{Budget, Sender, Share};
use super::problem::Problem;
use crate::domain::id::TenantNum;
use crate::store::page::PAGE_BYTES;

/// Memory of an answer that is not made yet: the rows of a page, and the text that is made of them.
const ESTIMATE: usize = 2 * PAGE_BYTES as usize;

/// Tenant number of answers to admins; no tenant has it.
const ADMINS: TenantNum = TenantNum(0);

/// The memory that answers may take, and the turns to make one.
pub(super) struct Answers {
    memory: Budget,
    readers: Turns,
}

impl Answers {
    /// `largest` is the size of the largest event that can be read back, in bytes; `readers` is the number of
    /// connections that the API reads with.
    pub(super) fn new(largest: usize, readers: usize) -> Self {
        Self { memory: Budget::of_answers(largest), readers: Turns::new(readers) }
    }
}

/// The cost of one request. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Cost(Arc<Mutex<Option<Taken>>>);

struct Taken {
    share: Share,
    turn: Option<Turn>,
}

impl Cost {
    /// Attaches a cost to the extensions of a request.
    pub(super) fn begin(request: &mut Request) -> Self {
        let cost = Self::default();
        request.extensions_mut().insert(cost.clone());
        cost
    }

    /// Charges a request to its caller; no tenant is an admin. A request that only reads waits for its turn, and takes
    /// the memory that its answer is likely to hold. A request that changes something takes no turn: it reads a few
    /// rows by their keys, and then waits for the journal, for a receiver or for another node, which would keep a
    /// reader from its tenant's other requests. It is refused only when its own caller leaves too much untaken, never
    /// for what others do.
    ///
    /// # Errors
    ///
    /// `503` when there is no room, or no turn in time.
    pub(super) async fn charge(parts: &Parts, app: &App, tenant: Option<TenantNum>) -> Result<(), Problem> {
        let Some(cost) = parts.extensions.get::<Self>().filter(|cost| cost.0.lock().is_none()) else { return Ok(()) };
        let is_safe = parts.method.is_safe();
        let turn = if is_safe { Some(app.answers().readers.take(tenant).await?) } else { None };
        cost.take(app, tenant, is_safe, turn)
    }

    /// Takes a turn, and the memory of an answer, for a request whose method is that of a change, and that only reads.
    pub(super) async fn take_read_turn(&self, app: &App, tenant: TenantNum) -> Result<(), Problem> {
        let turn = app.answers().readers.take(Some(tenant)).await?;
        if let Some(taken) = self.0.lock().as_mut() {
            taken.share.grow(ESTIMATE)?;
            taken.turn = Some(turn);
        }
        Ok(())
    }

    /// Charges a request that another node answers with its own readers.
    pub(super) fn charge_forwarded(request: &Request, app: &App, tenant: TenantNum) -> Result<(), Problem> {
        let Some(cost) = Self::of(request.extensions()) else { return Ok(()) };
        cost.take(app, Some(tenant), request.method().is_safe(), None)
    }

    fn take(&self, app: &App, tenant: Option<TenantNum>, is_safe: bool, turn: Option<Turn>) -> Result<(), Problem> {
        let mut share = app.answers().memory.open(Some(Sender(tenant.unwrap_or(ADMINS))));
        if is_safe {
            share.grow(ESTIMATE)?;
        } else {
            share.require_room()?;
        }
        *self.0.lock() = Some(Taken { share, turn });
        Ok(())
    }

    fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Takes memory beyond the estimate, before more is read.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), Problem> {
        self.0.lock().as_mut().map_or(Ok(()), |taken| taken.share.grow(bytes))
    }

    /// Ends the turn early: the rest of the answer needs no database of this node.
    pub(super) fn end_turn(&self) {
        if let Some(taken) = self.0.lock().as_mut() {
            taken.turn = None;
        }
    }

    /// Gives back the turn, since the answer is made, and holds its memory until the last byte is sent.
    pub(super) fn hold(&self, response: Response) -> Response {
        match self.0.lock().take() {
            Some(taken) => response.map(|body| HeldBody::of(body, taken.share)),
            None => response,
        }
    }
}
