use super::*;

fn ids() -> Ids {
    Ids { request: Some("d1ac0489-ed51-4345-9175-f3078f30afe5".into()), ..Ids::default() }
}

fn asked(command: Value) -> Result<Asked, NotTaken> {
    read(command, &ids()).map(|request| request.asked)
}

fn taken(action: &str, args: Value) -> Result<LockKind, NotTaken> {
    match asked(json!({"action": action, "target": {TARGET: "demo/agent_2"}, "args": {"x-tagout": args}}))? {
        Asked::Take(wanted) => Ok(wanted.kind),
        Asked::Features(said) => panic!("{said:?}"),
    }
}

#[test]
fn the_examples_of_the_language_are_answered_as_it_says() {
    // Language 1.0, sections 4.2.1 and 4.2.2, and annex A.1.
    let features = |list: Value| asked(json!({"action": "query", "target": {"features": list}}));
    assert_eq!(features(json!([])), Ok(Asked::Features(Map::new())));
    let Ok(Asked::Features(said)) = features(json!(["versions", "profiles", "rate_limit"])) else { panic!() };
    assert_eq!(Value::Object(said), json!({"versions": ["1.0"], "profiles": ["x-tagout"]}));
    let device = json!({"device": {"device_id": "9BCE8431AC106FAA3861C7E771D20E53"}});
    let contain = asked(json!({"action": "contain", "target": device}));
    assert!(matches!(contain, Err(NotTaken::NotImplemented(_))), "{contain:?}");
    // Section 4.1: any other argument is a bad request.
    for args in [json!({"duration": 1}), json!({"response_requested": "ack"}), json!({"x-tagout": {}})] {
        let query = asked(json!({"action": "query", "target": {"features": []}, "args": args}));
        assert!(matches!(query, Err(NotTaken::Malformed(_))), "{query:?}");
    }
    let complete = json!({"response_requested": "complete"});
    assert!(asked(json!({"action": "query", "target": {"features": []}, "args": complete})).is_ok());
    assert!(features(json!(["versions", "versions"])).is_err() && features(json!(["colours"])).is_err());
}

#[test]
fn a_message_of_the_transfer_specification_is_unwrapped() {
    // Transfer 1.1, annex E.1.1, with a command in it.
    let command = json!({"action": "stop", "target": {TARGET: "demo/agent_2"}});
    let message = json!({"headers": {"request_id": "d1ac0489-ed51-4345-9175-f3078f30afe5", "created": 1545257700000_u64,
        "from": "oc2producer.company.net", "to": ["oc2consumer.company.net"]}, "body": {"openc2": {"request": command}}});
    let (read_ids, read_command) = unwrap(Form::Message, message.to_string().as_bytes(), None).unwrap();
    assert_eq!(read_command, command);
    assert_eq!(read_ids.created_ms, Some(1_545_257_700_000));
    let answer = response(Form::Message, &read_ids, "moltbook/node-1", 7, json!({"status": 200}));
    assert_eq!(
        answer,
        json!({"headers": {"request_id": "d1ac0489-ed51-4345-9175-f3078f30afe5", "created": 7, "from": "moltbook/node-1",
            "to": ["oc2producer.company.net"]}, "body": {"openc2": {"response": {"status": 200}}}})
    );
    // Transfer 1.0: the command alone, known by X-Request-ID.
    let (alone, read_command) = unwrap(Form::Command, command.to_string().as_bytes(), Some("x")).unwrap();
    assert_eq!((alone.request.as_deref(), read_command), (Some("x"), command));
    assert_eq!(response(Form::Command, &alone, "n", 7, json!({"status": 200})), json!({"status": 200}));

    let signed = json!({"body": {"openc2": {"request": {}}}, "signature": "x"}).to_string();
    assert!(matches!(unwrap(Form::Message, signed.as_bytes(), None), Err(NotTaken::NotImplemented(_))));
    let answer = json!({"body": {"openc2": {"response": {"status": 200}}}}).to_string();
    assert!(matches!(unwrap(Form::Message, answer.as_bytes(), None), Err(NotTaken::Malformed(_))));
}

