"""Every action of every package on live nodes, and everything that they are refused."""

import pytest

from deployment import wait_for
from platforms import Cortex, Failed


def refused(platform, action, settings, **parameters):
    with pytest.raises(Failed) as failure:
        platform.run(action, settings, **parameters)
    return str(failure.value)


def test_an_agent_is_throttled_contained_stopped_verified_and_brought_back_by_people_alone(platform, deployment):
    settings, scope = deployment.settings, f"moltbook/support/{platform.name}"
    platform.run("test", settings)
    assert platform.run("status", settings)["deployment"] == settings["deployment"]
    deployment.by_both("grant", scope, "--for", "24h", "--reason", "a test")

    done = {}
    for action, called in (("throttle", "throttle"), ("contain", "isolate"), ("stop", "stop")):
        done[action] = platform.run(action, settings, scope=scope, reason=f"beaconing, seen by {platform.name}", case="INC-1")
        assert (done[action]["action"], done[action]["scope"], done[action]["repeated"]) == (called, scope, False)
    assert {lock["id"] for lock in deployment.locks(scope)} == {one["digest"] for one in done.values()}
    if platform.name == "cortex":
        assert done["stop"]["operations"] == [{"type": "AddTagToArtifact", "tag": f"tagout:stop={scope}"}]

    # The same again for the case is the same lock.
    again = platform.run("stop", settings, scope=scope, reason="another", case="INC-1")
    assert (again["repeated"], again["digest"]) == (True, done["stop"]["digest"])

    listed = {agent["scope"]: agent for agent in platform.run("agents", settings, scope="moltbook/support")["agents"]}
    assert listed[scope]["verdict"].lower() == "denied" and len(listed[scope]["locks"]) == 3

    record = platform.run("verify", settings, digest=done["stop"]["digest"])
    assert (record["verified"], record["index"], record["scope"]) == (True, done["stop"]["index"], scope)
    assert record["checkpoint_by"].startswith("soar-test/node-") and "beaconing" in record["document"]

    # What it says is what people run, and nothing else brings the agent back.
    proposed = platform.run("resume", settings, scope=scope)
    assert proposed["resumed"] is False and "automation cannot give anything back" in proposed["message"]
    assert {lock["digest"] for lock in proposed["blocked_by"]} == {one["digest"] for one in done.values()}
    (line,) = proposed["lines"]
    assert line == f"tagout resume {scope} --reason reviewed"
    alone = deployment.try_run(*line.split()[1:], "--key", str(deployment.folder / "alice"))
    assert alone.returncode == 8, alone.stdout + alone.stderr
    proposed = platform.run("resume", settings, scope=scope)
    assert len(proposed["proposals"]) == 2 and proposed["lines"][-1].startswith("tagout proposals sign ")
    deployment.run(*proposed["lines"][-1].split()[1:], "--key", str(deployment.folder / "bob"))
    assert deployment.locks(scope) == []

    # What people have lifted is still in the log, and is found by its index.
    assert "no such lock is in force" in refused(platform, "verify", settings, digest=done["stop"]["digest"])
    assert platform.run("verify", settings, index=done["stop"]["index"])["digest"] == done["stop"]["digest"]
    free = platform.run("resume", settings, scope=scope)
    assert free["blocked_by"] == [] and "tagout grant" in free["lines"][0]


def test_what_is_wrong_is_said_and_stops_nobody(platform, deployment):
    settings, scope = deployment.settings, f"moltbook/support/spared-{platform.name}"
    about = {"scope": scope, "reason": "a test", "case": "INC-2"}
    other = "whsec_" + "A" * 40
    cases = [
        ("test", {"secret": other}, {}, "compare the secret"),
        ("stop", {"secret": other}, about, "compare the secret"),
        ("stop", {"secret": "whsec_!"}, about, "whsec_ and base64"),
        ("stop", {"secret": ""}, about, "settings webhook and secret"),
        ("stop", {"webhook": "nobody"}, about, "no webhook of that name"),
        ("stop", {}, {**about, "scope": "moltbook/else"}, "may not touch moltbook/else"),
        ("contain", {}, {**about, "scope": "moltbook//x"}, "names no scope"),
        ("stop", {"nodes": "http://127.0.0.1:1"}, about, "is no https://HOST:PORT"),
        ("stop", {"ca": ""}, about, "certificate is not trusted"),
        ("stop", {"ca": "-----BEGIN CERTIFICATE----- AAAA -----END CERTIFICATE-----"}, about, "no whole certificate"),
        ("stop", {"nodes": "https://127.0.0.1:1"}, about, "no node could do it"),
        ("verify", {"deployment": ""}, {"index": 0}, "settings deployment"),
        ("verify", {"log_keys": deployment.settings["log_keys"].split()[0][:-3]}, {"index": 0}, "no verifier key"),
        ("verify", {"deployment": "other:" + "0" * 64}, {"index": 0}, "the setting deployment is other"),
        ("verify", {}, {"index": 4000}, "none with index 4000"),
    ]
    for action, changed, parameters, said in cases:
        message = refused(platform, action, {**settings, **changed}, **parameters)
        assert said in message, f"{action} {changed}: {message}"
    assert deployment.locks(scope) == [] and deployment.locks("moltbook/else") == []


