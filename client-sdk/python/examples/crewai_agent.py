"""A crew of CrewAI's under Tagout: a stop of one of its agents cuts that one's answer, and ends the crew's run.

    pip install crewai
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python crewai_agent.py "Tell me a long story"
"""

import os
import sys

import tagout
from crewai import LLM, Crew, Task
from tagout.adapters.crewai import Agent

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks

llm = LLM(model=os.environ.get("MODEL", "gpt-5-mini"), provider="openai", stream=True)
# They are demo/mine/Storyteller and demo/mine/Severe_Critic, and each can be stopped alone.
teller = Agent(role="Storyteller", goal="Tell stories", backstory="You have told many.", llm=llm)
critic = Agent(role="Severe Critic", goal="Criticise stories", backstory="You have read many.", llm=llm)
crew = Crew(
    agents=[teller, critic],
    tasks=[
        Task(description=sys.argv[1], expected_output="A story", agent=teller),
        Task(description="Criticise the story", expected_output="One line", agent=critic),
    ],
)

try:
    print(crew.kickoff().raw)
except Exception as error:
    stop = tagout.find_stop(error)
    if stop is None:
        raise
    sys.exit(f"[stopped: {stop}]")
