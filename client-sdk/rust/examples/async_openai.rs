//! async-openai under a guard that stands in its HTTP stack: a stop cuts the answer in the middle of a word.
//!
//! With `tagout dev` running, whose model server's address it prints:
//!
//! ```sh
//! export TAGOUT_DEPLOYMENT=$(sed -n 's/^deployment = "\(.*\)"/\1/p' .tagout/profile.toml)
//! tagout agent enroll demo/async-openai --reason "an example" --out agent.token && export TAGOUT_TOKEN_FILE=agent.token
//! OPENAI_BASE_URL=http://127.0.0.1:…/v1 cargo run --release -p tagout-frameworks --bin with-async-openai
//! tagout stop demo/async-openai --reason "that is enough"        # in a second terminal
//! ```

use std::env::var;
use std::io::Write;

use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::{ReqwestService, retry::OpenAIRetryLayer};
use async_openai::types::chat::{ChatCompletionRequestUserMessage, CreateChatCompletionRequestArgs};
use futures_util::StreamExt;
use tagout::Stopped;
use tower::ServiceBuilder;

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
    let guard = client.guard("demo/async-openai")?;

    // Below the retries: each attempt is a call of its own, and a refusal is not tried again.
    let http = ServiceBuilder::new()
        .layer(OpenAIRetryLayer::default())
        .map_err(OpenAIError::from)
        .layer(guard.clone())
        .service(ReqwestService::new(reqwest::Client::new()));
    let config = OpenAIConfig::new().with_api_base(var("OPENAI_BASE_URL")?).with_api_key("demo/async-openai");
    let openai = async_openai::Client::with_config(config).with_http_service(http);

    let _permit = guard.wait_enabled().await?;
    loop {
        let question = ChatCompletionRequestUserMessage::from("Think aloud about the next ticket.");
        let request =
            CreateChatCompletionRequestArgs::default().model("demo").messages([question.into()]).build()?;
        let answer = async {
            let mut chunks = openai.chat().create_stream(request).await?;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                let word = chunk.choices.first().and_then(|choice| choice.delta.content.as_deref());
                print!("{}", word.unwrap_or_default());
                std::io::stdout().flush().ok();
            }
            Ok::<_, OpenAIError>(())
        };
        let Err(error) = answer.await else { continue };
        // async-openai keeps only a text of what ends a stream; the guard knows more.
        match guard.check() {
            Err(denied) => println!("\n{denied}"),
            Ok(_permit) => println!("\n{error}"),
        }
        match Stopped::find(&error) {
            Some(Stopped::Denied(_)) => drop(guard.wait_enabled().await?), // an answer, and no failure
            Some(Stopped::Cut(_)) | None => {}
        }
    }
}
