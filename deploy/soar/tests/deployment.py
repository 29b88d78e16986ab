"""A deployment of the tests' own: three nodes as `tagout init` makes them, with the webhook as this folder ships it."""

import base64
import json
import os
import secrets
import socket
import subprocess
import time
import tomllib
from pathlib import Path

TAGOUT = os.environ["TAGOUT_BIN"]
SHIPPED = Path(__file__).resolve().parent.parent / "webhooks.toml"
PATIENCE_S = 60.0
NODES = 3
AGENTS_PER_HOUR = 20
#: Viewers' tokens: the one that the packages need, one that sees no more than the webhook may touch, one that sees something
#: else, and one that the last node does not know.
TOKENS = {"soar": [], "support": ["--scope", "moltbook/support"], "sales": ["--scope", "moltbook/sales"], "not-everywhere": []}


class Deployment:
    def __init__(self, folder):
        self.folder = folder
        self.dir = folder / "deployment"
        self.serving = {}
        for name in ("alice", "bob", "soar", "root"):
            self.run("key", "new", str(folder / name))
        ports = free_ports(2 * NODES)
        nodes = ",".join(f"node-{n + 1}=127.0.0.1:{ports[2 * n]}:{ports[2 * n + 1]}" for n in range(NODES))
        self.urls = [f"https://127.0.0.1:{ports[2 * n]}" for n in range(NODES)]
        people = [word for name in ("alice", "bob") for word in ("--person", f"{name}={folder / name}.pub")]
        self.run(
            "init", "--name", "soar-test", "--dir", str(self.dir), "--nodes", nodes, *people,
            "--automation", f"soar={folder / 'soar'}.pub", "--root-key", f"{folder / 'root'}.pub",
            "--sign-root", str(folder / "root"), "--without-enrolment",
        )  # fmt: skip
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.tokens = {name: self.token(name, scope) for name, scope in TOKENS.items()}
        for n in range(1, NODES + 1):
            self.configure(n)
            self.start(n)
        wait_for(self.has_leader, "a leader")
        self.by_both("grant", "moltbook", "--for", "24h", "--reason", "a test")

    def token(self, name, scope):
        nodes = range(1, NODES if name == "not-everywhere" else NODES + 1)
        access = [word for n in nodes for word in ("--access", str(self.dir / f"node-{n}" / "access.toml"))]
        file = self.folder / f"{name}.token"
        self.run("token", "new", name, "--role", "viewer", *scope, *access, "--out", str(file))
        return file.read_text().strip()

    def configure(self, n):
        node = self.dir / f"node-{n}"
        # As it is shipped but for where the key lies: what an operator changes is what its comments name.
        text = SHIPPED.read_text().replace("/etc/tagout/soar", str(self.folder / "soar"))
        shipped = tomllib.loads(text)["webhook"]
        assert [hook["agents_per_hour"] for hook in shipped] == [AGENTS_PER_HOUR]
        # Another one for what is done to find its limit, which would keep all that follow from it.
        few = text.replace('name = "soar"', 'name = "few"').replace(f"agents_per_hour = {AGENTS_PER_HOUR}", "agents_per_hour = 1")
        few = few.replace('scopes = ["moltbook/support"]', 'scopes = ["moltbook/few"]').replace('test = "nothing"', 'test = "stop"')
        (node / "webhooks.toml").write_text(text + "\n" + few)
        (node / "soar.secret").write_text(self.secret)
        with (node / "tagout.toml").open("a") as config:
            config.write('\nwebhooks = "webhooks.toml"\nreserve_mib = 1\n')

    def start(self, n):
        output = (self.folder / f"node-{n}.log").open("a")
        config = str(self.dir / f"node-{n}" / "tagout.toml")
        self.serving[n] = subprocess.Popen([TAGOUT, "serve", "--config", config], stdout=output, stderr=output)
        output.close()

    def has_leader(self):
        for n, process in self.serving.items():
            assert process.poll() is None, (self.folder / f"node-{n}.log").read_text()
        return self.try_run("status").returncode == 0

    def kill(self, n):
        self.serving[n].kill()
        self.serving[n].wait(PATIENCE_S)

    def end(self):
        for process in self.serving.values():
            process.terminate()
        for process in self.serving.values():
            process.wait(PATIENCE_S)

    def try_run(self, *words, profile=True):
        words = ["--profile", str(self.dir / "profile.toml"), *words] if profile else words
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state"), "NO_COLOR": "1"}
        environment.pop("SSH_AUTH_SOCK", None)
        return subprocess.run([TAGOUT, *words], capture_output=True, text=True, timeout=PATIENCE_S, env=environment)

    def run(self, *words):
        ran = self.try_run(*words, profile=words[0] not in ("key", "init", "token"))
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def by_both(self, *words):
        return self.run(*words, "--key", str(self.folder / "alice"), "--key", str(self.folder / "bob"))

    def locks(self, scope):
        return json.loads(self.run("status", scope, "--json"))["lock_records"]

    def held(self, scope):
        """The locks' ids, once a node shows all that this machine has seen: one that was down has to catch up first."""
        ran = self.try_run("status", scope, "--json")
        return [lock["id"] for lock in json.loads(ran.stdout)["lock_records"]] if ran.returncode == 0 else []

    @property
    def settings(self):
        """What a platform is configured with."""
        genesis = json.loads((self.dir / "genesis.json").read_text())
        keys = [node["key"] for node in json.loads(genesis["document"])["nodes"]]
        return {
            "nodes": ", ".join(self.urls),
            "ca": (self.dir / "ca.pem").read_text(),
            "webhook": "soar",
            "secret": self.secret,
            "token": self.tokens["soar"],
            "scopes": "moltbook/support",
            "deployment": tomllib.loads((self.dir / "profile.toml").read_text())["deployment"],
            "log_keys": " ".join(keys),
        }


def free_ports(count):
    """Of the loopback address, all different; the nodes take them a moment later."""
    taken = [socket.socket() for _ in range(count)]
    for one in taken:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def wait_for(reached, what):
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.05)
