"""Tagout for Shuffle: actions on AI agents. What they ask of the nodes is in tagout_soar.py beside this file."""

from shuffle_sdk import AppBase

from tagout_soar import TagoutClient, TagoutError


def answered(act, nodes="", ca="", webhook="", secret="", token="", scopes="", deployment="", log_keys=""):
    """What a workflow goes on by: ``success``, and what was found or why not."""
    try:
        client = TagoutClient(nodes, ca, webhook or "soar", secret, token, scopes, deployment, log_keys)
        return {"success": True, **act(client)}
    except TagoutError as error:
        return {"success": False, "code": error.code, "reason": str(error)}


class Tagout(AppBase):
    __version__ = "1.0.0"
    app_name = "Tagout"

    def test_connectivity(self, **settings):
        return answered(lambda client: client.test_connectivity(), **settings)

    def get_status(self, **settings):
        return answered(lambda client: client.status(), **settings)

    def list_agents(self, scope="*", **settings):
        return answered(lambda client: {"agents": client.agents(scope)}, **settings)

    def stop(self, scope, reason, case="", **settings):
        return answered(lambda client: client.take_away("stop", scope, reason, self.case_of(case)), **settings)

    def contain(self, scope, reason, case="", **settings):
        return answered(lambda client: client.take_away("contain", scope, reason, self.case_of(case)), **settings)

    def throttle(self, scope, reason, case="", **settings):
        return answered(lambda client: client.take_away("throttle", scope, reason, self.case_of(case)), **settings)

    def verify_record(self, digest="", index="", **settings):
        return answered(lambda client: client.verify_record(digest, index), **settings)

    def propose_resume(self, scope, reason="", **settings):
        return answered(lambda client: client.propose_resume(scope, reason or "reviewed"), **settings)

    def case_of(self, case):
        """A run of a workflow is a case of its own, so that an action that is run again in it is the same lock."""
        execution = self.current_execution_id
        return case or (f"shuffle-{execution}" if execution and not self.standalone else "")


if __name__ == "__main__":
    Tagout.run()
