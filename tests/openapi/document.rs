//! The document in itself: its references, names, codes, bounds and examples.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tagout_control_plane::api::{Code, listed_routes};
use tagout_proto::command::Command;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::*;
use tagout_proto::log::tile::TileId;
use tagout_proto::sshsig::SshSignature;

use super::schema::{KEYWORDS, Met, Schemas, each, escaped, pointer, resolve};

/// The codes that no request brings about yet: refusals of what nodes and root signers append.
const OUT_OF_REACH: [&str; 8] = [
    "epoch-returns",
    "epoch-rollback",
    "outcome-known",
    "restore-authority",
    "restore-elsewhere",
    "rule-in-force",
    "rule-unknown",
    "signed-by-enough",
];
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
pub const NO_SUCH_PATH: &str = "/components/responses/NoSuchPath";
pub const METHOD_NOT_ALLOWED: &str = "/components/responses/MethodNotAllowed";

/// The committed file; that a node serves it is a test of its own.
pub fn committed() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../control-plane/openapi.json");
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn document() -> Value {
    serde_json::from_str(&committed()).expect("openapi.json is JSON")
}

/// One operation of the document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub path: String,
    /// In capitals.
    pub method: String,
    pub id: String,
    /// Its JSON pointer.
    pub at: String,
}

pub fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in
            item.as_object().expect("a path").iter().filter(|(key, _)| *key != "parameters")
        {
            assert!(METHODS.contains(&method.as_str()), "{path}: {method} is no method");
            operations.push(Operation {
                path: path.clone(),
                method: method.to_uppercase(),
                id: operation["operationId"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{path} has no operationId"))
                    .into(),
                at: format!("/paths/{}/{method}", escaped(path)),
            });
        }
    }
    operations
}

/// Every response of an operation: its status, and the pointer where it stands.
pub fn responses(document: &Value, operation: &Operation) -> BTreeMap<u16, String> {
    let listed = document.pointer(&format!("{}/responses", operation.at)).and_then(Value::as_object);
    let listed = listed.unwrap_or_else(|| panic!("{} has no responses", operation.id));
    (listed.keys())
        .map(|status| {
            let at = resolve(document, &format!("{}/responses/{status}", operation.at));
            (status.parse().unwrap_or_else(|_| panic!("{}: {status}", operation.id)), at)
        })
        .collect()
}

/// Where an answer's code and status are named: a problem's, and an OpenC2 response's in its message.
const PROBLEM: [&str; 2] = [
    "content/application~1problem+json/schema/properties/code/enum",
    "content/application~1problem+json/schema/properties/status/const",
];
const OPENC2: [&str; 2] = [
    "content/application~1openc2+json;version=1.0/schema/properties/body/properties/openc2/properties/response/properties/\
     results/properties/x-tagout/properties/code/enum",
    "content/application~1openc2+json;version=1.0/schema/properties/body/properties/openc2/properties/response/properties/\
     status/const",
];

/// The problem codes that a response may carry.
pub fn codes(document: &Value, response: &str) -> Vec<String> {
    let codes =
        [PROBLEM[0], OPENC2[0]].into_iter().filter_map(|at| document.pointer(&format!("{response}/{at}")));
    let codes = codes.filter_map(Value::as_array).flatten();
    codes.map(|code| code.as_str().expect("a code").to_owned()).collect()
}

/// OpenC2 has few statuses, and says the nearest of them (Language Specification 1.0, section 3.3.2.1).
fn of_openc2(status: u16) -> u16 {
    match status {
        409 | 413 | 415 | 422 => 400,
        429 => 403,
        507 => 503,
        _ => status,
    }
}

#[test]
fn every_route_is_documented_and_the_other_way_round() {
    let routes: BTreeSet<(String, String)> =
        listed_routes().map(|(method, path)| (method.to_string(), path.replace("{*", "{"))).collect();
    let documented: BTreeSet<_> = operations(&document()).into_iter().map(|o| (o.method, o.path)).collect();
    assert_eq!(routes, documented);
}

