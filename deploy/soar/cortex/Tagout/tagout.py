#!/usr/bin/env python3
"""Tagout for Cortex: a responder of TheHive's cases, alerts and observables. What it asks is in tagout_soar.py beside it."""

from cortexutils.responder import Responder

from tagout_soar import TagoutClient, TagoutError

#: A custom field of cases and alerts: which agent they are about. An observable names it by its value.
SCOPE_FIELD = "tagout_scope"
SETTINGS = ("nodes", "ca", "webhook", "secret", "token", "scopes", "deployment", "log_keys")


class Tagout(Responder):
    def __init__(self):
        # What ends up in an error's report; the base's own phrases leave tokens in it.
        Responder.__init__(self, secret_phrases=("key", "password", "secret", "token"))
        self.service = self.get_param("config.service", None, "the responder's config has no service")

    def run(self):
        try:
            client = TagoutClient(**{name: self.get_param(f"config.{name}", "") for name in SETTINGS})
            self.report(getattr(self, self.service)(client))
        except TagoutError as error:
            self.error(f"{error} [{error.code}]")

    def operations(self, raw):
        if "digest" not in raw or "action" not in raw or "verified" in raw:
            return []
        kind = {"thehive:case": "Case", "thehive:alert": "Alert", "thehive:case_artifact": "Artifact"}.get(self.data_type)
        tag = f"tagout:{raw['action']}={raw['scope']}"
        return [self.build_operation(f"AddTagTo{kind}", tag=tag)] if kind else []

    # The services that the flavours name.

    def connectivity(self, client):
        return client.test_connectivity()

    def status(self, client):
        return client.status()

    def agents(self, client):
        return {"agents": client.agents(self.scope())}

    def stop(self, client):
        return client.take_away("stop", self.scope(), self.reason(), self.case())

    def contain(self, client):
        return client.take_away("contain", self.scope(), self.reason(), self.case())

    def throttle(self, client):
        return client.take_away("throttle", self.scope(), self.reason(), self.case())

    def verify(self, client):
        """An observable is a lock's digest, or its entry's index in the log."""
        said = str(self.get_param("data.data", "", "verify a record by an observable with its digest or index")).strip()
        return client.verify_record(index=said) if said.isdecimal() else client.verify_record(digest=said)

    def resume(self, client):
        return client.propose_resume(self.scope())

    # What TheHive tells of whatever it was run on.

    def scope(self):
        if self.data_type == "thehive:case_artifact":
            return self.get_param("data.data", "")
        fields = self.get_param("data.customFields", {})
        # TheHive 5 lists them with their values, TheHive 4 has them by name and type.
        if isinstance(fields, list):
            fields = {field.get("name"): field.get("value") for field in fields}
        value = fields.get(SCOPE_FIELD) or ""
        if isinstance(value, dict):
            value = value.get("string") or value.get("value") or ""
        if not value:
            raise TagoutError("settings", f"fill in the custom field {SCOPE_FIELD} with the agent's scope, or run this on an observable")
        return value

    def reason(self):
        title = self.get_param("data.title") or self.get_param("data.case.title") or self.get_param("data.message")
        return f"TheHive: {title}" if title else "TheHive"

    def case(self):
        number = self.get_param("data.number") or self.get_param("data.caseId") or self.get_param("data.case.number")
        return f"thehive-{number or self.get_param('data._id') or self.get_param('data.id') or ''}".removesuffix("-")


if __name__ == "__main__":
    Tagout().run()
