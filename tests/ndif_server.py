"""A model served on the loopback by NDIF's own functions, in an environment that need not know of this package.

`python ndif_server.py FOLDER`: prints the port, and then a line a request: bytes that came, bytes that went. It speaks
the part of NDIF's protocol that nnsight's client uses. Needs `ndif` (Python 3.12 or later, by its own word), `fastapi`,
`uvicorn`, `python-multipart`, `zstandard`, torch, transformers and nnsight.
"""

import asyncio
import io
import json
import socket
import sys
import threading
import traceback
import uuid
from typing import Annotated, Any

import torch
import uvicorn
import zstandard
from fastapi import FastAPI, File, Form, UploadFile, WebSocket
from ndif.services.ray.deployments.modeling.nns import block_scope, execute_traced_block, prepare_traced_block
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from transformers import PreTrainedTokenizerFast

TOKENIZER = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
MODEL = TransformersModel(sys.argv[1], task="text-generation", tokenizer=TOKENIZER, dtype="auto", dispatch=True)
app = FastAPI()
queues: dict[str, asyncio.Queue[Any]] = {}


@app.websocket("/subscribe")
async def subscribe(client: WebSocket) -> None:
    await client.accept()
    session = uuid.uuid4().hex
    queues[session] = asyncio.Queue()
    await client.send_text(json.dumps({"session_id": session}))
    while True:
        item = await queues[session].get()
        await (client.send_bytes(item) if isinstance(item, bytes) else client.send_text(item))


@app.post("/request")
async def request(data: Annotated[str, Form()], blob: Annotated[UploadFile, File()]) -> ResponseModel:
    asked, payload, loop = RequestModel.model_validate_json(data), await blob.read(), asyncio.get_running_loop()
    name = uuid.uuid4().hex

    def work() -> None:
        answer = _answered(name, asked, payload)
        loop.call_soon_threadsafe(queues[asked.session_id or ""].put_nowait, answer)

    threading.Thread(target=work, daemon=True).start()
    return ResponseModel(id=name, status=Status.RECEIVED)


def _answered(name: str, asked: RequestModel, payload: bytes) -> bytes | str:
    try:
        with block_scope():
            tracer, _ = prepare_traced_block(MODEL, payload, asked.compress, RequestModel.deserialize)
            saved = execute_traced_block(tracer, torch.float32)
        told = io.BytesIO()
        torch.save(saved, told)
        found = told.getvalue()
        found = zstandard.ZstdCompressor(level=3).compress(found) if asked.compress else found
        print(json.dumps({"came": len(payload), "went": len(found)}), flush=True)
        return ResponseModel(id=name, status=Status.COMPLETED, data=found).pickle()
    except Exception as error:  # whatever a block raises goes home as text
        told_ = "".join(traceback.format_exception(error))[-1500:]
        return ResponseModel(id=name, status=Status.ERROR, description=told_).model_dump_json()


if __name__ == "__main__":
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # who comes before the server is up waits
    known = any(part in sys.modules for part in ("entity_circuits", "entity_book"))
    print(json.dumps({"port": listening.getsockname()[1], "knows_entity_circuits": known}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
