//! Who may read, and who may not: a real node, and everybody who comes to it. No identity ever replaces a signature, and a
//! stop needs none (S6, S10).

use std::process::Command;

use axum::http::Method;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::multipart::Form;
use serde_json::{Value, json};
use tagout_control_plane::access::{ApiToken, token_lines};
use tagout_control_plane::api::listed_routes;
use tagout_control_plane::{pki, tls};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::wire::AccessRole;
use tagout_tests::deployment::{Choice, Deployment, PEOPLE, parse, runtime};
use tagout_tests::issuer::{Issuer, now_s, unsigned};
use tagout_tests::ran::Ran;
use tagout_tests::three::Three;
use tagout_tests::wait::{DEADLINE, wait_until};

/// 2100-01-01.
const FAR_MS: u64 = 4_102_444_800_000;

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
    bare: reqwest::Client,
}

impl World {
    /// A node whose access file has these lines besides the operator's token.
    fn start(top: &str, tables: &str) -> Self {
        let mut deployment = Deployment::make(Choice { enrolment: true, ..Choice::default() });
        deployment.add_access(top, tables);
        deployment.start_node();
        let bare = deployment.bare_http();
        Self { deployment, runtime: runtime(), bare }
    }

    /// Status, challenge and body of what `path` answers whoever shows this.
    fn get(&self, path: &str, bearer: Option<&str>) -> (u16, String, Value) {
        let request = self.bare.get(self.deployment.url(path));
        self.answer(bearer.into_iter().fold(request, |request, token| request.bearer_auth(token)))
    }

    fn answer(&self, request: reqwest::RequestBuilder) -> (u16, String, Value) {
        self.runtime.block_on(async {
            let answer = request.send().await.expect("the node answers");
            let status = answer.status().as_u16();
            let challenge =
                answer.headers().get(WWW_AUTHENTICATE).map_or("", |value| value.to_str().unwrap()).to_owned();
            let text = answer.text().await.unwrap();
            (status, challenge, serde_json::from_str(&text).unwrap_or(Value::from(text)))
        })
    }

    #[track_caller]
    fn reads(&self, path: &str, bearer: &str) -> Value {
        let (status, _, body) = self.get(path, Some(bearer));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Is refused, with this code, and told what to do.
    #[track_caller]
    fn refused(&self, path: &str, bearer: &str, code: &str, says: &str) {
        let (status, challenge, body) = self.get(path, Some(bearer));
        let (wanted, challenged) = match code {
            "invalid-token" => (401, "Bearer realm=\"tagout\", error=\"invalid_token\""),
            "not-permitted" | "outside-scopes" => {
                (403, "Bearer realm=\"tagout\", error=\"insufficient_scope\"")
            }
            "issuer-away" => (503, ""),
            _ => (401, "Bearer realm=\"tagout\""),
        };
        assert_eq!(
            (status, &body["code"], challenge.as_str()),
            (wanted, &json!(code), challenged),
            "{path}: {body}"
        );
        assert!(body["detail"].as_str().unwrap().contains(says), "{path}: {body} does not say {says:?}");
    }

    fn security_log(&self) -> String {
        std::fs::read_to_string(self.deployment.data().join("security.jsonl")).unwrap_or_default()
    }

    /// Sends a command with this shown beside it.
    fn send(&self, path: &str, envelope: &Envelope, bearer: Option<&str>) -> (u16, Value) {
        let form = Form::new().text("command", envelope.document.clone());
        let form = envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()));
        let request = self.bare.post(self.deployment.url(path)).multipart(form);
        let (status, _, body) =
            self.answer(bearer.into_iter().fold(request, |request, token| request.bearer_auth(token)));
        (status, body)
    }
}

fn token(name: &str, role: AccessRole, scopes: &[&str], expires_at_ms: u64) -> (ApiToken, String) {
    let token = ApiToken::random().unwrap();
    let scopes: Vec<_> = scopes.iter().map(|scope| parse(scope)).collect();
    let lines = token_lines(name, &token.digest(), role, &scopes, expires_at_ms);
    (token, lines)
}

