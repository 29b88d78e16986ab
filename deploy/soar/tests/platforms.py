"""Each package as its platform runs it: what it answers to an action, or why it failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE_S = 180


class Failed(Exception):
    """The action failed, as the platform shows it."""


def python(command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)


class Splunk:
    name = "splunk"
    actions = {
        "test": "test_connectivity", "status": "get_status", "agents": "list_agents", "stop": "stop", "contain": "contain",
        "throttle": "throttle", "verify": "verify_record", "resume": "propose_resume",
    }  # fmt: skip

    def __init__(self, packages, work):
        self.app, self.work = packages / "splunk" / "tagout", work

    def run(self, action, settings, **parameters):
        # The platform itself asks for what is required.
        asset = {name: value for name, value in settings.items() if value or name in ("secret", "token")}
        files = {"parameters": parameters, "asset": asset}
        for name, content in files.items():
            (self.work / f"{name}.json").write_text(json.dumps(content))
        takes = [] if action == "test" else [str(self.work / "parameters.json")]
        interpreter = os.environ["SPLUNK_VENV"] + "/bin/python"
        words = [interpreter, str(HERE / "splunk_action.py"), self.actions[action], *takes, str(self.work / "asset.json")]
        ran = python(words, cwd=self.app)
        assert "RESULTS " in ran.stdout, ran.stdout + ran.stderr
        results = json.loads(ran.stdout.rsplit("RESULTS ", 1)[1])
        if not all(result["ok"] for result in results):
            raise Failed("; ".join(result["message"] for result in results))
        data = [row for result in results for row in result["data"]]
        return {"agents": data} if action == "agents" else data[0] if data else {}


class Cortex:
    name = "cortex"
    actions = {
        "test": "Tagout_Test", "status": "Tagout_Status", "agents": "Tagout_ListAgents", "stop": "Tagout_Stop",
        "contain": "Tagout_Contain", "throttle": "Tagout_Throttle", "verify": "Tagout_VerifyRecord", "resume": "Tagout_ProposeResume",
    }  # fmt: skip

    def __init__(self, packages, work):
        self.folder, self.work = packages / "cortex", work

    def run(self, action, settings, *, scope="", reason="", case="", digest="", index="", on="case_artifact"):
        flavour = json.loads((self.folder / "Tagout" / f"{self.actions[action]}.json").read_text())
        data = {"data": scope or digest or str(index), "message": reason, "case": {"number": case}}
        if on == "case":
            data = {"title": reason, "number": case, "customFields": [{"name": "tagout_scope", "value": scope}]}
        elif on == "alert":
            data = {"title": reason, "id": case, "customFields": {"tagout_scope": {"string": scope}}}
        assert f"thehive:{on}" in flavour["dataTypeList"]
        job = self.work / "job"
        (job / "input").mkdir(parents=True, exist_ok=True)
        said = {"dataType": f"thehive:{on}", "data": data, "config": {**settings, **flavour["config"]}}
        (job / "input" / "input.json").write_text(json.dumps(said))
        ran = python([sys.executable, str(self.folder / flavour["command"]), str(job)])
        answer = job / "output" / "output.json"
        assert answer.exists(), ran.stdout + ran.stderr
        output = json.loads(answer.read_text())
        answer.unlink()
        if not output["success"]:
            assert not any(settings[name] and settings[name] in json.dumps(output) for name in ("secret", "token"))
            raise Failed(output["errorMessage"])
        return output["full"] | {"operations": output["operations"]}


class Shuffle:
    name = "shuffle"
    actions = Splunk.actions

    def __init__(self, packages, work):
        self.app = packages / "shuffle" / "tagout" / "1.0.0" / "src" / "app.py"

    def run(self, action, settings, **parameters):
        words = [f"--{name}={value}" for name, value in {**settings, **parameters}.items()]
        # By itself the SDK asks its vendor's cloud for what a workflow is given.
        environment = {**os.environ, "CALLBACK_URL": "http://127.0.0.1:9", "BASE_URL": "http://127.0.0.1:9"}
        ran = python([sys.executable, str(self.app), "--standalone", f"--action={self.actions[action]}", *words], env=environment)
        _, found, text = ran.stdout.partition("Successful result From the Function (JSON: True) =====")
        assert found, ran.stdout + ran.stderr
        answer = json.loads(text)
        if not answer["success"]:
            raise Failed(f"{answer['reason']} [{answer.get('code', answer)}]")
        return answer


class Xsoar:
    name = "xsoar"
    actions = {
        "test": "test-module", "status": "tagout-status", "agents": "tagout-agent-list", "stop": "tagout-agent-stop",
        "contain": "tagout-agent-contain", "throttle": "tagout-agent-throttle", "verify": "tagout-record-verify",
        "resume": "tagout-resume-propose",
    }  # fmt: skip

    def __init__(self, packages, work):
        self.script = packages / "xsoar" / "Packs" / "Tagout" / "Integrations" / "Tagout" / "Tagout.py"

    def run(self, action, settings, **parameters):
        params = {**settings, **{name: {"password": settings[name]} for name in ("secret", "token")}}
        given = {"params": params, "args": {k: str(v) for k, v in parameters.items()}, "incident": {"id": "77"}}
        words = [sys.executable, str(HERE / "xsoar_action.py"), str(self.script), self.actions[action]]
        ran = python(words, input=json.dumps(given))
        if ran.returncode:
            raise Failed(ran.stderr)
        answer = json.loads(ran.stdout)
        if answer == "ok":
            return {}
        return {"agents": answer["outputs"]} if action == "agents" else answer["outputs"]


PLATFORMS = [Splunk, Cortex, Shuffle, Xsoar]
