"""That what `build` makes is whole, and as its platform wants it."""

import ast
import base64
import json
import os
import subprocess
import zipfile
from pathlib import Path

import yaml

CLIENT = Path(__file__).resolve().parent.parent / "tagout_soar.py"


def test_each_has_the_client_and_no_other_copy_of_it(packages):
    carried = [packages / path for path in (
        "splunk/tagout/src/tagout_soar.py", "cortex/Tagout/tagout_soar.py", "shuffle/tagout/1.0.0/src/tagout_soar.py",
    )]  # fmt: skip
    assert all(path.read_text() == CLIENT.read_text() for path in carried)
    merged = (packages / "xsoar/Packs/Tagout/Integrations/Tagout/Tagout.py").read_text()
    assert CLIENT.read_text().strip() in merged and "from tagout_soar" not in merged
    for path in packages.rglob("*.py"):
        ast.parse(path.read_text(), str(path), feature_version=(3, 10))


def test_the_archives_are_the_folders_and_always_the_same_bytes(packages, tmp_path):
    subprocess.run([str(CLIENT.parent / "build"), str(tmp_path)], check=True, stdout=subprocess.PIPE)
    for name in ("splunk", "cortex", "shuffle", "xsoar"):
        archive = packages / f"tagout-{name}.zip"
        assert archive.read_bytes() == (tmp_path / archive.name).read_bytes()
        folder = packages / name
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with zipfile.ZipFile(archive) as file:
            assert {one: file.read(one) for one in file.namelist()} == files


def test_the_responders_differ_by_what_they_do_and_are_configured_once(packages):
    made = [json.loads(path.read_text()) for path in (packages / "cortex/Tagout").glob("*.json")]
    assert len(made) == 8 and len({one["name"] for one in made}) == 8
    assert len({json.dumps(one["configurationItems"]) for one in made}) == 1
    source = (packages / "cortex/Tagout/tagout.py").read_text()
    for one in made:
        assert one["baseConfig"] == "Tagout" and (packages / "cortex" / one["command"]).stat().st_mode & 0o100
        assert f"def {one['config']['service']}(self, client)" in source
        assert set(one) >= {"name", "version", "author", "license", "description", "dataTypeList", "command"}


def test_the_shuffle_app_describes_what_it_has(packages):
    folder = packages / "shuffle/tagout/1.0.0"
    described = yaml.safe_load((folder / "api.yaml").read_text())
    (app,) = [node for node in ast.parse((folder / "src/app.py").read_text()).body if isinstance(node, ast.ClassDef)]
    methods = {node.name: node for node in app.body if isinstance(node, ast.FunctionDef)}
    assert described["app_version"] == "1.0.0" and len(described["actions"]) == 8
    for action in described["actions"]:
        taken = {argument.arg for argument in methods[action["name"]].args.args} - {"self"}
        assert {parameter["name"] for parameter in action["parameters"]} == taken
    settings = {parameter["name"] for parameter in described["authentication"]["parameters"]}
    assert settings == {"nodes", "ca", "webhook", "secret", "token", "scopes", "deployment", "log_keys"}


def test_the_shuffle_workflow_uses_what_the_app_has(packages):
    folder = packages / "shuffle"
    described = yaml.safe_load((folder / "tagout/1.0.0/api.yaml").read_text())
    known = {action["name"]: action["parameters"] for action in described["actions"]}
    workflow = json.loads((folder / "contain-an-agent.json").read_text())
    nodes = {action["id"]: action for action in workflow["actions"]}
    assert [node["id"] for node in nodes.values() if node["isStartNode"]] == [workflow["start"]]
    followed = {branch["destination_id"]: nodes[branch["source_id"]]["label"] for branch in workflow["branches"]}
    assert set(followed) | {workflow["start"]} == set(nodes)
    argument = json.loads(workflow["example_argument"])
    for node in nodes.values():
        assert (node["app_name"], node["app_version"]) == (described["name"], described["app_version"])
        given = {parameter["name"]: parameter["value"] for parameter in node["parameters"]}
        assert set(given) == {parameter["name"] for parameter in known[node["name"]]}
        assert all(given[parameter["name"]] for parameter in known[node["name"]] if parameter["required"])
        # Shuffle leaves a reference to what is not there as it stands.
        for value in given.values():
            source, _, field = value.removeprefix("$").partition(".")
            assert not value.startswith("$") or field in (argument if source == "exec" else ("digest", "index"))
            assert source in ("exec", followed.get(node["id"])) or not value.startswith("$")


