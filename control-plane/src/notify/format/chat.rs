//! Messages for chat. Reasons and refused attempts hold what anybody wrote: it is shown as plain text, so that nobody mentions
//! a channel or makes a link by it.

use serde_json::{Value, json};

use crate::notify::event::{Event, shortened};

/// docs.slack.dev, reference of blocks: a header's text, a section's text, and the fields of one section.
const SLACK_HEADER_MAX_CHARS: usize = 150;
const SLACK_TEXT_MAX_CHARS: usize = 3000;
const SLACK_FIELD_MAX_CHARS: usize = 2000;
const SLACK_FIELDS_MAX: usize = 10;

/// For an incoming webhook of Slack.
pub fn slack(event: &Event, url: Option<&str>) -> Value {
    let plain =
        |text: &str, max: usize| json!({"type": "plain_text", "text": shortened(text, max), "emoji": false});
    let facts = event.facts();
    let fields = |facts: &[(&str, String)]| -> Vec<Value> {
        let field =
            |(name, value): &(&str, String)| plain(&format!("{name}\n{value}"), SLACK_FIELD_MAX_CHARS);
        facts.iter().map(field).collect()
    };
    let mut blocks = vec![json!({"type": "header", "text": plain(&event.title, SLACK_HEADER_MAX_CHARS)})];
    for facts in facts.chunks(SLACK_FIELDS_MAX) {
        blocks.push(json!({"type": "section", "fields": fields(facts)}));
    }
    if let Some(next) = &event.next {
        blocks
            .push(json!({"type": "section", "text": plain(&format!("Next: {next}"), SLACK_TEXT_MAX_CHARS)}));
    }
    if let Some(url) = url {
        let text = format!("<{url}|Open the proposal>");
        blocks.push(json!({"type": "section", "text": {"type": "mrkdwn", "text": text}}));
    }
    // Shown in notifications, where it is read as mrkdwn.
    json!({"text": escaped(&event.line()), "blocks": blocks})
}

/// What Slack wants escaped in mrkdwn.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// For a Teams channel's workflow that posts a card when a webhook request comes: an Adaptive Card in a message.
pub fn teams(event: &Event, url: Option<&str>) -> Value {
    // Runs of text know no Markdown, unlike blocks and facts.
    let run = |text: &str| json!({"type": "TextRun", "text": text});
    let bold = |text: &str| json!({"type": "TextRun", "text": text, "weight": "Bolder"});
    let line = |inlines: Vec<Value>| json!({"type": "RichTextBlock", "inlines": inlines});
    let mut body = vec![line(vec![json!({
        "type": "TextRun", "text": event.title, "weight": "Bolder", "size": "Medium"
    })])];
    body.extend(event.facts().iter().map(|(name, value)| line(vec![bold(&format!("{name}: ")), run(value)])));
    if let Some(next) = &event.next {
        let code = json!({"type": "TextRun", "text": next, "fontType": "Monospace"});
        body.push(line(vec![bold("Next: "), code]));
    }
    let actions: Vec<Value> = (url.into_iter())
        .map(|url| json!({"type": "Action.OpenUrl", "title": "Open the proposal", "url": url}))
        .collect();
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": body,
                "actions": actions,
            }
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::{proposal, stop};

    #[test]
    fn a_message_of_slack_is_this() {
        let (event, url) = (proposal(), "https://console.example/proposals/1");
        let plain = |text: &str| json!({"type": "plain_text", "text": text, "emoji": false});
        let short = event.digest.unwrap().short();
        let expected = json!({
            "text": "proposal opened: release support/agent_22 by alice",
            "blocks": [
                {"type": "header", "text": plain("proposal opened: release support/agent_22")},
                {"type": "section", "fields": [
                    plain("Scope\nsupport/agent_22"), plain("By\nalice"), plain("Reason\nreviewed"),
                    plain("Time\n2025-11-24T16:00:00.000Z"), plain("Entry\n12"), plain("Deployment\nmoltbook"),
                    plain(&format!("Id\nevt_12_{short}")),
                ]},
                {"type": "section", "text": plain(&format!("Next: tagout proposals show {short}"))},
                {"type": "section", "text": {"type": "mrkdwn", "text": format!("<{url}|Open the proposal>")}},
            ]
        });
        assert_eq!(slack(&event, Some(url)), expected);
    }

    #[test]
    fn nobody_writes_markup_or_more_than_slack_takes() {
        let mut event = stop();
        assert!(
            slack(&event, None)["blocks"][1].to_string().contains("policy <violation> & 4.1"),
            "as plain text"
        );
        event.title = format!("<!channel> {}", "x".repeat(400));
        let body = slack(&event, None);
        assert_eq!(
            body["blocks"][0]["text"]["text"].as_str().unwrap().chars().count(),
            SLACK_HEADER_MAX_CHARS
        );
        assert!(body["text"].as_str().unwrap().starts_with("&lt;!channel&gt;"));
    }

    #[test]
    fn a_card_of_teams_is_this() {
        let (event, url) = (proposal(), "https://console.example/proposals/1");
        let short = event.digest.unwrap().short();
        let fact = |name: &str, value: &str| {
            json!({"type": "RichTextBlock", "inlines": [
                {"type": "TextRun", "text": format!("{name}: "), "weight": "Bolder"}, {"type": "TextRun", "text": value}
            ]})
        };
        let expected = json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
                    "body": [
                        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "weight": "Bolder", "size": "Medium",
                            "text": "proposal opened: release support/agent_22"}]},
                        fact("Scope", "support/agent_22"), fact("By", "alice"), fact("Reason", "reviewed"),
                        fact("Time", "2025-11-24T16:00:00.000Z"), fact("Entry", "12"), fact("Deployment", "moltbook"),
                        fact("Id", &format!("evt_12_{short}")),
                        {"type": "RichTextBlock", "inlines": [
                            {"type": "TextRun", "text": "Next: ", "weight": "Bolder"},
                            {"type": "TextRun", "text": format!("tagout proposals show {short}"), "fontType": "Monospace"}
                        ]},
                    ],
                    "actions": [{"type": "Action.OpenUrl", "title": "Open the proposal", "url": url}]
                }
            }]
        });
        assert_eq!(teams(&event, Some(url)), expected);
    }
}
