"""Runs one command of the XSOAR integration. What the product gives an integration is stood in for: see README.md.

xsoar_action.py Tagout.py COMMAND, with {"params", "args", "incident"} on standard input
"""

import json
import sys
import types

given = json.load(sys.stdin)
script, command = sys.argv[1:]

demisto = types.ModuleType("demistomock")
demisto.command = lambda: command
demisto.params = lambda: given["params"]
demisto.args = lambda: given["args"]
demisto.incident = lambda: given["incident"]


class CommandResults:
    def __init__(self, outputs_prefix=None, outputs_key_field=None, outputs=None, readable_output=None):
        rows = outputs if isinstance(outputs, list) else [outputs]
        assert outputs_prefix and all(outputs_key_field in row for row in rows), outputs
        self.result = {"prefix": outputs_prefix, "outputs": outputs, "text": readable_output}


def return_results(results):
    print(json.dumps(results.result if isinstance(results, CommandResults) else results))


def return_error(message):
    print(message, file=sys.stderr)
    sys.exit(1)


server = types.ModuleType("CommonServerPython")
server.CommandResults, server.return_results, server.return_error = CommandResults, return_results, return_error
server.tableToMarkdown = lambda name, rows: f"### {name}\n{json.dumps(rows)}"
sys.modules |= {"demistomock": demisto, "CommonServerPython": server}
exec(compile(open(script).read(), script, "exec"), {"__name__": "__main__"})
