#!/usr/bin/env python3
"""A cell: each request is one line of JSON, and so is its reply.

{"id":1,"fn":"greet","args":{"name":"Ann"}}    ->    {"id":1,"reply":"Hello, Ann!"}

The arguments were checked against schema.json before. What goes to stderr is logged.
"""
import json
import sys


def greet(name):
    return f"Hello, {name}!"


FUNCTIONS = {"greet": greet}

for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"]}
    try:
        answer["reply"] = FUNCTIONS[request["fn"]](**request["args"])
    except Exception as error:  # the caller is told, the cell goes on
        answer["error"] = str(error)
    print(json.dumps(answer), flush=True)