#[test]
fn every_path_is_closed_but_for_those_that_say_so() {
    let world = World::start("", "");
    let open = ["/healthz", "/readyz", "/openapi.json"];
    let zeros = Digest::default().to_string();
    let mut closed = 0;
    for (method, path) in listed_routes() {
        let asked = path.replace("{id}", &zeros).replace("{*path}", "0/000").replace("{name}", "x");
        if method == Method::GET {
            let (status, challenge, body) = world.get(&asked, None);
            if open.contains(&path) {
                assert_eq!(status, 200, "{path}");
                continue;
            }
            closed += 1;
            assert_eq!((status, &body["code"]), (401, &json!("no-identity")), "{path}: {body}");
            assert_eq!(challenge, "Bearer realm=\"tagout\"", "{path}");
            assert!(body["detail"].as_str().unwrap().contains("tagout token new"), "{path}: {body}");
        }
    }
    assert_eq!(closed, 17);
    let impact = world.bare.post(world.deployment.url("/v1/authority/impact")).body("{}");
    assert_eq!(world.answer(impact).2["code"], "no-identity");

    // What shows nothing has forged nothing.
    assert_eq!(world.security_log(), "");
    let operator = world.deployment.api_token();
    let metrics = world.reads("/metrics", &operator);
    assert!(metrics.as_str().unwrap().contains("tagout_access_refused_total{code=\"no-identity\"} 18"));
}

