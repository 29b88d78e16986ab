"""Runs one action of the Splunk app as its SDK does from the command line, and prints the results as JSON.

splunk_action.py ACTION [PARAMETERS.json] ASSET.json, in the app's folder
"""

import json
import sys

sys.path.insert(0, ".")
from soar_sdk.app_cli_runner import AppCliRunner  # noqa: E402

from src.app import app  # noqa: E402

action, *parameters, asset = sys.argv[1:]
words = ["action", action, "--asset-file", asset]
words += ["--param-file", parameters[0]] if parameters else []
app.handle(AppCliRunner(app).parse_args(words).raw_input_data)
results = app.actions_manager.get_action_results()
print("\nRESULTS " + json.dumps([{"ok": r.get_status(), "message": r.get_message(), "data": r.get_data()} for r in results]))
