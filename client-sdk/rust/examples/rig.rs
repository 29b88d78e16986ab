//! rig under a guard: a stop cuts the answer in the middle of a word. It is run as `async_openai.rs` says.

use std::env::var;
use std::io::Write;

use futures_util::StreamExt;
use rig_core::completion::CompletionRequest;
use rig_core::providers::openai::OpenAIConfig;
use rig_core::streaming::{Item, StreamEvent};
use tagout::Stopped;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Only where reqwest is built without a TLS provider, as the SDK builds it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = tagout::Client::builder()
        .node(var("TAGOUT_NODE").unwrap_or("https://127.0.0.1:7470".into()))
        .ca_file(".tagout/ca.pem")
        .genesis_file(".tagout/genesis.json")
        .pinned(var("TAGOUT_DEPLOYMENT")?)
        .build()?;
    let guard = client.guard("demo/rig")?;
    let openai = OpenAIConfig::new("demo/rig").with_base_url(var("OPENAI_BASE_URL")?).client();
    let model = openai.chat("demo");

    let _permit = guard.wait_enabled().await?;
    loop {
        let answer = async {
            let request = CompletionRequest::new("Think aloud about the next ticket.");
            let mut events = guard.stream(model.stream(request)?).map_err(Stopped::from)?;
            while let Some(event) = events.next().await {
                if let Item::Event(StreamEvent::Text { text, .. }) = event?? {
                    print!("{text}");
                    std::io::stdout().flush()?;
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        };
        let Err(error) = answer.await else { continue };
        println!("\n{error}");
        match Stopped::find(&*error) {
            Some(Stopped::Denied(_)) => drop(guard.wait_enabled().await?), // an answer, and no failure
            Some(Stopped::Cut(_)) | None => {}
        }
    }
}