#[test]
fn a_token_sees_what_it_is_for_until_it_ends_or_is_revoked() {
    let (viewer, lines) = token("viewer", AccessRole::Viewer, &[], FAR_MS);
    let (team, team_lines) = token("team", AccessRole::Operator, &["demo/team", "demo/team/a"], FAR_MS);
    let (ended, ended_lines) = token("ended", AccessRole::Viewer, &[], 1_000);
    let world = World::start("", &[lines, team_lines, ended_lines].concat());
    let (deployment, viewer, team) = (&world.deployment, viewer.reveal(), team.reveal());
    let token_file = |agent: &str| {
        deployment.folder().join(format!("{}.token", agent.replace('/', "."))).display().to_string()
    };
    for agent in ["demo/team/a", "demo/other"] {
        deployment.run_by_both(&["grant", agent, "--for", "1h", "--reason", "r"]);
        let enrolled = ["agent", "enroll", agent, "--reason", "r", "--out", &token_file(agent)];
        deployment.run_by_both(&enrolled);
        deployment.run(&["stop", agent, "--reason", "r"]);
    }
    deployment.run(&["restrict", "demo", "--reason", "r"]);

    // A viewer reads everything, and does not see who else does.
    let locks = world.reads("/v1/locks", viewer)["locks"].as_array().unwrap().clone();
    assert_eq!(locks.len(), 3);
    for path in [
        "/v1/status",
        "/v1/cluster",
        "/v1/agents",
        "/v1/enrolments",
        "/v1/proposals",
        "/v1/authority",
        "/metrics",
        "/log/checkpoint?size=1",
        "/log/tile/entries/000.p/1",
    ] {
        world.reads(path, viewer);
    }
    world.refused("/v1/tokens", viewer, "not-permitted", "token viewer is a viewer");

    // A team's token sees its own agents, what is above them, and nothing of others.
    let scopes = |path: &str, list: &str, at: &str| {
        let body = world.reads(path, team);
        let each = body[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.pointer(at).unwrap().as_str().unwrap().to_owned());
        each.collect::<Vec<_>>()
    };
    assert_eq!(scopes("/v1/agents", "agents", "/scope"), ["demo/team/a"]);
    assert_eq!(scopes("/v1/agents?scope=demo/team/a", "agents", "/scope"), ["demo/team/a"]);
    let mut seen = scopes("/v1/locks", "locks", "/scope");
    seen.sort();
    assert_eq!(seen, ["demo", "demo/team/a"]);
    assert_eq!(scopes("/v1/enrolments", "enrolments", "/scope"), ["demo/team/a"]);
    assert_eq!(scopes("/v1/status", "grants", "/scope"), ["demo/team/a"]);
    world.reads("/v1/cluster", team);
    let of = |scope: &str| {
        let lock = locks.iter().find(|record| record["scope"] == scope).unwrap();
        format!("/v1/locks/{}", lock["id"].as_str().unwrap())
    };
    world.reads(&of("demo/team/a"), team);
    world.reads(&of("demo"), team);
    for (path, says) in [
        ("/v1/agents?scope=demo/other".to_owned(), "is for demo/team alone"),
        ("/v1/locks?scope=other".into(), "other is outside of them"),
        (of("demo/other"), "this is outside of them"),
        ("/v1/events?scope=*".into(), "all that is on *"),
        ("/v1/events?scope=demo/team,demo/other".into(), "all that is on demo/other"),
        ("/log/checkpoint".into(), "all that is on *"),
        ("/metrics".into(), "all that is on *"),
        ("/v1/tokens".into(), "all that is on *"),
    ] {
        world.refused(&path, team, "outside-scopes", says);
    }

    // An agent hears of its own scope, and of no other's; a lease of another it does not get either.
    let agent = std::fs::read_to_string(token_file("demo/team/a")).unwrap().trim().to_owned();
    assert_eq!(world.reads("/v1/status", &agent)["grants"].as_array().unwrap().len(), 1);
    world.reads("/v1/authority", &agent);
    world.refused("/v1/agents", &agent, "not-permitted", "the token of an agent");
    world.refused("/v1/events?scope=demo/other", &agent, "outside-scopes", "is for demo/team/a alone");
    let lease = json!({"nonce": Digest([1; 32]), "instance": "i", "agents": [{"scope": "demo/other"}]});
    let request = world.bare.post(deployment.url("/v1/leases")).json(&lease).bearer_auth(&agent);
    assert_eq!(world.answer(request).2["code"], "enrolled-elsewhere");

    // What is no good is told so, and noted; the token itself is in no log.
    let unknown = ApiToken::random().unwrap();
    let torn = &viewer[..viewer.len() - 1];
    for (bad, says) in [
        (unknown.reveal(), "none of this node's"),
        (ended.reveal(), "\"ended\" ended at 1970-01-01T00:00:01"),
        (torn, "64 lowercase hex digits"),
        ("tagout_12", "64 lowercase hex digits"),
        ("word", "names no issuer"),
    ] {
        world.refused("/v1/agents", bad, "invalid-token", says);
    }
    world.refused(
        "/v1/events?scope=demo",
        &format!("tagout_{}", "0".repeat(64)),
        "not-enrolled",
        "tagout agent enroll",
    );
    let twice = world
        .bare
        .get(deployment.url("/v1/agents"))
        .header(AUTHORIZATION, "Bearer a")
        .header(AUTHORIZATION, "Bearer b");
    assert_eq!(world.answer(twice).2["code"], "invalid-token");
    let basic = world.bare.get(deployment.url("/v1/agents")).header(AUTHORIZATION, "Basic YTpi");
    assert_eq!(world.answer(basic).2["code"], "invalid-token");
    wait_until("the refusals to be noted", || world.security_log().contains("token viewer is a viewer"));
    wait_until("the refusals to be noted", || world.security_log().contains("another scheme"));
    let log = world.security_log();
    for secret in [viewer, team, unknown.reveal(), ended.reveal(), torn, &agent] {
        assert!(!log.contains(secret), "a token is in the security log");
    }

    // A revoked one is refused within seconds, and a wrong file takes nothing from anybody.
    let file = deployment.access_file();
    deployment.run(&["token", "revoke", "viewer", "--access", file.to_str().unwrap()]).exits(0);
    wait_until("the token to be refused", || world.get("/v1/status", Some(viewer)).0 == 401);
    std::fs::write(&file, "tokn = 1\n").unwrap();
    let operator = deployment.api_token();
    wait_until("the file to be refused", || {
        let metrics = world.reads("/metrics", &operator);
        metrics.as_str().unwrap().lines().any(|line| line == "tagout_access_refused_file 1")
    });
    world.reads("/v1/agents", team);
}

