//! What is sent, as each kind of receiver reads it. Built from the vendors' documentation; README says what was not tried
//! against their products.

mod chat;
mod cloudevents;
mod ocsf;
mod standard;
mod ticket;

use serde::Deserialize;
use serde_json::Value;

use super::event::Event;

pub use self::ocsf::ocsf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// standardwebhooks.com: type, timestamp, data.
    Standard,
    /// CloudEvents 1.0, JSON, structured.
    Cloudevents,
    Slack,
    Teams,
    Jira,
    ServiceNow,
    Ocsf,
}

/// How the tickets of a Jira receiver are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub project: String,
    pub issue_type: String,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Cloudevents => "cloudevents",
            Self::Slack => "slack",
            Self::Teams => "teams",
            Self::Jira => "jira",
            Self::ServiceNow => "servicenow",
            Self::Ocsf => "ocsf",
        }
    }

    /// Chat and tickets.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Slack | Self::Teams | Self::Jira | Self::ServiceNow)
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Cloudevents => "application/cloudevents+json; charset=UTF-8",
            _ => "application/json",
        }
    }

    /// `url` leads to the proposal that the event is about; `issue` is Jira's.
    pub fn body(self, event: &Event, url: Option<&str>, issue: Option<&Issue>) -> Value {
        match self {
            Self::Standard => standard::standard(event, url),
            Self::Cloudevents => cloudevents::cloudevents(event, url),
            Self::Slack => chat::slack(event, url),
            Self::Teams => chat::teams(event, url),
            Self::Jira => ticket::jira(event, url, issue),
            Self::ServiceNow => ticket::servicenow(event, url),
            Self::Ocsf => ocsf(event),
        }
    }
}
