//! Who asks. A handler that takes a [`Reader`] or an [`Operator`] is for those alone; one that takes a [`Watcher`] is also for
//! agents' guards, and [`Claim`] is what was shown beside a command, which its signatures decide.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::scope::Scope;
use tagout_proto::token::Token;
use tagout_proto::wire::{AccessRole, Tokens};

use super::Api;
use super::credential::bearer;
use super::problem::{Code, Problem};
use crate::access::{API_TOKEN_PREFIX, ApiToken, Identity, Open, Shown};
use crate::clock;
use crate::fair::Source;
use crate::tls::Peer;

/// Somebody who may read, and what of it.
pub struct Reader {
    pub name: String,
    role: AccessRole,
    sight: Sight,
    ends_at_ms: Option<u64>,
}

/// A [`Reader`] who is an operator.
pub struct Operator(pub Reader);

/// Whoever may read the log: everybody, where the access file opens it.
pub struct LogReader;

/// Whoever may read the metrics, likewise.
pub struct MetricsReader;

/// Whoever may see what a guard needs.
pub enum Watcher {
    Reader(Reader),
    /// A process, by the token of its enrolment.
    Agent(Sight),
    /// Where the authority asks for no enrolment, everybody gets leases, and what belongs to them.
    Anybody,
}

/// Scopes of which somebody may see what concerns them; none of them lies below another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight(Vec<Scope>);

impl Sight {
    fn new(scopes: &[Scope]) -> Self {
        let mut least: Vec<Scope> = Vec::new();
        for scope in scopes {
            if !least.iter().any(|other| other.covers(scope)) {
                least.retain(|other| !scope.covers(other));
                least.push(scope.clone());
            }
        }
        Self(least)
    }

    /// What of `asked` is in sight: all of it, or the parts of it that are.
    ///
    /// # Errors
    /// If none is.
    pub fn narrow(&self, asked: &Scope) -> Result<Vec<Scope>, Problem> {
        if self.covers(asked) {
            return Ok(vec![asked.clone()]);
        }
        let parts: Vec<_> = self.0.iter().filter(|scope| asked.covers(scope)).cloned().collect();
        if parts.is_empty() { Err(self.outside(&format!("{asked} is outside of them"))) } else { Ok(parts) }
    }

    /// Whether what is on `scope` concerns somebody in sight: it lies there, or above.
    pub fn touches(&self, scope: &Scope) -> bool {
        self.0.iter().any(|own| own.covers(scope) || scope.covers(own))
    }

    /// Whether all that is on `scope` is in sight.
    pub fn covers(&self, scope: &Scope) -> bool {
        self.0.iter().any(|own| own.covers(scope))
    }

    /// As [`Sight::touches`], for one thing that was asked for.
    pub fn touching(&self, scope: &Scope) -> Result<(), Problem> {
        match self.touches(scope) {
            true => Ok(()),
            false => Err(self.outside("this is outside of them")),
        }
    }

    /// As [`Sight::touching`], for what tells of everybody on `scope`.
    pub fn covering(&self, scope: &Scope) -> Result<(), Problem> {
        match self.covers(scope) {
            true => Ok(()),
            false => Err(self.outside(&format!("this tells of all that is on {scope}"))),
        }
    }

    /// For what tells of the whole fleet.
    pub fn fleet(&self) -> Result<(), Problem> {
        self.covering(&Scope::fleet())
    }

    fn outside(&self, why: &str) -> Problem {
        let own: Vec<_> = self.0.iter().map(Scope::as_str).collect();
        let detail = format!(
            "what you showed is for {} alone, and {why}: ask for less, or show something else",
            own.join(", ")
        );
        Problem::new(Code::OutsideScopes, detail)
    }
}

impl Reader {
    pub fn sight(&self) -> &Sight {
        &self.sight
    }

    /// Waits until they have to show anew who they are: what they showed ends, or another access file is in force.
    pub async fn ends(self, api: Api) {
        let left = match self.ends_at_ms {
            Some(at_ms) => Duration::from_millis(at_ms.saturating_sub(clock::wall_ms())),
            None => Duration::MAX,
        };
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = api.access.changed() => {}
        }
    }
}