#[test]
fn tokens_are_made_listed_and_used_by_the_command() {
    let world = World::start("open = ['log']\n", "");
    let deployment = &world.deployment;
    let (file, out) = (deployment.access_file(), deployment.folder().join("grafana.token"));
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let made = deployment
        .run(&[
            "token", "new", "grafana", "--role", "viewer", "--scope", "demo", "--for", "30d", "--access",
            file, "--out", out,
        ])
        .exits(0);
    assert!(made.stdout.contains("added grafana to"), "{made:?}");
    let token = std::fs::read_to_string(out).unwrap();
    wait_until("the token to be good", || world.get("/v1/agents", Some(token.trim())).0 == 200);

    let listed = deployment.run(&["token", "list"]).exits(0).stdout;
    assert!(
        listed.contains("you are token operator") && listed.contains("grafana") && listed.contains("used "),
        "{listed}"
    );
    let json = deployment.run(&["token", "list", "--json"]).exits(0).json();
    assert!(
        !json.to_string().contains(&ApiToken::digest(&token.trim().parse().unwrap()).to_string()),
        "{json}"
    );
    let refused = deployment.run(&["--api-token", out, "token", "list"]).exits(3);
    assert!(refused.stderr.contains("this is for operators"), "{refused:?}");

    // Anybody may verify the log, and read nothing else.
    assert_eq!(world.get("/log/checkpoint?size=1", None).0, 200);
    assert_eq!(world.get("/metrics", None).0, 401);

    // Without its token the command says why nothing was sent; a stop needs none.
    std::fs::remove_file(deployment.dir().join("operator.token")).unwrap();
    let refused = deployment.run(&["status"]).exits(3);
    assert!(refused.stderr.contains("operator.token cannot be read"), "{refused:?}");
    let stopped = deployment.run(&["stop", "demo/a", "--reason", "r"]);
    assert!(stopped.stdout.contains("STOPPED demo/a"), "{stopped:?}");
    let record = deployment.run(&["--api-token", out, "status", "demo"]).exits(0).stdout;
    assert!(record.contains("demo/a"), "{record}");
}

