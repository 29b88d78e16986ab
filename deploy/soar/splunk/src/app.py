"""Tagout for Splunk SOAR: actions on AI agents. What they ask of the nodes is in tagout_soar.py beside this file."""

from collections.abc import Iterator
from contextlib import contextmanager

from soar_sdk.abstract import SOARClient
from soar_sdk.action_results import ActionOutput, OutputField
from soar_sdk.app import App
from soar_sdk.asset import AssetField, BaseAsset
from soar_sdk.exceptions import ActionFailure
from soar_sdk.logging import getLogger
from soar_sdk.params import Param, Params

from .tagout_soar import TagoutClient, TagoutError

logger = getLogger()


class Asset(BaseAsset):
    nodes: str = AssetField(description="URLs of the nodes, with commas between them, such as https://node-1.example:7470")
    ca: str | None = AssetField(description="Text of the deployment's ca.pem; empty for the platform's own authorities")
    webhook: str = AssetField(default="soar", description="Name of the webhook in the nodes' webhooks.toml")
    secret: str = AssetField(sensitive=True, description="Secret of the webhook: whsec_ and base64")
    token: str = AssetField(sensitive=True, description="API token of a viewer, by which all is read; stop, contain and throttle take none")
    scopes: str | None = AssetField(description="What the webhook may touch, with commas between; the test of connectivity sees whether the token sees it")
    deployment: str | None = AssetField(description="NAME:GENESIS as in profile.toml; needed to verify records")
    log_keys: str | None = AssetField(description="Verifier keys of the nodes, as the genesis lists them; needed to verify records")


app = App(
    asset_cls=Asset,
    name="Tagout",
    appid="0b7f7a4e-6a52-4c0e-9b51-9f0c8b7d2a16",
    app_type="endpoint",
    product_vendor="Tagout",
    product_name="Tagout",
    publisher="Tagout",
    logo="logo.svg",
    logo_dark="logo_dark.svg",
    python_version="3.13",
    min_phantom_version="7.0.0",
)


@contextmanager
def tagout(asset: Asset) -> Iterator[TagoutClient]:
    """A client by the asset's settings; what goes wrong with it is the action's failure, as the platform shows them."""
    try:
        yield TagoutClient(
            asset.nodes, asset.ca, asset.webhook, asset.secret, asset.token, asset.scopes, asset.deployment, asset.log_keys
        )
    except TagoutError as error:
        raise ActionFailure(f"{error} [{error.code}]") from error


def case_of(params: "TakeParams", soar: SOARClient) -> str:
    """The container is the case, so that the same action run on it again is the same lock."""
    container = soar.get_executing_container_id()
    return params.case or (f"splunk-soar-{container}" if container else "")


@app.test_connectivity()
def test_connectivity(soar: SOARClient, asset: Asset) -> None:
    with tagout(asset) as client:
        for node in client.test_connectivity()["nodes"]:
            logger.progress(f"{node['url']} is {node['node']}, with {node['log_size']} entries in its log")
        logger.progress(f"webhook {asset.webhook} takes what this asset signs")


class StatusOutput(ActionOutput):
    deployment: str
    node: str
    log_size: int
    authority_version: int
    locks: int = OutputField(column_name="Locks")
    grants: int = OutputField(column_name="Grants")
    proposals: int = OutputField(column_name="Open proposals")
    time_ms: int


@app.action(action_type="investigate", read_only=True, verbose="Locks, consent and the size of the log, as a node has them")
def get_status(params: Params, soar: SOARClient, asset: Asset) -> StatusOutput:
    with tagout(asset) as client:
        return StatusOutput(**client.status())


class ScopeParams(Params):
    scope: str = Param(description="An agent, or a group of agents, such as moltbook/support", primary=True, cef_types=["tagout scope"])


class ListParams(Params):
    scope: str = Param(description="Agents at or below this scope; * for all", default="*", cef_types=["tagout scope"])


class AgentOutput(ActionOutput):
    scope: str = OutputField(cef_types=["tagout scope"], example_values=["moltbook/support/agent_22"], column_name="Agent")
    verdict: str = OutputField(example_values=["enabled", "essential-only", "denied"], column_name="Verdict")
    instances: int = OutputField(column_name="Processes")
    locks: list[str] = OutputField(cef_types=["tagout digest"])
    consent_until_ms: int | None


@app.action(action_type="investigate", read_only=True, render_as="table", verbose="Agents, what they may do now, and which locks hold them")
def list_agents(params: ListParams, soar: SOARClient, asset: Asset) -> list[AgentOutput]:
    with tagout(asset) as client:
        return [AgentOutput(**agent) for agent in client.agents(params.scope)]


