//! Tickets. Neither system drops a double by itself: each ticket bears the event's id, by which it can be found.

use serde_json::{Value, json};

use super::Issue;
use crate::notify::event::{Event, Severity, shortened};

/// Jira's limit of a summary.
const JIRA_SUMMARY_MAX_CHARS: usize = 255;
/// The lengths of ServiceNow's columns.
const SERVICENOW_SHORT_DESCRIPTION_MAX_CHARS: usize = 160;
const SERVICENOW_DESCRIPTION_MAX_CHARS: usize = 4000;

/// For `POST /rest/api/3/issue`; the description is in the Atlassian Document Format.
pub fn jira(event: &Event, url: Option<&str>, issue: Option<&Issue>) -> Value {
    let text = |text: &str| json!({"type": "text", "text": text});
    let strong = |text: &str| json!({"type": "text", "text": text, "marks": [{"type": "strong"}]});
    let paragraph = |content: Vec<Value>| json!({"type": "paragraph", "content": content});
    // A text node of ADF is never empty.
    let facts = event.facts().into_iter().filter(|(_, value)| !value.is_empty());
    let mut content: Vec<Value> =
        facts.map(|(name, value)| paragraph(vec![strong(&format!("{name}: ")), text(&value)])).collect();
    if let Some(next) = &event.next {
        content.push(paragraph(vec![strong("Next:")]));
        content.push(json!({"type": "codeBlock", "attrs": {"language": "bash"}, "content": [text(next)]}));
    }
    if let Some(url) = url {
        let link = json!({"type": "text", "text": "Open the proposal", "marks": [{"type": "link", "attrs": {"href": url}}]});
        content.push(paragraph(vec![link]));
    }
    // A summary is one line.
    let summary = event.line().replace('\n', " ");
    let mut fields = json!({
        "summary": shortened(&summary, JIRA_SUMMARY_MAX_CHARS),
        "description": {"type": "doc", "version": 1, "content": content},
        "labels": ["tagout", event.id],
    });
    if let Some(Issue { project, issue_type }) = issue {
        fields["project"] = json!({"key": project});
        fields["issuetype"] = json!({"name": issue_type});
    }
    json!({"fields": fields})
}

/// For `POST /api/now/table/incident`.
pub fn servicenow(event: &Event, url: Option<&str>) -> Value {
    let mut lines: Vec<String> =
        event.facts().into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    lines.extend(event.next.as_ref().map(|next| format!("Next: {next}")));
    lines.extend(url.map(|url| format!("The proposal: {url}")));
    let grade = match event.severity {
        Severity::Critical | Severity::High => "1",
        Severity::Medium => "2",
        Severity::Low | Severity::Informational => "3",
    };
    let short = event.line().replace('\n', " ");
    json!({
        "short_description": shortened(&short, SERVICENOW_SHORT_DESCRIPTION_MAX_CHARS),
        "description": shortened(&lines.join("\n"), SERVICENOW_DESCRIPTION_MAX_CHARS),
        "urgency": grade,
        "impact": grade,
        "correlation_id": event.id,
        "correlation_display": "Tagout",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::{proposal, stop};

    #[test]
    fn an_issue_of_jira_is_this() {
        let event = stop();
        let issue = Issue { project: "SEC".into(), issue_type: "Incident".into() };
        let fact = |name: &str, value: &str| {
            json!({"type": "paragraph", "content": [
                {"type": "text", "text": format!("{name}: "), "marks": [{"type": "strong"}]}, {"type": "text", "text": value}
            ]})
        };
        let expected = json!({"fields": {
            "summary": "stop support/agent_22 (halt) by alice",
            "description": {"type": "doc", "version": 1, "content": [
                fact("Scope", "support/agent_22"), fact("By", "alice"), fact("Reason", "policy <violation> & 4.1"),
                fact("Case", "INC-4711"), fact("Time", "2025-11-24T16:00:00.000Z"), fact("Entry", "12"),
                fact("Deployment", "moltbook"), fact("Id", &event.id),
                {"type": "paragraph", "content": [{"type": "text", "text": "Next:", "marks": [{"type": "strong"}]}]},
                {"type": "codeBlock", "attrs": {"language": "bash"}, "content": [
                    {"type": "text", "text": "tagout resume support/agent_22 --reason WHY"}
                ]},
            ]},
            "labels": ["tagout", event.id],
            "project": {"key": "SEC"},
            "issuetype": {"name": "Incident"},
        }});
        assert_eq!(jira(&event, None, Some(&issue)), expected);
        let linked = jira(&proposal(), Some("https://console.example/proposals/1"), Some(&issue)).to_string();
        assert!(linked.contains("\"href\":\"https://console.example/proposals/1\""), "{linked}");
    }

    #[test]
    fn an_incident_of_servicenow_is_this() {
        let event = stop();
        let expected = json!({
            "short_description": "stop support/agent_22 (halt) by alice",
            "description": format!(
                "Scope: support/agent_22\nBy: alice\nReason: policy <violation> & 4.1\nCase: INC-4711\n\
                 Time: 2025-11-24T16:00:00.000Z\nEntry: 12\nDeployment: moltbook\nId: {}\n\
                 Next: tagout resume support/agent_22 --reason WHY", event.id
            ),
            "urgency": "1", "impact": "1",
            "correlation_id": event.id, "correlation_display": "Tagout",
        });
        assert_eq!(servicenow(&event, None), expected);
    }
}