#[test]
fn every_code_is_documented_where_it_may_be_met_and_the_other_way_round() {
    let document = document();
    let branches = document["components"]["schemas"]["ProblemCode"]["oneOf"].as_array().expect("the codes");
    let explained: BTreeMap<&str, &str> = (branches.iter())
        .map(|branch| (branch["const"].as_str().unwrap(), branch["description"].as_str().unwrap()))
        .collect();
    assert_eq!(explained.len(), branches.len(), "a code stands twice");
    let statuses: BTreeMap<&str, u16> = Code::ALL.iter().map(|c| (c.name(), c.status().as_u16())).collect();
    assert_eq!(statuses.len(), Code::ALL.len(), "two codes have one name");
    assert_eq!(explained.keys().collect::<Vec<_>>(), statuses.keys().collect::<Vec<_>>());
    for (code, explanation) in &explained {
        assert!(explanation.starts_with(&format!("{}. ", statuses[code])), "{code}: {explanation}");
        let unreachable = explanation.ends_with("No request of this version brings it about");
        assert_eq!(unreachable, OUT_OF_REACH.contains(code), "{code}: {explanation}");
    }

    let mut carried: BTreeSet<String> = BTreeSet::new();
    let mut judge = |status: u16, response: &str| {
        let codes = codes(&document, response);
        assert_eq!(codes.is_empty(), status < 400, "{response} has the codes {codes:?}");
        let is_openc2 = document.pointer(&format!("{response}/{}", OPENC2[0])).is_some();
        for code in codes {
            let own = statuses.get(code.as_str()).copied();
            let said = if is_openc2 { own.map(of_openc2) } else { own };
            assert_eq!(said, Some(status), "{response}: {code}");
            carried.insert(code);
        }
        if status >= 400 {
            let at = format!("{response}/{}", if is_openc2 { OPENC2[1] } else { PROBLEM[1] });
            assert_eq!(document.pointer(&at), Some(&status.into()), "{at}");
        }
    };
    for operation in operations(&document) {
        for (status, response) in responses(&document, &operation) {
            judge(status, &response);
        }
    }
    judge(404, NO_SUCH_PATH);
    judge(405, METHOD_NOT_ALLOWED);
    carried.extend(OUT_OF_REACH.map(String::from));
    assert_eq!(carried, statuses.keys().map(|code| code.to_string()).collect());
}

#[test]
fn the_document_is_whole() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut referred = BTreeSet::from([NO_SUCH_PATH.to_owned(), METHOD_NOT_ALLOWED.to_owned()]);
    each(&document, "", &mut |at, value| {
        if at.ends_with("/$ref") {
            let target = pointer(value);
            assert!(document.pointer(&target).is_some(), "{at}: nothing is at {target}");
            referred.insert(target);
        }
        // A line of JSON cannot be broken, so a text that nobody wrote would not be seen: none is empty.
        assert!(value != "", "{at} is empty");
    });
    // What `security` names it names without a reference.
    let components = document["components"].as_object().unwrap().iter();
    for (kind, components) in components.filter(|(kind, _)| *kind != "securitySchemes") {
        for name in components.as_object().unwrap().keys() {
            let at = format!("/components/{kind}/{name}");
            assert!(referred.contains(&at), "nothing refers to {at}");
        }
    }
    let text =
        |at: &str| document.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("{at} is missing"));
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let operations = operations(&document);
    let names: BTreeSet<&str> = operations.iter().map(|o| o.id.as_str()).collect();
    assert_eq!(names.len(), operations.len(), "an operationId stands twice");
    let schemas = Schemas::new(&document);
    for operation in &operations {
        text(&format!("{}/summary", operation.at));
        let tag = document.pointer(&format!("{}/tags/0", operation.at)).expect("a tag");
        assert!(tags.contains(&tag), "{}: {tag}", operation.id);
        for response in responses(&document, operation).values() {
            text(&format!("{response}/description"));
        }
        let mut in_path = Vec::new();
        for at in parameters(&document, operation) {
            text(&format!("{at}/description"));
            let parameter = document.pointer(&at).unwrap();
            if parameter["in"] == "path" {
                assert_eq!(parameter["required"], true, "{at}");
                in_path.push(format!("{{{}}}", text(&format!("{at}/name"))));
            } else {
                assert!(parameter["in"] == "query" || parameter["in"] == "header", "{at}");
            }
        }
        let wanted: Vec<_> = operation.path.split('/').filter(|s| s.starts_with('{')).collect();
        assert_eq!(in_path, wanted, "{}", operation.path);
    }
    let mut count = 0;
    for at in every_schema(&document) {
        schemas.below(&at, &mut |at, schema| {
            count += 1;
            for keyword in schema.as_object().unwrap_or_else(|| panic!("{at} is no schema")).keys() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{at}: the checker does not know {keyword}");
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            // Beside a reference, properties only narrow those of its target.
            if let (None, Some(properties)) = (schema.get("$ref"), properties) {
                assert_eq!(schema.get("additionalProperties"), Some(&Value::Bool(false)), "{at} is open");
                for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                    assert!(properties.contains_key(name.as_str().unwrap()), "{at} requires {name}");
                }
            }
        });
    }
    assert!(count > 300, "only {count} schemas were found");
}

