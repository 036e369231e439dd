//! Reads the body of an HTTP answer, up to the limit of what is kept. Called by the sender and by token requests.

use bytes::BytesMut;

/// How much of a body is read and kept: enough for any error page and any token.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Reads until the body's end or [`MAX_BODY`]. When the future is dropped, `body` keeps what has arrived.
pub(super) async fn fill(body: &mut BytesMut, response: &mut reqwest::Response) -> Result<(), reqwest::Error> {
    while body.len() < MAX_BODY {
        let Some(chunk) = response.chunk().await? else { break };
        let room = MAX_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(())
}
