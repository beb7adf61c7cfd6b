//! Images that are fetched, when and only when the file says so.

use integration::Function;

use crate::shared;

#[tokio::test]
async fn an_image_that_cannot_be_fetched_is_said_in_the_engines_words() {
    let Some(engine) = shared() else { return };
    // Nobody listens there, and an engine trusts registries on loopback without encryption.
    let text = "[container]\nimage = \"127.0.0.1:1/no/such-image:1\"\npull = \"missing\"";
    let daemon = engine.daemon(Function::verbatim("unreachable", text)).await;
    let problem = daemon.get("/invoke/unreachable/").await.problem(502, "start_failed").to_string();
    assert!(problem.contains("127.0.0.1:1/no/such-image:1") && problem.contains("could not be pulled"), "{problem}");
    assert!(problem.contains("connection refused"), "{problem}");
}