def test_the_xsoar_pack_describes_what_it_has(packages):
    pack = packages / "xsoar/Packs/Tagout"
    described = yaml.safe_load((pack / "Integrations/Tagout/Tagout.yml").read_text())
    commands = {command["name"]: command for command in described["script"]["commands"]}
    script = (pack / "Integrations/Tagout/Tagout.py").read_text()
    assert len(commands) == 7 and all(f'"{name}": ' in script for name in commands)
    whole = yaml.safe_load((packages / "xsoar/integration-Tagout.yml").read_text())
    assert whole["script"]["script"] == script and "certificates are verified always" in whole["detaileddescription"].lower()
    icon = base64.b64decode(whole["image"].removeprefix("data:image/png;base64,"))
    assert icon.startswith(b"\x89PNG") and len(icon) < 10 * 1024
    metadata = json.loads((pack / "pack_metadata.json").read_text())
    assert metadata["name"] == described["display"] == "Tagout"

    (playbook,) = [yaml.safe_load(path.read_text()) for path in (pack / "Playbooks").glob("playbook-*.yml")]
    for key, task in playbook["tasks"].items():
        assert task["id"] == key and task["taskid"] == task["task"]["id"]
        assert all(following in playbook["tasks"] for names in task.get("nexttasks", {}).values() for following in names)
        if task["task"]["iscommand"]:
            command = commands[task["task"]["script"].removeprefix("Tagout|||")]
            needed = {argument["name"] for argument in command["arguments"] if argument.get("required")}
            assert needed <= set(task["scriptarguments"]) <= {argument["name"] for argument in command["arguments"]}


def test_no_setting_turns_verification_off(packages):
    for path in packages.rglob("*"):
        if path.suffix in (".py", ".yml", ".yaml", ".json", ".toml"):
            text = path.read_text().lower()
            assert not any(word in text for word in ("insecure", "verify=false", "cert_none", "check_hostname")), path


def test_splunks_own_tool_makes_the_apps_manifest(packages):
    """What the platform reads, from the app's own declarations. Its .tgz, for which it fetches all wheels, is not made here."""
    app, tools = packages / "splunk" / "tagout", os.environ["SPLUNK_VENV"] + "/bin/"
    environment = {**os.environ, "UV_PYTHON": tools + "python"}
    for words in (("uv", "lock", "--quiet"), ("soarapps", "manifests", "create", "manifest.json", ".")):
        ran = subprocess.run([tools + words[0], *words[1:]], cwd=app, env=environment, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    manifest = json.loads((app / "manifest.json").read_text())
    (app / "uv.lock").unlink()
    (app / "manifest.json").unlink()
    actions = {action["action"]: action for action in manifest["actions"]}
    assert set(actions) == {
        "test connectivity", "get status", "list agents", "stop", "contain", "throttle", "verify record", "propose resume",
    }  # fmt: skip
    takes = ("stop", "contain", "throttle")
    assert all(actions[name]["read_only"] == (name not in takes) for name in actions)
    assert all(parameter["required"] == (name != "case") for name, parameter in actions["stop"]["parameters"].items())
    settings = manifest["configuration"]
    assert settings["secret"]["data_type"] == settings["token"]["data_type"] == "password"
    assert {name for name, setting in settings.items() if setting["required"]} == {"nodes", "webhook", "secret", "token"}