#[test]
fn oidc_tokens_count_by_the_issuers_keys_and_no_others() {
    let issuer = Issuer::start();
    let (rsa, p256, ed) = (issuer.rsa("rsa"), issuer.p256("p256"), issuer.ed25519("ed"));
    let later = issuer.ed25519("later");
    let stranger = issuer.ed25519("ed");
    issuer.publish(&[&rsa, &p256, &ed]);
    let world = World::start(
        "",
        &format!(
            "[oidc]\nissuer = '{}'\naudience = 'tagout'\nleeway_s = 5\nroles_claim = 'groups'\nviewer = ['staff']\noperator = ['on-call']\n",
            issuer.url
        ),
    );
    let claims = |groups: &[&str]| issuer.claims(groups);
    let changed = |name: &str, value: Value| {
        let mut claims = issuer.claims(&["staff"]);
        claims[name] = value;
        claims
    };
    for key in [&rsa, &p256, &ed] {
        world.reads("/v1/agents", &key.sign(&claims(&["staff"])));
    }
    world.refused("/v1/tokens", &ed.sign(&claims(&["staff"])), "not-permitted", "oidc 7f3a is a viewer");
    assert_eq!(world.reads("/v1/tokens", &ed.sign(&claims(&["on-call", "staff"])))["you"], "oidc 7f3a");
    world.refused("/v1/agents", &ed.sign(&claims(&["others"])), "not-permitted", "has no role here");
    world.reads("/v1/agents", &ed.sign(&changed("aud", json!("tagout"))));

    let now = now_s();
    let header = |alg: &str| json!({"alg": alg, "typ": "JWT", "kid": "rsa"});
    let none = format!("{}.", unsigned(&header("none"), &claims(&["on-call"])));
    // The oldest trick: a public key as the secret of an HMAC.
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, rsa.public["n"].as_str().unwrap().as_bytes());
    let message = unsigned(&header("HS256"), &claims(&["on-call"]));
    let tag = ring::hmac::sign(&secret, message.as_bytes());
    let hmac = format!("{message}.{}", data_encoding::BASE64URL_NOPAD.encode(tag.as_ref()));
    let good = ed.sign(&claims(&["staff"]));
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let altered = format!(
        "{}.{signature}",
        unsigned(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "ed"}), &claims(&["on-call"]))
    );
    assert!(altered.starts_with(head));
    for (bad, says) in [
        (ed.sign(&changed("exp", json!(now - 60))), "its time is over"),
        (ed.sign(&changed("nbf", json!(now + 600))), "its time has not come"),
        (ed.sign(&changed("nbf", json!("tomorrow"))), "nbf"),
        (ed.sign(&changed("exp", json!(null))), "exp"),
        (ed.sign(&changed("aud", json!("other"))), "another audience than \"tagout\""),
        (ed.sign(&changed("aud", json!(["other"]))), "another audience"),
        (ed.sign(&changed("aud", json!(null))), "aud"),
        (ed.sign(&changed("iss", json!(format!("{}/", issuer.url)))), "another issuer"),
        (ed.sign(&changed("iss", json!([issuer.url]))), "another issuer"),
        (stranger.sign(&claims(&["on-call"])), "not by the key that it names"),
        (altered, "not by the key that it names"),
        (none, "no token that an issuer signs"),
        (hmac, "no token that an issuer signs"),
        (
            ed.sign_as(&json!({"alg": "EdDSA", "kid": "rsa"}), &claims(&["staff"])),
            "its \"alg\" is none for the key",
        ),
        (
            rsa.sign_as(&json!({"alg": "PS256", "kid": "rsa"}), &claims(&["staff"])),
            "not by the key that it names",
        ),
        (ed.sign_as(&json!({"alg": "EdDSA"}), &claims(&["staff"])), "it names no key"),
        (
            ed.sign_as(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["exp"], "exp": 1}), &claims(&["staff"])),
            "no token",
        ),
        (format!("{good}x.y"), "no token"),
        ("x".repeat(13_000), "no token"),
    ] {
        world.refused("/v1/agents", &bad, "invalid-token", says);
    }
    // Within the leeway it is still its time.
    world.reads("/v1/agents", &ed.sign(&changed("exp", json!(now_s() - 1))));

    // A new key is fetched when a token names it, however many name others that nobody knows; and the old one is refused once
    // it has left the set.
    let before = issuer.asked();
    for n in 0..50 {
        let unknown = json!({"alg": "EdDSA", "kid": format!("unknown-{n}")});
        world.refused(
            "/v1/agents",
            &ed.sign_as(&unknown, &claims(&["staff"])),
            "invalid-token",
            "no such key",
        );
    }
    assert!(issuer.asked() - before <= 20, "{} fetches for 50 tokens", issuer.asked() - before);
    issuer.publish(&[&rsa, &p256, &later]);
    let (new, old) = (later.sign(&claims(&["staff"])), ed.sign(&claims(&["staff"])));
    wait_until("the new key to be known", || world.get("/v1/agents", Some(&new)).0 == 200);
    world.refused("/v1/agents", &old, "invalid-token", "no such key");

    // While the issuer is away, what is known goes on to count, and API tokens do anyway.
    issuer.away(true);
    let unknown = ed.sign(&claims(&["staff"]));
    wait_until("the issuer to be missed", || world.get("/v1/agents", Some(&unknown)).0 == 503);
    world.refused("/v1/agents", &unknown, "issuer-away", "API tokens");
    world.reads("/v1/agents", &new);
    world.reads("/v1/agents", &world.deployment.api_token());
    let stop = world.deployment.stop("demo/away");
    assert_eq!(world.send("/agent/shutdown", &stop, Some(&unknown)).0, 201);
    assert!(!world.security_log().contains(signature), "a token is in the security log");
}