impl From<Identity> for Reader {
    fn from(identity: Identity) -> Self {
        let Identity { name, role, scopes, ends_at_ms } = identity;
        Self { name, role, sight: Sight::new(&scopes), ends_at_ms }
    }
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let claim = Claim::of(parts);
        match claim.identify(api).await {
            Ok(identity) => Ok(identity.into()),
            Err(problem) => Err(claim.refused(api, problem)),
        }
    }
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let reader = Reader::from_request_parts(parts, api).await?;
        reader.operates().map_err(|problem| Claim::of(parts).refused(api, problem))?;
        Ok(Self(reader))
    }
}

impl Reader {
    fn operates(&self) -> Result<(), Problem> {
        match self.role {
            AccessRole::Operator => Ok(()),
            AccessRole::Viewer => {
                let detail = format!(
                    "this is for operators, and {} is a viewer: the node's access file says who is what",
                    self.name
                );
                Err(Problem::new(Code::NotPermitted, detail))
            }
        }
    }
}

impl FromRequestParts<Api> for LogReader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        open_or_fleet(parts, api, Open::Log).await.map(|()| Self)
    }
}

impl FromRequestParts<Api> for MetricsReader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        open_or_fleet(parts, api, Open::Metrics).await.map(|()| Self)
    }
}

async fn open_or_fleet(parts: &mut Parts, api: &Api, what: Open) -> Result<(), Problem> {
    if api.access.is_open(what) {
        return Ok(());
    }
    let reader = Reader::from_request_parts(parts, api).await?;
    reader.sight.fleet().map_err(|problem| Claim::of(parts).refused(api, problem))
}

impl FromRequestParts<Api> for Watcher {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let claim = Claim::of(parts);
        match &claim.presented {
            _ if api.access.is_open(Open::All) => {}
            Presented::Agent(token) => {
                let scopes = api.service.replica.ledger().enrolled_for(token, clock::wall_ms());
                if !scopes.is_empty() {
                    return Ok(Self::Agent(Sight::new(&scopes)));
                }
                let detail = "the token is of no enrolment in force: enroll the agent with `tagout agent enroll SCOPE`, and give \
                              the client its token";
                return Err(claim.refused(api, Problem::new(Code::NotEnrolled, detail)));
            }
            Presented::Nothing if !claim.shows_certificate() => {
                let ledger = api.service.replica.ledger();
                if ledger.authority().is_some_and(|authority| !authority.enrolment) {
                    return Ok(Self::Anybody);
                }
            }
            Presented::Nothing | Presented::Api(_) | Presented::Other(_) | Presented::Unfit(_) => {}
        }
        Reader::from_request_parts(parts, api).await.map(Self::Reader)
    }
}

/// What a request shows of whoever sends it; nothing of it is believed yet.
pub struct Claim {
    presented: Presented,
    peer: Option<Peer>,
}

enum Presented {
    Nothing,
    Agent(Digest),
    Api(ApiToken),
    /// A token of an issuer, if it is one.
    Other(String),
    Unfit(&'static str),
}

impl FromRequestParts<Api> for Claim {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

impl Claim {
    fn of(parts: &Parts) -> Self {
        let presented = match bearer(&parts.headers) {
            Ok(None) => Presented::Nothing,
            Err(why) => Presented::Unfit(why),
            Ok(Some(text)) => match (text.parse::<ApiToken>(), text.parse::<Token>()) {
                (Ok(token), _) => Presented::Api(token),
                (_, Ok(token)) => Presented::Agent(token.digest()),
                _ if text.starts_with("tagout_") => {
                    Presented::Unfit("what begins with tagout_ has 64 lowercase hex digits at its end")
                }
                _ => Presented::Other(text.to_owned()),
            },
        };
        Self { presented, peer: parts.extensions.get::<Peer>().cloned() }
    }

    fn shows_certificate(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| !peer.certificates.is_empty())
    }

