"""A LangGraph agent under Tagout: a stop cuts its answer in the middle of a word, and the run goes on after a resume.

    pip install langgraph langchain-openai
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python langgraph_agent.py "Tell me a long story"
"""

import os
import sys

import tagout
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks

model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-5-mini"), streaming=True)
graph = StateGraph(MessagesState)
graph.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
graph.add_edge(START, "answer")
app = graph.compile(checkpointer=InMemorySaver())
run = {"configurable": {"thread_id": "1"}}

asked = {"messages": [("user", sys.argv[1])]}
while True:
    try:
        for part, _ in app.stream(asked, run, stream_mode="messages"):
            print(part.content, end="", flush=True)
        break
    except Exception as error:
        stop = tagout.find_stop(error)
        if stop is None:
            raise
        print(f"\n[stopped: {stop}]", flush=True)
        input("Enter, once it is resumed, to go on: ")
        asked = None  # from the checkpoint: the question is not asked again
print()
