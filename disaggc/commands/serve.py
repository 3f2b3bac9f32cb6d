"""disaggc serve: a plan or a fleet behind OpenAI's HTTP API."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from disaggc import report
from disaggc.commands.arguments import Commands, add_command
from disaggc.commands.run import add_execution, execution_of
from disaggc.errors import JobError

if TYPE_CHECKING:  # onnxruntime and the server take their time to load
    from disaggc.serving import Api, Choices, Listening, Rules

KEY_VARIABLE = "DISAGGC_API_KEY"

SERVE_MORE = """\
  disaggc serve out                                     http://127.0.0.1:8000/v1
  disaggc serve out --on processes --port 0             any free port, which is printed
  disaggc serve out --tier premium=4 --tier free=1      two tiers share one plan's executors
  disaggc serve fleet --deployment high-1               one deployment of a fleet; default: all

docs/serving.md says what is answered, which metrics there are, and how tiers share executors.
"""


def add_serve(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "serve", "answer OpenAI's HTTP API with a plan, on this machine", SERVE_MORE
    )
    parser.add_argument("plan", type=Path, metavar="DIR", help="plan folder, or a fleet's")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="onnxruntime threads")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="the model's folder, if it moved")
    _add_listening(parser)
    _add_requests(parser)
    add_execution(parser)
    parser.set_defaults(run=_serve)


def _add_listening(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where, and for whom")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0: any free one")
    group.add_argument(
        "--api-key", metavar="KEY", help=f"what clients have to send; better in ${KEY_VARIABLE}"
    )
    group.add_argument("--access-log", action="store_true", help="log each request")
    group.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds for answers to end at SIGTERM",
    )
    group.add_argument("--served-model-name", default="", metavar="NAME", help="default: the plan's")
    group.add_argument(
        "--deployment", action="append", default=[], metavar="NAME", help="of a fleet this one; repeatable"
    )
    group.add_argument(
        "--tier",
        action="append",
        default=[],
        metavar="TIER[=WEIGHT]",
        help="tiers that share a single plan, the first one the default; repeatable",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument(
        "--queue-size",
        type=int,
        default=256,
        metavar="N",
        help="requests that may wait in a tier; default: 256",
    )
    group.add_argument(
        "--max-model-len",
        type=int,
        metavar="N",
        help="tokens of a request with its answer; default: the plan's",
    )
    group.add_argument(
        "--max-tokens", type=int, default=1024, metavar="N", help="of a chat that does not say; default: 1024"
    )
    group.add_argument(
        "--request-timeout", type=float, default=600.0, metavar="S", help="seconds for one; default: 600"
    )
    group.add_argument(
        "--quantum", type=float, default=10.0, metavar="MS", help="how often tokens are told; default: 10"
    )
    group.add_argument(
        "--ignore-sampling", action="store_true", help="answer greedily whatever temperature is asked for"
    )
    group.add_argument("--chat-template", type=Path, metavar="FILE", help="instead of the model's own")
    group.add_argument(
        "--stop-id", type=int, action="append", default=[], metavar="N", help="a token id that ends an answer"
    )


def _serve(options: argparse.Namespace, screen: report.Screen) -> int:
    try:
        from disaggc import serving
    except ImportError as error:
        raise JobError(
            f"Serving needs the packages starlette, uvicorn and prometheus-client ({error}). Install them: "
            f"pip install 'disaggc[serve]'."
        ) from error
    choices, listening, rules = _choices(options), _listening(options), _rules(options)
    parts = serving.parts_of(options.plan, choices)
    language = serving.language_of(parts[0], choices)
    with ExitStack() as stack:
        bound = stack.enter_context(serving.bind(listening))
        with screen.progress() as tell:
            lineup = serving.open_lineup(parts, choices, stack, tell)
        api = serving.Api(lineup, language, rules)
        serving.serve(api, bound, listening, lambda: _say(screen, api, serving.address_of(bound)))
        screen.say("Ended.")
    return 0


def _say(screen: report.Screen, api: Api, address: str) -> None:
    """What is served, and where; the address is the last word, for scripts."""
    for name, tier in api.lineup.tiers.items():
        where = ", ".join(
            f"{service.name} (room for {service.kv_tokens or 0:,} tokens)" for service in tier.services
        )
        screen.say(f"Tier {name}: {where}; requests of at most {tier.context:,} tokens.")
    takes = "token ids only" if api.language.text is None else "text"
    takes += ", chats" if api.language.chat else ", no chats"
    screen.say(f"Serving {api.lineup.model} ({takes}; answers are greedy) on {address}/v1")
    screen.out.file.flush()


def _choices(options: argparse.Namespace) -> Choices:
    from disaggc import serving

    if options.queue_size < 1:
        raise JobError(f"--queue-size {options.queue_size} lets nobody in. Give 1 or more.")
    if options.max_model_len is not None and options.max_model_len < 2:
        raise JobError(f"--max-model-len {options.max_model_len} has no room for an answer. Give 2 or more.")
    if options.quantum <= 0:
        raise JobError(f"--quantum {options.quantum:g} leaves no time. Give milliseconds above 0.")
    return serving.Choices(
        model_folder=options.model,
        threads=options.threads,
        execution=execution_of(options),
        deployments=tuple(options.deployment),
        weights=_weights(options.tier),
        queue_size=options.queue_size,
        context=options.max_model_len,
        name=options.served_model_name,
        quantum_s=options.quantum / 1e3,
        chat_template=options.chat_template,
        stop_ids=tuple(options.stop_id),
    )


def _weights(texts: list[str]) -> dict[str, float]:
    """Tiers with their weights: 'premium=4', or 'premium' alone for 1."""
    weights = {}
    for text in texts:
        name, is_weighted, number = text.partition("=")
        try:
            weights[name] = float(number) if is_weighted else 1.0
        except ValueError:
            weights[name] = 0.0
        if not name or not 0 < weights[name] < float("inf"):
            raise JobError(f"--tier {text}: write a name and a weight above 0, such as premium=4.")
    return weights


def _listening(options: argparse.Namespace) -> Listening:
    from disaggc import serving

    if not 0 <= options.port < 2**16:
        raise JobError(f"--port {options.port} is no port. Give 0 to 65535; 0 takes any that is free.")
    if options.drain < 0:
        raise JobError(f"--drain {options.drain:g}: give seconds from 0.")
    return serving.Listening(options.host, options.port, options.drain, options.access_log)


def _rules(options: argparse.Namespace) -> Rules:
    from disaggc import serving

    if options.max_tokens < 1:
        raise JobError(f"--max-tokens {options.max_tokens} leaves no answer. Give 1 or more.")
    if options.request_timeout <= 0:
        raise JobError(f"--request-timeout {options.request_timeout:g} leaves no time. Give seconds above 0.")
    return serving.Rules(
        api_key=options.api_key if options.api_key is not None else os.environ.get(KEY_VARIABLE, ""),
        ignore_sampling=options.ignore_sampling,
        max_tokens=options.max_tokens,
        timeout_s=options.request_timeout,
    )