    async fn identify(&self, api: &Api) -> Result<Identity, Problem> {
        if api.access.is_open(Open::All) {
            let name = "anybody on this machine".into();
            return Ok(Identity {
                name,
                role: AccessRole::Operator,
                scopes: vec![Scope::fleet()],
                ends_at_ms: None,
            });
        }
        let shown = match &self.presented {
            Presented::Nothing => match &self.peer {
                Some(peer) if !peer.certificates.is_empty() => Shown::Certificate(&peer.certificates),
                _ => Shown::Nothing,
            },
            Presented::Api(token) => Shown::Token(token),
            Presented::Other(token) => Shown::Jwt(token),
            Presented::Agent(token) => return Err(agents(api, token)),
            Presented::Unfit(why) => {
                let detail = format!("the header Authorization is not \"Bearer TOKEN\": {why}");
                return Err(Problem::new(Code::InvalidToken, detail));
            }
        };
        let ready = api.access.prepare(shown).await?;
        // What costs a signature takes its turn, and not in the lane of stops (S10).
        let _turn = if ready.costs() {
            let from = self.peer.as_ref().map_or(Source::OWN, |peer| peer.address.ip().into());
            Some(api.service.admission.verify(false, from).await?)
        } else {
            None
        };
        Ok(api.access.judge(&ready)?)
    }

    /// For what gives, where it takes an identity besides its signatures.
    pub async fn may_give(&self, api: &Api, scope: &Scope) -> Result<(), Problem> {
        if !api.access.commands_need_bearer() {
            return Ok(());
        }
        let reader = match self.identify(api).await {
            Ok(identity) => Reader::from(identity),
            Err(problem) if problem.code() == Code::NoIdentity => {
                let detail = "what gives takes an operator's identity here besides its signatures (commands_need_bearer in the node's \
                              access file), and none was shown: send \"Authorization: Bearer TOKEN\". What takes away needs none";
                return Err(Problem::new(Code::NoIdentity, detail));
            }
            Err(problem) => return Err(problem),
        };
        reader.operates()?;
        if reader.sight.covers(scope) {
            return Ok(());
        }
        Err(reader.sight.outside(&format!("this command is for {scope}")))
    }

    /// Notes beside a command that took effect that what was shown with it is no good (S8). That decides nothing: it is signed.
    pub fn note_if_wrong(self, api: &Api, envelope: &Envelope) {
        if matches!(self.presented, Presented::Nothing | Presented::Agent(_)) && !self.shows_certificate() {
            return;
        }
        let (api, envelope) = (api.clone(), envelope.clone());
        tokio::spawn(async move {
            if let Err(problem) = self.identify(&api).await {
                let detail = format!("{}; the command took effect by its signatures", problem.detail());
                self.noted(&api, Some(&envelope), &Problem::new(problem.code(), detail));
            }
        });
    }

    /// Counts the refusal, and notes what was forged, has ended, or asks for more than it may (S8).
    fn refused(&self, api: &Api, problem: Problem) -> Problem {
        self.noted(api, None, &problem);
        problem
    }

    fn noted(&self, api: &Api, envelope: Option<&Envelope>, problem: &Problem) {
        metrics::counter!("tagout_access_refused_total", "code" => problem.code().name()).increment(1);
        // Who shows nothing has forged nothing, and the others say nothing against whoever asks.
        if !matches!(problem.code(), Code::NoIdentity | Code::IssuerAway | Code::Busy) {
            let from = self.peer.as_ref().map(|peer| peer.address.to_string());
            api.security.refused(from, envelope, problem);
        }
    }
}

/// What an agent's token is told where it is not enough.
fn agents(api: &Api, token: &Digest) -> Problem {
    if api.service.replica.ledger().enrolled_for(token, clock::wall_ms()).is_empty() {
        return Problem::new(
            Code::InvalidToken,
            "the token is of no enrolment in force, and an agent's would not do here",
        );
    }
    let detail = format!(
        "this is the token of an agent, which gets leases, and hears of what concerns its scope. Reading takes an API token \
         ({API_TOKEN_PREFIX}…, see `tagout token new`), or a token of the issuer"
    );
    Problem::new(Code::NotPermitted, detail)
}

/// `GET /v1/tokens`.
pub async fn tokens(State(api): State<Api>, Operator(reader): Operator) -> Result<Json<Tokens>, Problem> {
    reader.sight.fleet()?;
    Ok(Json(Tokens { you: reader.name, tokens: api.access.tokens() }))
}