class TakeParams(ScopeParams):
    reason: str = Param(description="Why, for whoever reads the lock's tag")
    case: str | None = Param(description="Number of the case; the container's if empty. Of one case the same lock is placed once")


class TakeOutput(ActionOutput):
    scope: str = OutputField(cef_types=["tagout scope"], column_name="Scope")
    action: str = OutputField(example_values=["stop", "isolate", "throttle"], column_name="Done")
    digest: str = OutputField(cef_types=["tagout digest"], column_name="Lock")
    index: int = OutputField(column_name="Entry")
    time_ms: int
    repeated: bool
    agents: int = OutputField(column_name="Agents")
    instances: int = OutputField(column_name="Processes")
    case: str


def take_away(action: str, params: TakeParams, soar: SOARClient, asset: Asset) -> TakeOutput:
    with tagout(asset) as client:
        done = client.take_away(action, params.scope, params.reason, case_of(params, soar))
    again = "held already" if done["repeated"] else "is in force"
    soar.set_message(f"{done['action']} of {done['scope']} {again}, as entry {done['index']}. Only people lift it: see propose resume")
    return TakeOutput(**done)


@app.action(action_type="contain", read_only=False, render_as="table", verbose="Stops an agent at once: calls in flight are cut, new ones denied")
def stop(params: TakeParams, soar: SOARClient, asset: Asset) -> TakeOutput:
    return take_away("stop", params, soar, asset)


@app.action(action_type="contain", read_only=False, render_as="table", verbose="Isolates an agent: as a stop, and enforcers cut its network")
def contain(params: TakeParams, soar: SOARClient, asset: Asset) -> TakeOutput:
    return take_away("contain", params, soar, asset)


@app.action(action_type="contain", read_only=False, render_as="table", verbose="Lets an agent call less, by the limits in the nodes' webhooks.toml")
def throttle(params: TakeParams, soar: SOARClient, asset: Asset) -> TakeOutput:
    return take_away("throttle", params, soar, asset)


class RecordParams(Params):
    digest: str | None = Param(description="The lock's id, as a stop's answer has it", primary=True, cef_types=["tagout digest"])
    index: int | None = Param(description="Its entry in the log; needed once people have lifted the lock")


class RecordOutput(ActionOutput):
    verified: bool = OutputField(column_name="Verified")
    index: int = OutputField(column_name="Entry")
    time_ms: int
    kind: str
    digest: str = OutputField(cef_types=["tagout digest"])
    action: str = OutputField(column_name="Action")
    scope: str = OutputField(cef_types=["tagout scope"], column_name="Scope")
    reason: str
    case: str
    document: str
    log_size: int
    log_root: str
    checkpoint_by: str = OutputField(column_name="Checkpoint by")


@app.action(action_type="investigate", read_only=True, render_as="table", verbose="Verifies that a command is in the log that a known node has signed")
def verify_record(params: RecordParams, soar: SOARClient, asset: Asset) -> RecordOutput:
    with tagout(asset) as client:
        return RecordOutput(**client.verify_record(params.digest or "", params.index))


class ResumeParams(ScopeParams):
    reason: str = Param(description="What the line for people gives as the reason", default="reviewed")


class BlockOutput(ActionOutput):
    digest: str = OutputField(cef_types=["tagout digest"])
    index: int
    scope: str
    kind: str
    reason: str
    by: str
    case: str
    released: bool


class ProposalOutput(ActionOutput):
    id: str
    action: str
    scope: str
    signed_by: str
    missing: str


class ResumeOutput(ActionOutput):
    scope: str = OutputField(cef_types=["tagout scope"])
    resumed: bool
    message: str
    blocked_by: list[BlockOutput]
    proposals: list[ProposalOutput]
    lines: list[str] = OutputField(example_values=["tagout resume moltbook/support/agent_22 --reason reviewed"])


@app.action(action_type="investigate", read_only=True, verbose="Says what blocks an agent and by which lines people resume it. It resumes nothing itself")
def propose_resume(params: ResumeParams, soar: SOARClient, asset: Asset) -> ResumeOutput:
    with tagout(asset) as client:
        proposed = client.propose_resume(params.scope, params.reason)
    soar.set_message(proposed["message"] + " " + "; ".join(proposed["lines"]))
    return ResumeOutput(**proposed)


if __name__ == "__main__":
    app.cli()