#[test]
fn client_certificates_are_known_by_name_and_keep_no_stop_out() {
    let (theirs, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = pki::create_ca(theirs.path(), "clients").unwrap();
    pki::create_ca(other.path(), "clients").unwrap();
    std::fs::write(theirs.path().join("clients.pem"), &ca).unwrap();
    let world = World::start(
        "",
        &format!(
            "[mtls]\nca = '{}'\nviewer = ['grafana']\noperator = ['sre.example']\n",
            theirs.path().join("clients.pem").display()
        ),
    );
    let deployment = &world.deployment;
    let with = |folder: &tempfile::TempDir, name: &str| {
        let issued = pki::issue_client(folder.path(), name).unwrap();
        let tls = tls::client_config_with_identity(&deployment.ca_pem(), &issued.cert_pem, &issued.key_pem)
            .unwrap();
        (reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap(), issued)
    };
    let code = |client: &reqwest::Client, path: &str| {
        let (status, _, body) = world.answer(client.get(deployment.url(path)));
        (status, body["code"].as_str().unwrap_or("").to_owned())
    };
    let (viewer, issued) = with(&theirs, "grafana");
    let (operator, _) = with(&theirs, "sre.example");
    let (nobody, _) = with(&theirs, "nobody");
    let (foreign, _) = with(&other, "sre.example");
    assert_eq!(code(&viewer, "/v1/agents"), (200, String::new()));
    assert_eq!(code(&viewer, "/v1/tokens"), (403, "not-permitted".into()));
    assert_eq!(code(&operator, "/v1/tokens"), (200, String::new()));
    assert_eq!(code(&nobody, "/v1/agents"), (403, "not-permitted".into()));
    assert_eq!(code(&foreign, "/v1/agents"), (401, "invalid-certificate".into()));
    assert_eq!(code(&world.bare, "/v1/agents"), (401, "no-identity".into()));
    // A good token speaks for itself, whatever certificate is beside it.
    let both = foreign.get(deployment.url("/v1/agents")).bearer_auth(deployment.api_token());
    assert_eq!(world.answer(both).0, 200);
    let stop = deployment.stop("demo/a");
    let form =
        Form::new().text("command", stop.document.clone()).text("signature", stop.signatures[0].clone());
    assert_eq!(world.answer(foreign.post(deployment.url("/v1/commands")).multipart(form)).0, 201);
    wait_until("it to be noted", || world.security_log().contains("took effect by its signatures"));

    // One that is no X.509 v3 makes nobody known, and keeps no stop out either.
    let folder = theirs.path();
    let v1 = "openssl req -new -newkey rsa:2048 -nodes -keyout v1.key -subj /CN=grafana -out v1.csr 2>/dev/null && \
              { openssl x509 -req -x509v1 -in v1.csr -signkey v1.key -out v1.pem || openssl x509 -req -in v1.csr -signkey v1.key \
              -out v1.pem; } 2>/dev/null && openssl x509 -in v1.pem -noout -text | grep -q 'Version: 1 '";
    Ran::of(Command::new("bash").args(["-c", v1]).current_dir(folder)).exits(0);
    let stop = deployment.stop("demo/v1");
    for (name, text) in [
        ("command", &stop.document),
        ("signature", &stop.signatures[0]),
        ("node-ca.pem", &deployment.ca_pem()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let line = format!(
        "curl -sS -w '\n%{{http_code}}\n' --cacert node-ca.pem --cert v1.pem --key v1.key {0}/v1/agents && curl -sS -w \
         '\n%{{http_code}}\n' --cacert node-ca.pem --cert v1.pem --key v1.key -F command=@command -F signature=@signature \
         {0}/agent/shutdown",
        deployment.url("")
    );
    let said = Ran::of(Command::new("bash").args(["-c", &line]).current_dir(folder)).exits(0).stdout;
    assert!(
        said.contains("invalid-certificate") && said.contains("X.509 version 1") && said.ends_with("\n201\n"),
        "{said}"
    );

    // By somebody else's TLS, in a session that is resumed: the second connection is the same person's.
    for (name, text) in
        [("c.pem", &issued.cert_pem), ("c.key", &issued.key_pem), ("node-ca.pem", &deployment.ca_pem())]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let address = deployment.address;
    let script = format!(
        "ask() {{ printf 'GET /v1/agents HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n' | \
         openssl s_client -quiet -connect {address} -CAfile node-ca.pem -cert c.pem -key c.key \"$@\" 2>/dev/null | head -1; }}\n\
         (printf 'GET /healthz HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'; sleep 1) | openssl s_client -connect {address} -CAfile node-ca.pem \
         -cert c.pem -key c.key -sess_out session >/dev/null 2>&1 || true\n\
         ask; ask -sess_in session"
    );
    let said = Ran::of(Command::new("bash").args(["-c", &script]).current_dir(folder)).exits(0).stdout;
    assert_eq!(said.lines().map(str::trim).collect::<Vec<_>>(), ["HTTP/1.1 200 OK"; 2], "{said}");
}

#[test]
fn s10_a_broken_token_keeps_no_stop_out_and_what_gives_may_take_both() {
    let issuer = Issuer::start();
    let key = issuer.ed25519("ed");
    issuer.publish(&[&key]);
    let (viewer, viewer_lines) = token("viewer", AccessRole::Viewer, &[], FAR_MS);
    let (team, team_lines) = token("team", AccessRole::Operator, &["demo/team"], FAR_MS);
    let (ended, ended_lines) = token("ended", AccessRole::Operator, &[], 1_000);
    let world = World::start(
        "commands_need_bearer = true\n",
        &format!(
            "{viewer_lines}{team_lines}{ended_lines}[oidc]\nissuer = '{}'\naudience = 'tagout'\n\
         roles_claim = 'groups'\nviewer = ['staff']\noperator = ['on-call']\n",
            issuer.url
        ),
    );
    let deployment = &world.deployment;
    let operator = deployment.api_token();

    // One that is longer than any that counts, too.
    assert_eq!(
        world.send("/agent/shutdown", &deployment.stop("demo/long"), Some(&"x".repeat(20_000))).0,
        201
    );

    // The article's call, by curl: a token and a signature.
    let folder = deployment.folder().join("stops");
    std::fs::create_dir(&folder).unwrap();
    let curl = |name: &str, bearer: &str, parts: &str| {
        let stop = deployment.stop(name);
        std::fs::write(folder.join("stop.json"), &stop.document).unwrap();
        std::fs::write(folder.join("stop.json.sig"), &stop.signatures[0]).unwrap();
        let script = format!(
            "curl -sS -o answer -w '%{{http_code}}' -X POST {} --cacert {} -H 'Authorization: Bearer {bearer}' {parts}; echo; cat answer",
            deployment.url("/agent/shutdown"),
            deployment.dir().join("ca.pem").display()
        );
        let said = Ran::of(Command::new("bash").args(["-c", &script]).current_dir(&folder)).exits(0).stdout;
        let (status, body) = said.split_once('\n').unwrap();
        (status.to_owned(), serde_json::from_str::<Value>(body).unwrap())
    };
    let both = "-F command=@stop.json -F signature=@stop.json.sig";
    assert_eq!(curl("demo/a", &operator, both).0, "201");
    assert_eq!(curl("demo/b", &key.sign(&issuer.claims(&["on-call"])), both).0, "201");
    let (status, body) =
        curl("demo/c", &operator, "-H 'Content-Type: application/json' -d '{\"agent_id\": \"demo/c\"}'");
    assert_eq!((status.as_str(), &body["code"]), ("401", &json!("unsigned")));
    assert!(body["detail"].as_str().unwrap().contains("ssh-keygen -Y sign"), "{body}");
    assert_eq!(curl("demo/c", &operator, "-F command=@stop.json").1["code"], "unsigned");

    // With whatever is wrong beside it, a signed stop is taken, and what was wrong is noted.
    let claims = issuer.claims(&["on-call"]);
    let forged = issuer.ed25519("ed").sign(&claims);
    for (n, (bad, says)) in [
        (ended.reveal(), "\"ended\" ended at"),
        (ApiToken::random().unwrap().reveal(), "none of this node's"),
        (forged.as_str(), "not by the key that it names"),
        ("nonsense", "no token"),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, body) = curl(&format!("demo/stop-{n}"), bad, both);
        assert_eq!(status, "201", "{body}");
        let noted = |line: &str| {
            line.contains(&says.replace('"', "\\\"")) && line.contains("took effect by its signatures")
        };
        wait_until("it to be noted", || world.security_log().lines().any(noted));
    }

    // What gives takes both.
    let lock = deployment.stop("demo/give");
    assert_eq!(world.send("/v1/commands", &lock, None).0, 201);
    let release = deployment.release("demo/give", &[lock.digest()]);
    let alone = deployment.signed(&PEOPLE[..1], release.document.clone());
    let unsigned = Envelope { signatures: Vec::new(), ..release.clone() };
    for (path, envelope) in [("/v1/commands", &release), ("/v1/proposals", &alone)] {
        for (bearer, wanted) in [
            (None, (401, "no-identity")),
            (Some(ended.reveal()), (401, "invalid-token")),
            (Some(forged.as_str()), (401, "invalid-token")),
            (Some(viewer.reveal()), (403, "not-permitted")),
            (Some(team.reveal()), (403, "outside-scopes")),
        ] {
            let (status, body) = world.send(path, envelope, bearer);
            assert_eq!((status, body["code"].as_str().unwrap()), wanted, "{path}: {body}");
        }
    }
    let (status, body) = world.send("/v1/commands", &unsigned, Some(&operator));
    assert_eq!((status, &body["code"]), (401, &json!("unsigned")), "a token replaces no signature");
    assert_eq!(world.send("/v1/commands", &release, Some(&operator)).0, 201);
    // The command shows the profile's token by itself.
    deployment.run_by_both(&["resume", "demo/a", "--reason", "reviewed"]);
}

#[test]
fn s3_guards_need_no_more_than_their_own_token() {
    let world = World::start("", "");
    let deployment = &world.deployment;
    let file = deployment.folder().join("agent.token");
    deployment.run_by_both(&["grant", "demo", "--for", "1h", "--reason", "r"]);
    deployment.run_by_both(&["agent", "enroll", "demo/a", "--reason", "r", "--out", file.to_str().unwrap()]);
    let builder = tagout::Client::builder().profile_file(deployment.profile()).token_file(&file);
    let client = builder.build().unwrap();
    // One guard that is not enrolled costs the other no push.
    let (guard, _elsewhere) = (client.guard("demo/a").unwrap(), client.guard("demo/b").unwrap());
    world.runtime.block_on(guard.ready(DEADLINE)).unwrap();
    let doctor = ["doctor", "demo/a", "--token-file", file.to_str().unwrap()];
    std::fs::remove_file(deployment.dir().join("operator.token")).unwrap();
    let report = deployment.run(&doctor).exits(0).stdout;
    assert!(report.contains("This host can be stopped now"), "{report}");
    assert_eq!(world.send("/v1/commands", &deployment.stop("demo/a"), None).0, 201);
    wait_until("the guard to deny", || guard.check().is_err());
}

#[test]
fn a_token_that_one_node_lacks_is_shown_to_the_next() {
    let three = Three::start();
    let run = |arguments: &[&str]| three.deployment.run(arguments);
    let (access, out) = (three.deployment.dir().join("node-2/access.toml"), "elsewhere.token");
    let access = access.to_str().expect("UTF-8");
    run(&["token", "new", "elsewhere", "--role", "viewer", "--access", access, "--out", out]).exits(0);
    let [first, second] = [0, 1].map(|node| three.url(node, ""));
    wait_until("the second node to know it", || {
        run(&["--api-token", out, "--node", &second, "status"]).code == Some(0)
    });
    run(&["--api-token", out, "status"]).exits(0);
    let refused = run(&["--api-token", out, "--node", &first, "status"]).exits(3);
    let said = format!("{}: the API token is none of this node's", first.trim_end_matches('/'));
    assert!(refused.stderr.contains(&said), "{refused:?}");
}
