//! A drill: somebody who may stop a scope says, signed, what a stop of it reached and whether it was brought back. It is
//! evidence for those who ask later and changes nothing for any agent.

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::command::{DOCUMENT_VERSION, Deployment};
use crate::digest::Digest;
use crate::limits::{COMMAND_MAX_BYTES, DRILL_INSTANCES_MAX, INSTANCE_MAX_BYTES};
use crate::scope::Scope;
use crate::strict::{self, DocumentError, Fields};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    pub deployment: Deployment,
    pub issued_at_ms: u64,
    /// What was stopped: the lock's own scope.
    pub scope: Scope,
    /// Its document's digest is the lock's id.
    pub stop: Place,
    /// The entry that says what the stop reached. The figures are taken from it.
    pub outcome: u64,
    /// Absent while the scope was not brought back.
    pub release: Option<Place>,
    pub start: Option<Place>,
    pub confirmed: u64,
    /// Instances that stayed silent, and that S3 bounds.
    pub bounded: u64,
    /// Absent where nobody confirmed.
    pub slowest_ms: Option<u64>,
    /// The first of them, as the outcome lists them; the counts hold for all.
    pub instances: Vec<Drilled>,
}

/// A document in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub digest: Digest,
    pub index: u64,
}

/// What the stop did in one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drilled {
    pub agent: Scope,
    pub instance: String,
    /// From commit to its confirmation; `None` if it is bounded instead.
    pub after_ms: Option<u64>,
}

impl Drill {
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > COMMAND_MAX_BYTES {
            let (size, limit) = (bytes.len(), COMMAND_MAX_BYTES);
            return Err(DocumentError::TooLarge { what: "a drill", size, limit });
        }
        let mut fields = strict::object(bytes, "the drill")?;
        fields.document_version()?;
        let deployment = fields.deployment()?;
        let issued_at_ms = fields.instant_ms("issued_at")?;
        let mut of = fields.object("drill")?;
        let scope = of.scope("scope")?;
        let stop = place(of.object("stop")?)?;
        let outcome = of.number("outcome", 0..=u64::MAX)?;
        let release = opt_place(&mut of, "release")?;
        let start = opt_place(&mut of, "start")?;
        let (confirmed, bounded) =
            (of.number("confirmed", 0..=u64::MAX)?, of.number("bounded", 0..=u64::MAX)?);
        let slowest_ms = of.opt_number("slowest_ms", 0..=u64::MAX)?;
        let instances = of.objects("instances", DRILL_INSTANCES_MAX)?;
        let instances = instances.into_iter().map(drilled).collect::<Result<_, _>>()?;
        of.finish()?;
        fields.finish()?;
        let drill = Self {
            deployment,
            issued_at_ms,
            scope,
            stop,
            outcome,
            release,
            start,
            confirmed,
            bounded,
            slowest_ms,
            instances,
        };
        drill.check()?;
        Ok(drill)
    }

    /// What no field can say alone: the list is part of what the figures count.
    fn check(&self) -> Result<(), DocumentError> {
        let invalid = |text: String| Err(DocumentError::Invalid(text));
        if let Some(outside) = self.instances.iter().find(|i| !self.scope.covers(&i.agent)) {
            return invalid(format!("the drill of {} lists an instance of {}", self.scope, outside.agent));
        }
        if self.start.is_some() && self.release.is_none() {
            return invalid("the drill names a start and no release".into());
        }
        let listed: Vec<u64> = self.instances.iter().filter_map(|i| i.after_ms).collect();
        let (confirmed, slowest_ms) = (listed.len() as u64, listed.iter().max().copied());
        let bounded = self.instances.len() as u64 - confirmed;
        let whole = (confirmed, bounded) == (self.confirmed, self.bounded);
        if confirmed > self.confirmed
            || bounded > self.bounded
            || slowest_ms > self.slowest_ms
            || self.slowest_ms.is_some() != (self.confirmed > 0)
            || (whole && slowest_ms != self.slowest_ms)
        {
            return invalid(format!(
                "the drill's figures do not fit the instances that it lists: {} confirmed, {} bounded, slowest {} ms; \
                 listed are {confirmed}, {bounded} and {} ms",
                self.confirmed,
                self.bounded,
                shown(self.slowest_ms),
                shown(slowest_ms)
            ));
        }
        Ok(())
    }

    /// The document's text, to be signed.
    pub fn to_document(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            tagout: u64,
            deployment: String,
            issued_at: String,
            drill: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a Scope,
            stop: Place,
            outcome: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            release: Option<Place>,
            #[serde(skip_serializing_if = "Option::is_none")]
            start: Option<Place>,
            confirmed: u64,
            bounded: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            slowest_ms: Option<u64>,
            instances: &'a [Drilled],
        }
        let document = Document {
            tagout: DOCUMENT_VERSION,
            deployment: self.deployment.to_string(),
            issued_at: strict::format_instant_ms(self.issued_at_ms),
            drill: Body {
                scope: &self.scope,
                stop: self.stop,
                outcome: self.outcome,
                release: self.release,
                start: self.start,
                confirmed: self.confirmed,
                bounded: self.bounded,
                slowest_ms: self.slowest_ms,
                instances: &self.instances,
            },
        };
        serde_json::to_string(&document).expect("a drill is plain data")
    }
}

/// Milliseconds that may not be known, in a sentence.
pub(crate) fn shown(ms: Option<u64>) -> String {
    ms.map_or_else(|| "no".into(), |ms| ms.to_string())
}

impl Serialize for Drilled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("agent", &self.agent)?;
        map.serialize_entry("instance", &self.instance)?;
        match self.after_ms {
            Some(after_ms) => map.serialize_entry("after_ms", &after_ms)?,
            None => map.serialize_entry("bounded", &true)?,
        }
        map.end()
    }
}

fn place(mut fields: Fields) -> Result<Place, DocumentError> {
    let place = Place { digest: fields.digest("digest")?, index: fields.number("index", 0..=u64::MAX)? };
    fields.finish()?;
    Ok(place)
}

fn opt_place(fields: &mut Fields, key: &'static str) -> Result<Option<Place>, DocumentError> {
    if fields.has(key) { place(fields.object(key)?).map(Some) } else { fields.unasked(key) }
}

fn drilled(mut fields: Fields) -> Result<Drilled, DocumentError> {
    let agent = fields.scope("agent")?;
    let instance = fields.word("instance", INSTANCE_MAX_BYTES)?;
    let after_ms = fields.opt_number("after_ms", 0..=u64::MAX)?;
    let bounded = fields.mark("bounded")?;
    if after_ms.is_some() == bounded {
        return Err(fields.wrong("bounded", "true where there is no \"after_ms\", and left out otherwise"));
    }
    fields.finish()?;
    Ok(Drilled { agent, instance, after_ms })
}