#[test]
fn every_example_is_one() {
    let document = document();
    let schemas = Schemas::new(&document);
    let mut count = 0;
    each(&document, "", &mut |at, value| {
        let (of, example) = match at.rsplit_once('/') {
            Some((of, "example")) => (of, value),
            Some((rest, "value"))
                if rest.rsplit_once('/').is_some_and(|(rest, _)| rest.ends_with("/examples")) =>
            {
                (rest.rsplit_once("/examples").unwrap().0, value)
            }
            _ => return,
        };
        count += 1;
        schemas
            .check(&format!("{of}/schema"), example, &mut Met::new())
            .unwrap_or_else(|e| panic!("{at}: {e}"));
    });
    assert!(count > 50, "only {count} examples were found");
    for operation in operations(&document) {
        for (status, response) in responses(&document, &operation) {
            let media = document.pointer(&format!("{response}/content")).and_then(Value::as_object);
            for (media, content) in
                media.into_iter().flatten().filter(|(_, content)| content.get("schema").is_some())
            {
                let shown = content.get("example").is_some() || operation.id == "readDescription";
                assert!(shown, "{} {status} {media} has no example", operation.id);
            }
        }
    }
}

#[test]
fn the_example_of_a_stop_was_really_signed_and_its_lock_is_its_digest() {
    let document = document();
    let form = |at: &str| {
        let form = document.pointer(at).unwrap_or_else(|| panic!("nothing is at {at}"));
        let signatures =
            form["signature"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect();
        Envelope { document: form["command"].as_str().unwrap().to_owned(), signatures }
    };
    let commands = "/paths/~1v1~1commands/post/requestBody/content/multipart~1form-data/examples";
    let short = "/paths/~1agent~1shutdown/post/requestBody/content/multipart~1form-data/example";
    let forms = ["stop", "release", "start", "grant"].map(|name| form(&format!("{commands}/{name}/value")));
    for envelope in forms.iter().chain([&form(short)]) {
        Command::parse(envelope.document.as_bytes()).unwrap_or_else(|e| panic!("{e}: {}", envelope.document));
        for signature in &envelope.signatures {
            let signature = SshSignature::parse(signature).expect("an armored signature");
            signature.verify(envelope.document.as_bytes()).expect("a signature of this document");
        }
    }
    let [stop, .., grant] = forms.map(|f| f.digest());
    let taken: Digest = document["components"]["responses"]["CommandTaken"]["content"]["application/json"]["example"]
        ["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(taken, stop);
    assert!(committed().contains(&format!("\"id\": \"{grant}\"")), "the grant of the status is another");
}

#[test]
fn the_bounds_are_those_of_the_code() {
    let document = document();
    let schema = |at: &str| format!("/components/schemas/{at}");
    for (at, bound) in [
        ("CommandForm/properties/command/maxLength", COMMAND_MAX_BYTES as u64),
        ("CommandForm/properties/signature/maxItems", SIGNATURES_MAX as u64),
        ("ShutdownForm/properties/command/maxLength", STOP_MAX_BYTES as u64),
        ("ShutdownForm/properties/signature/maxItems", SIGNATURES_MAX as u64),
        ("Signature/maxLength", SIGNATURE_MAX_BYTES as u64),
        ("Envelope/properties/document/maxLength", COMMAND_MAX_BYTES as u64),
        ("Envelope/properties/signatures/maxItems", SIGNATURES_MAX as u64),
        ("Reason/maxLength", REASON_MAX_BYTES as u64),
        ("Case/maxLength", CASE_MAX_BYTES as u64),
        ("DrainMs/maximum", DRAIN_MAX_MS),
        ("Revoke/properties/grants/maxItems", GRANT_IDS_MAX as u64),
        ("Suspend/properties/keys/maxItems", KEYS_PER_SUSPEND_MAX as u64),
        ("LockSet/oneOf/0/maxItems", LOCK_IDS_MAX as u64),
        ("BulkLocks/properties/count/maximum", BULK_LOCKS_MAX),
        ("Role/properties/actions/maxItems", ROLE_ACTIONS_MAX as u64),
        ("Grant/properties/essential/maxItems", ESSENTIAL_CLASSES_MAX as u64),
        ("Seen/properties/authority/maximum", AUTHORITY_VERSIONS_MAX),
        ("AuthorityCommand/properties/version/maximum", AUTHORITY_VERSIONS_MAX),
        ("AuthorityCommand/properties/retired/maxItems", RETIRED_KEYS_MAX as u64),
        ("AuthorityCommand/properties/principals/maxItems", PRINCIPALS_MAX as u64),
        ("AuthorityCommand/properties/roles/maxItems", ROLES_MAX as u64),
        ("AuthorityCommand/properties/nodes/maxItems", NODES_MAX as u64),
        ("NodeKey/properties/address/maxLength", ADDRESS_MAX_BYTES as u64),
        ("AuthorityCommand/properties/root/properties/signers/maxItems", ROOT_KEYS_MAX as u64),
        ("RetiredKey/properties/grants/maxItems", GRANT_IDS_MAX as u64),
        ("Principal/properties/keys/maxItems", KEYS_PER_PRINCIPAL_MAX as u64),
        ("Role/properties/principals/maxItems", PRINCIPALS_MAX as u64),
        ("LeaseRequest/properties/agents/maxItems", AGENTS_PER_LEASE_MAX as u64),
        ("LeaseRequest/properties/known/maxItems", KNOWN_PER_LEASE_MAX as u64),
        ("CallLimits/properties/calls_per_minute/maximum", CALL_LIMIT_MAX),
        ("CallLimits/properties/tokens_per_minute/maximum", CALL_LIMIT_MAX),
        ("Limits/properties/ttl_ms/minimum", TTL_MIN_MS),
        ("Limits/properties/ttl_ms/maximum", TTL_MAX_MS),
        ("Limits/properties/lapse_grace_ms/maximum", LAPSE_GRACE_MAX_MS),
    ] {
        assert_eq!(document.pointer(&schema(at)), Some(&bound.into()), "{at}");
    }
    let schemas = Schemas::new(&document);
    let fits = |name: &str, text: &str| schemas.check(&schema(name), &text.into(), &mut Met::new()).is_ok();
    let long = |n: usize| "x".repeat(n);
    let segments = |n: usize| vec!["a"; n].join("/");
    for (name, good, bad) in [
        ("Scope", long(SCOPE_SEGMENT_MAX_BYTES), long(SCOPE_SEGMENT_MAX_BYTES + 1)),
        ("Scope", segments(SCOPE_SEGMENTS_MAX), segments(SCOPE_SEGMENTS_MAX + 1)),
        ("Scope", "*".into(), "a/*".into()),
        ("Name", long(NAME_MAX_BYTES), long(NAME_MAX_BYTES + 1)),
        ("CommandId", long(COMMAND_ID_MAX_BYTES), long(COMMAND_ID_MAX_BYTES + 1)),
    ] {
        assert!(fits(name, &good) && !fits(name, &bad), "{name}: {good} and {bad}");
    }
    for path in [
        "0/000",
        "63/x001/234.p/255",
        "entries/x123/x456/789.p/1",
        "64/000",
        "0/0",
        "0/000.p/256",
        "0/000.p/0",
    ] {
        assert_eq!(fits("TilePath", path), TileId::parse(path).is_some(), "{path}");
    }
}

/// The pointers of an operation's parameters, those of its path first.
pub fn parameters(document: &Value, operation: &Operation) -> Vec<String> {
    let path = operation.at.rsplit_once('/').expect("a pointer").0;
    let mut found = Vec::new();
    for of in [path, operation.at.as_str()] {
        let at = format!("{of}/parameters");
        let count = document.pointer(&at).and_then(Value::as_array).map_or(0, Vec::len);
        found.extend((0..count).map(|index| resolve(document, &format!("{at}/{index}"))));
    }
    found
}

/// The pointers of all schemas that are not part of another one.
fn every_schema(document: &Value) -> Vec<String> {
    let mut found: Vec<String> = (document["components"]["schemas"].as_object().expect("schemas").keys())
        .map(|name| format!("/components/schemas/{name}"))
        .collect();
    each(document, "", &mut |at, _| {
        let inside = at.starts_with("/components/schemas/") || at.contains("/example");
        if at.ends_with("/schema") && !inside {
            found.push(at.to_owned());
        }
    });
    found
}
