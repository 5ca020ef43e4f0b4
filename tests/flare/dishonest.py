"""An orchestrator that sends whatever a test wants, from inside FLARE's own server process.

`sitecustomize.py`, put first on the path of the federation's processes, changes FLARE in the
server's process only: a thread there reads requests from a folder, sends each to a hospital as the
server would, with exactly the headers that the test names, and writes the answer beside it.
"""

import itertools
import pickle
import time
from pathlib import Path

VARIABLE = "DISHONEST_ORCHESTRATOR"
_NUMBERS = itertools.count()
_SITE = f'''
import os, pickle, sys, threading, time
from pathlib import Path

def send(engine, name, wanted):
    if wanted["channel"]:
        from nvflare.fuel.f3.message import Message
        reply = engine.server.cell.core_cell.send_request(
            channel=wanted["channel"], topic=wanted["topic"], target=name,
            request=Message(payload=wanted["body"]), timeout=10)
        return {{"headers": {{}}, "body": reply.payload}}
    from nvflare.private.admin_defs import Message
    message = Message(topic=wanted["topic"], body=wanted["body"])
    message.set_headers(wanted["headers"])
    token = engine.get_client_from_name(name).token
    with engine.new_context() as context:
        [answer] = engine._send_admin_requests({{token: message}}, context, 20)
    reply = answer.reply
    return {{"headers": dict(reply.headers), "body": reply.body}} if reply else None

def serve(engine, folder):
    while True:
        for path in sorted(folder.glob("*.request")):
            wanted = pickle.loads(path.read_bytes())
            path.unlink()
            try:
                answer = send(engine, wanted["hospital"], wanted)
            except Exception as error:
                answer = {{"failed": repr(error)}}
            partial = path.with_suffix(".partial")
            partial.write_bytes(pickle.dumps(answer))
            partial.rename(path.with_suffix(".reply"))
        time.sleep(0.05)

if "nvflare.private.fed.app.server.server_train" in sys.orig_argv and os.environ.get("{VARIABLE}"):
    from nvflare.private.fed.server.server_engine import ServerEngine
    begin = ServerEngine.__init__

    def begin_and_serve(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        folder = Path(os.environ["{VARIABLE}"])
        threading.Thread(target=serve, args=(self, folder), daemon=True).start()

    ServerEngine.__init__ = begin_and_serve
'''


class DishonestOrchestrator:
    """Sends commands to a running federation that was started with `environment`."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITE)

    def environment(self, path: str) -> dict[str, str]:
        """Variables for the federation's processes, given their PYTHONPATH."""
        return {"PYTHONPATH": f"{self.folder}:{path}", VARIABLE: str(self.folder)}

    def send(self, hospital, topic, body="", *, channel="", **headers):
        """Sends one message and returns the answer: `body` and `headers`, or None."""
        path = self.folder / f"{next(_NUMBERS):04d}.request"
        content = {"hospital": hospital, "topic": topic, "body": body, "channel": channel}
        partial = path.with_suffix(".writing")
        partial.write_bytes(pickle.dumps({**content, "headers": headers}))
        partial.rename(path)
        reply, deadline = path.with_suffix(".reply"), time.monotonic() + 60
        while not reply.exists():
            assert time.monotonic() < deadline, f"no answer to {topic}"
            time.sleep(0.05)
        answer = pickle.loads(reply.read_bytes())
        assert answer is None or "failed" not in answer, answer
        return answer
