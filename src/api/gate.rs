//! The steps that each request passes on its way to its handler, in this order: a session's cookie becomes a key, a
//! delivery that comes back is refused, a cost is opened for the answer, rate limits note what is left of them, and the
//! request is forwarded if another node has to answer. On the way back, a long answer is compressed. One layer takes all
//! steps, because each layer clones and boxes the whole service for each request.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::cost::Cost;
use super::problem::Problem;
use super::{compression, forward, hops, session};

pub(super) async fn pass(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if let Err(problem) = check(&app, &mut request) {
        return problem.into_response();
    }
    let (cost, rates) = (Cost::begin(&mut request), app.rates().begin(&mut request));
    let mut response = if compression::is_possible(&request) {
        compression::answer(request, |request| forward::answer(&app, request, next.clone())).await
    } else {
        forward::answer(&app, request, next).await
    };
    if let Some(rates) = rates {
        rates.show(response.headers_mut());
    }
    cost.hold(response)
}

fn check(app: &App, request: &mut Request) -> Result<(), Problem> {
    session::admit(request)?;
    hops::refuse_loops(app, request)
}