#[test]
fn a_media_type_says_how_it_came() {
    assert_eq!(Form::of("application/openc2+json;version=1.0"), Ok(Form::Message));
    assert_eq!(Form::of("application/OpenC2+JSON; version=\"1.1\"; charset=utf-8"), Ok(Form::Message));
    assert_eq!(Form::of("application/openc2;version=1.0"), Ok(Form::MessageUnsuffixed));
    assert_eq!(Form::of("application/openc2-cmd+json;version=1.0"), Ok(Form::Command));
    for wrong in ["", "application/json", "application/openc2+json;version=9", "application/openc2+json;odd"]
    {
        assert!(matches!(Form::of(wrong), Err(NotTaken::Media(_))), "{wrong}");
    }
}

#[test]
fn what_takes_away_says_how() {
    assert_eq!(taken("stop", json!({})), Ok(LockKind::Halt));
    assert_eq!(taken("stop", json!({"mode": "pause"})), Ok(LockKind::Pause));
    assert_eq!(taken("stop", json!({"mode": "drain", "drain_ms": 9})), Ok(LockKind::Drain { drain_ms: 9 }));
    assert_eq!(taken("contain", json!({})), Ok(LockKind::Isolate));
    let limits = CallLimits { calls_per_minute: Some(6), tokens_per_minute: None };
    assert_eq!(taken("set", json!({"calls_per_minute": 6})), Ok(LockKind::Throttle(limits)));
    for (action, args) in [
        ("stop", json!({"mode": "reset"})),
        ("stop", json!({"mode": "drain"})),
        ("stop", json!({"drain_ms": 9})),
        ("stop", json!({"calls_per_minute": 6})),
        ("contain", json!({"mode": "halt"})),
        ("set", json!({})),
        ("set", json!({"until": 6})),
    ] {
        assert!(matches!(taken(action, args.clone()), Err(NotTaken::Malformed(_))), "{action} {args}");
    }
}

#[test]
fn s7_what_would_give_back_is_refused_with_a_pointer_to_people() {
    for action in GIVES {
        let refused = taken(action, json!({})).unwrap_err();
        assert_eq!(refused, NotTaken::GivesBack(action.into()));
        assert!(refused.to_string().contains("tagout resume SCOPE --reason WHY"), "{refused}");
        // A lock is not cancelled by the command that placed it either.
        let before = asked(json!({"action": action, "target": {"command": "d1ac0489"}}));
        assert_eq!(before, Err(NotTaken::GivesBack(action.into())));
    }
    // No lock ends by itself.
    for args in [json!({"duration": 1000}), json!({"stop_time": 1}), json!({"start_time": 1})] {
        let timed = asked(json!({"action": "stop", "target": {TARGET: "demo"}, "args": args}));
        assert!(matches!(timed, Err(NotTaken::NotImplemented(_))), "{timed:?}");
    }
}

#[test]
fn what_is_no_command_is_refused() {
    for command in [
        json!({"action": "stop"}),
        json!({"action": "stop", "target": {}}),
        json!({"action": "stop", "target": {TARGET: "a", "features": []}}),
        json!({"action": "stop", "target": {TARGET: 7}}),
        json!({"action": "stop", "target": {TARGET: "a//b"}}),
        json!({"action": "stop", "target": {TARGET: "a"}, "args": {"x-acme": {}}}),
        json!({"action": "stop", "target": {TARGET: "a"}, "until": 1}),
        json!({"action": "stop", "target": {TARGET: "a"}, "args": {"response_requested": "later"}}),
    ] {
        assert!(matches!(asked(command.clone()), Err(NotTaken::Malformed(_))), "{command}");
    }
    let elsewhere = json!({"action": "stop", "target": {TARGET: "a"}, "actuator": {"slpf": {}}});
    assert!(matches!(asked(elsewhere), Err(NotTaken::NotImplemented(_))));
    let stop = json!({"action": "stop", "target": {TARGET: "a"}});
    assert_eq!(read(stop.clone(), &Ids::default()), Err(NotTaken::NoId));
    let odd = Ids { request: Some("a b".into()), ..Ids::default() };
    assert_eq!(read(stop, &odd), Err(NotTaken::Id));
}
