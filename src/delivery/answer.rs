//! Reads the body of an answer, whoever gave it, as far as it is worth reading.

use bytes::BytesMut;

/// What is kept of an answer's body. Enough for any error page and any token; more is not read.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Reads until the body's end or [`MAX_BODY`]. What has come so far stays in `body`, also when this is given up.
pub(super) async fn fill(body: &mut BytesMut, response: &mut reqwest::Response) -> Result<(), reqwest::Error> {
    while body.len() < MAX_BODY {
        let Some(chunk) = response.chunk().await? else { break };
        let room = MAX_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(())
}
