"""An agent of smolagents' under Tagout: a stop cuts its answer, and refuses its code and tools.

    pip install "smolagents[openai]"
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python smolagents_agent.py "Tell me a long story of today's weather"
"""

import os
import sys

import tagout
from smolagents import OpenAIServerModel, tool
from tagout.adapters.smolagents import CodeAgent

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


@tool
def temperature(city: str) -> str:
    """How warm it is in a city.

    Args:
        city: its name
    """
    return f"21 °C in {city}"


# It is demo/mine/teller, and can be stopped alone.
model = OpenAIServerModel(os.environ.get("MODEL", "gpt-5-mini"))
teller = CodeAgent([temperature], model, name="teller", description="Tells stories", stream_outputs=True)

try:
    print(teller.run(sys.argv[1]))
except Exception as error:
    stop = tagout.find_stop(error)
    if stop is None:
        raise
    sys.exit(f"[stopped: {stop}]")
