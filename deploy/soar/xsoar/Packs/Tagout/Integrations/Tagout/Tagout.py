import demistomock as demisto  # noqa: F401
from CommonServerPython import *  # noqa: F401
from tagout_soar import TagoutClient, TagoutError


def tagout_client():
    params = demisto.params()
    password = lambda name: (params.get(name) or {}).get("password", "")  # noqa: E731
    return TagoutClient(
        params.get("nodes", ""),
        params.get("ca", ""),
        params.get("webhook") or "soar",
        password("secret"),
        password("token"),
        params.get("scopes", ""),
        params.get("deployment", ""),
        params.get("log_keys", ""),
    )


def tagout_case(args):
    """The incident is the case, so that the same command run in it again is the same lock."""
    incident = demisto.incident().get("id") if not args.get("case") else ""
    return args.get("case") or (f"xsoar-{incident}" if incident else "")


def take_away(action):
    def run(client, args):
        done = client.take_away(action, args.get("scope"), args.get("reason"), tagout_case(args))
        return CommandResults("Tagout.Lock", "digest", done, tableToMarkdown("In force; only people lift it", [done]))

    return run


def status(client, args):
    found = client.status()
    return CommandResults("Tagout.Status", "deployment", found, tableToMarkdown("Tagout", [found]))


def agents(client, args):
    found = client.agents(args.get("scope") or "*")
    return CommandResults("Tagout.Agent", "scope", found, tableToMarkdown("Agents", found))


def verify(client, args):
    found = client.verify_record(args.get("digest"), args.get("index"))
    shown = {name: value for name, value in found.items() if name != "document"}
    return CommandResults("Tagout.Record", "digest", found, tableToMarkdown("In the log", [shown]))


def resume(client, args):
    found = client.propose_resume(args.get("scope"), args.get("reason") or "reviewed")
    lines = "\n".join(found["lines"])
    text = f"{found['message']}\n```\n{lines}\n```\n" + tableToMarkdown("Blocked by", found["blocked_by"])
    return CommandResults("Tagout.Resume", "scope", found, text)


TAGOUT_COMMANDS = {
    "tagout-status": status,
    "tagout-agent-list": agents,
    "tagout-agent-stop": take_away("stop"),
    "tagout-agent-contain": take_away("contain"),
    "tagout-agent-throttle": take_away("throttle"),
    "tagout-record-verify": verify,
    "tagout-resume-propose": resume,
}


def main():
    command = demisto.command()
    try:
        client = tagout_client()
        if command == "test-module":
            client.test_connectivity()
            return_results("ok")
        elif command in TAGOUT_COMMANDS:
            return_results(TAGOUT_COMMANDS[command](client, demisto.args()))
        else:
            raise NotImplementedError(f"there is no command {command}")
    except TagoutError as error:
        return_error(f"{error} [{error.code}]")


if __name__ in ("__main__", "__builtin__", "builtins"):
    main()