def test_the_test_of_connectivity_says_what_is_wrong_with_the_token(platform, deployment):
    settings, tokens = deployment.settings, deployment.tokens
    unverified = {"log_keys": ""}
    cases = [
        ({"token": ""}, "the setting token is empty", "no-identity"),
        ({"token": "tagout_api_" + "0" * 64}, "the setting token is not taken. The node says: the API token is none of this node's", "invalid-token"),
        ({"token": "guessed"}, "the setting token is not taken. The node says: the bearer token is no API token", "invalid-token"),
        ({"token": "two words"}, "the setting token is one line", "settings"),
        ({"token": tokens["sales"]}, "the setting token sees too little: give it one whose --scope", "outside-scopes"),
        ({"token": tokens["sales"], "scopes": ""}, "verify record reads the log", "outside-scopes"),
        ({"token": tokens["support"]}, "verify record reads the log", "outside-scopes"),
        ({"token": tokens["support"], "scopes": "moltbook", **unverified}, "this tells of all that is on moltbook", "outside-scopes"),
        ({"token": tokens["not-everywhere"]}, f"{deployment.urls[-1]}: the setting token is not taken", "invalid-token"),
        ({"scopes": "moltbook//support"}, "the setting scopes: ", "settings"),
    ]
    for changed, said, code in cases:
        message = refused(platform, "test", {**settings, **changed})
        assert said in message and f"[{code}]" in message, f"{changed}: {message}"
    # As little as it can be.
    platform.run("test", {**settings, "token": tokens["support"], **unverified})


def test_a_token_is_for_reading_and_what_takes_away_asks_for_none(platform, deployment):
    settings, scope = deployment.settings, f"moltbook/support/unread-{platform.name}"
    reads = [("status", {}), ("agents", {"scope": scope}), ("verify", {"index": 0}), ("resume", {"scope": scope})]
    for action, parameters in reads:
        message = refused(platform, action, {**settings, "token": ""}, **parameters)
        assert "the setting token is empty" in message, f"{action}: {message}"
        if action != "status":
            message = refused(platform, action, {**settings, "token": deployment.tokens["sales"]}, **parameters)
            assert "the setting token sees too little" in message, f"{action}: {message}"
    done = platform.run("stop", {**settings, "token": ""}, scope=scope, reason="a test", case="INC-6")
    assert deployment.held(scope) == [done["digest"]]
    # Each node has an access file of its own: where one does not know the token, the next one is asked.
    last_first = {**settings, "token": deployment.tokens["not-everywhere"], "nodes": " ".join(reversed(deployment.urls))}
    assert [lock["digest"] for lock in platform.run("resume", last_first, scope=scope)["blocked_by"]] == [done["digest"]]


def test_a_certificate_that_lost_its_line_breaks_is_still_one(platform, deployment):
    settings = {**deployment.settings, "ca": deployment.settings["ca"].replace("\n", " ")}
    assert platform.run("status", settings)["deployment"] == settings["deployment"]


def test_a_case_and_an_alert_name_the_agent_by_a_custom_field(packages, deployment, tmp_path):
    cortex = Cortex(packages, tmp_path)
    for on, tag in (("case", "AddTagToCase"), ("alert", "AddTagToAlert")):
        scope = f"moltbook/support/thehive-{on}"
        done = cortex.run("contain", deployment.settings, scope=scope, reason="a test", case="7", on=on)
        assert (done["scope"], done["case"]) == (scope, "thehive-7")
        assert done["operations"] == [{"type": tag, "tag": f"tagout:isolate={scope}"}]
        assert "custom field tagout_scope" in refused(cortex, "stop", deployment.settings, case="7", on=on)


def test_beyond_its_agents_an_hour_it_is_for_people(platform, deployment):
    settings = {**deployment.settings, "webhook": "few"}
    message = ""
    for agent in ("one", "two"):
        try:
            platform.run("stop", settings, scope=f"moltbook/few/{platform.name}-{agent}", reason="a test", case="INC-3")
        except Failed as failure:
            message = str(failure)
    assert "1 agents an hour" in message and "people to do" in message and "blast-limit" in message
    # This one is made to do something on a test, which the test of connectivity tells.
    if platform.name == "shuffle":
        assert "scope" in refused(platform, "test", settings)


def test_another_node_takes_over(platform, deployment):
    scope = f"moltbook/support/while-one-is-down-{platform.name}"
    deployment.kill(1)
    try:
        wait_for(lambda: deployment.try_run("--node", deployment.urls[1], "status").returncode == 0, "the others")
        done = platform.run("stop", deployment.settings, scope=scope, reason="a test", case="INC-4")
        assert done["repeated"] is False
        assert platform.run("verify", deployment.settings, digest=done["digest"])["index"] == done["index"]
    finally:
        deployment.start(1)
    wait_for(lambda: deployment.held(scope) == [done["digest"]], "the node that was down to have it")


def test_without_a_quorum_it_says_pending_and_the_stop_comes_when_there_is_one(platform, deployment):
    scope = f"moltbook/support/pending-{platform.name}"
    deployment.kill(1)
    deployment.kill(2)
    try:
        message = refused(platform, "stop", deployment.settings, scope=scope, reason="a test", case="INC-5")
        assert "PENDING" in message and "[pending]" in message
    finally:
        deployment.start(1)
        deployment.start(2)
    wait_for(lambda: len(deployment.held(scope)) == 1, "the stop")
    # Sent again for the case it is that lock, not another.
    again = platform.run("stop", deployment.settings, scope=scope, reason="a test", case="INC-5")
    assert again["repeated"] is True
