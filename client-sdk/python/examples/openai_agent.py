"""An agent on OpenAI's SDK under Tagout.

    pip install openai
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python openai_agent.py "Tell me a long story"
"""

import os
import sys

import openai
import tagout

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks

client = openai.OpenAI()
try:
    answer = client.chat.completions.create(
        model=os.environ.get("MODEL", "gpt-5-mini"),
        messages=[{"role": "user", "content": sys.argv[1]}],
        stream=True,
    )
    for part in answer:
        if part.choices and part.choices[0].delta.content:
            print(part.choices[0].delta.content, end="", flush=True)
    print()
except tagout.TagoutStopped as stop:  # never retried by the SDK
    sys.exit(f"\n[stopped: {stop}]")
