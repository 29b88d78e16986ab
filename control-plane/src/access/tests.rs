use std::net::Ipv4Addr;

use super::*;

fn access(text: &str) -> (tempfile::TempDir, Arc<Access>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.toml");
    std::fs::write(&path, text).unwrap();
    let access = Access::load(Some(&path), Ipv4Addr::LOCALHOST.into(), Arc::default()).unwrap();
    (dir, access)
}

async fn who(access: &Access, token: &ApiToken) -> Result<Identity, Refused> {
    access.judge(&access.prepare(Shown::Token(token)).await?)
}

#[tokio::test]
async fn what_init_writes_lets_its_token_in_and_nobody_else() {
    let (token, other) = (ApiToken::random().unwrap(), ApiToken::random().unwrap());
    let lines = token_lines("operator", &token.digest(), AccessRole::Operator, &[], 4_102_444_800_000);
    let (_dir, access) = access(&new_file("", &lines));
    let identity = who(&access, &token).await.unwrap();
    assert_eq!((identity.name.as_str(), identity.role), ("token operator", AccessRole::Operator));
    assert_eq!(identity.scopes, [Scope::fleet()]);
    assert_eq!(who(&access, &other).await, Err(Refused::UnknownToken));
    assert!(access.prepare(Shown::Jwt("a.b.c")).await.is_err_and(|why| why == Refused::NoIssuer));
    assert!(!access.is_open(Open::Log) && !access.commands_need_bearer());
    assert!(access.tokens()[0].last_used_ms.is_some());
}

#[tokio::test]
async fn without_a_file_nobody_reads() {
    let access = Access::load(None, Ipv4Addr::LOCALHOST.into(), Arc::default()).unwrap();
    let refused = who(&access, &ApiToken::random().unwrap()).await;
    assert_eq!(refused, Err(Refused::NoFile));
    assert!(Refused::NoFile.to_string().contains("tagout token new"));
    assert!(!access.is_open(Open::All));
}

#[tokio::test]
async fn another_file_is_taken_over_and_a_wrong_one_is_not() {
    let (one, two) = (ApiToken::random().unwrap(), ApiToken::random().unwrap());
    let lines =
        |token: &ApiToken| token_lines("t", &token.digest(), AccessRole::Viewer, &[], 4_102_444_800_000);
    let (dir, access) = access(&new_file("\"log\"", &lines(&one)));
    let path = dir.path().join("access.toml");
    assert!(access.look(&path).is_none(), "it is the one that was read");
    std::fs::write(&path, "tokn = 1").unwrap();
    assert!(access.look(&path).unwrap().is_err());
    assert!(who(&access, &one).await.is_ok() && access.is_open(Open::Log));
    assert!(access.look(&path).is_none(), "it was refused before");
    std::fs::write(&path, new_file("", &lines(&two))).unwrap();
    access.take_over(access.look(&path).unwrap().unwrap()).unwrap();
    assert_eq!(who(&access, &one).await, Err(Refused::UnknownToken));
    assert!(who(&access, &two).await.is_ok() && !access.is_open(Open::Log));
}

#[test]
fn lines_of_a_token_read_back_with_its_scopes() {
    let token = ApiToken::random().unwrap();
    let scopes = ["moltbook/a", "moltbook/b"].map(|scope| Scope::parse(scope).unwrap());
    let lines = token_lines("team", &token.digest(), AccessRole::Viewer, &scopes, 1_798_761_600_000);
    let rules = Rules::parse(Path::new("access.toml"), &new_file("\"log\", \"metrics\"", &lines)).unwrap();
    let rule = &rules.tokens[&token.digest()];
    assert_eq!((rule.scopes.as_slice(), rule.expires_at_ms), (scopes.as_slice(), 1_798_761_600_000));
}
