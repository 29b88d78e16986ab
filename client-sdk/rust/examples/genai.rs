//! genai under a guard: a stop cuts the answer in the middle of a word. It is run as `async_openai.rs` says.

use std::env::var;
use std::io::Write;

use futures_util::StreamExt;
use genai::adapter::AdapterKind;
use genai::chat::{ChatMessage, ChatRequest, ChatStreamEvent};
use genai::resolver::{AuthData, Endpoint};
use tagout::{Guard, Stopped};

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
    let guard = client.guard("demo/genai")?;
    let endpoint = Endpoint::from_owned(format!("{}/", var("OPENAI_BASE_URL")?));
    let auth = AuthData::from_single("demo/genai");
    let genai = genai::Client::builder()
        .with_adapter_kind(AdapterKind::OpenAI)
        .append_provider_config(AdapterKind::OpenAI, (endpoint, auth))
        .build()?;

    let _permit = guard.wait_enabled().await?;
    loop {
        let Err(error) = answer(&guard, &genai).await else { continue };
        println!("\n{error}");
        match Stopped::find(&*error) {
            Some(Stopped::Denied(_)) => drop(guard.wait_enabled().await?), // an answer, and no failure
            Some(Stopped::Cut(_)) | None => {}
        }
    }
}

/// One answer, as one call from the request to the last word.
async fn answer(guard: &Guard, genai: &genai::Client) -> Result<(), Box<dyn std::error::Error>> {
    let request = ChatRequest::new(vec![ChatMessage::user("Think aloud about the next ticket.")]);
    let call = guard.call().map_err(Stopped::from)?;
    let answer = call.run(genai.exec_chat_stream("demo", request, None)).await??;
    let mut events = call.stream(answer.stream);
    while let Some(event) = events.next().await {
        if let ChatStreamEvent::Chunk(chunk) = event?? {
            print!("{}", chunk.content);
            std::io::stdout().flush()?;
        }
    }
    Ok(())
}
