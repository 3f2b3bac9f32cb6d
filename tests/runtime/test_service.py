"""A service over a real plan: tickets, loads, refusals, the end; and how much memory has room for."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import TINY, tiny_plan

from disaggc.errors import ExecutorError, JobError
from disaggc.plans import open_plan
from disaggc.runtime import Execution, News, Request, Service, deploy, run, tokens_that_fit
from disaggc.runtime.room import bytes_per_token, free_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan(tmp_path_factory.mktemp("service"))


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    execution = Execution(micro_batch=2, kv_tokens=1000)
    made = Service("tiny", deploy(open_plan(folder), folder, TINY.parent, execution=execution))
    yield made
    made.close()


class Sender:
    """Hears what becomes of a request."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.news: list[News] = []
        self.over = threading.Event()

    def __call__(self, news: News) -> None:
        self.tokens += news.tokens
        self.news.append(news)
        if news.is_over:
            self.over.set()


def test_news_come_in_order_and_end_once(service: Service, folder: Path) -> None:
    senders = [Sender() for _ in range(5)]
    prompts = [[5, 6, 7 + i] for i in range(5)]
    for prompt, sender in zip(prompts, senders, strict=True):
        ticket = service.submit(Request(tuple(prompt), 30, tier="a"), sender)
    assert all(sender.over.wait(60) for sender in senders)
    whole = run(open_plan(folder), folder, TINY.parent, prompts, 30).tokens
    assert [tuple(sender.tokens) for sender in senders] == list(whole)
    assert all([news.is_over for news in s.news].count(True) == 1 and s.news[-1].is_over for s in senders)
    assert ticket.queued_s > 0
    assert service.load() == {}


def test_what_cannot_be_run_is_refused_at_once(service: Service) -> None:
    with pytest.raises(JobError, match="the plan's budget for caches holds 1000"):
        service.submit(Request((1, 2), 999), Sender())
    assert service.load() == {}


def test_a_withdrawn_ticket_hears_its_end_and_frees_its_room(service: Service) -> None:
    sender = Sender()
    ticket = service.submit(Request((1, 2), 900, tier="a"), sender)
    service.withdraw(ticket)
    assert sender.over.wait(60)
    assert sender.news[-1].error is None
    assert len(sender.tokens) < 900
    assert service.load() == {}
    again = Sender()
    service.submit(Request((1, 2), 900), again)
    assert again.over.wait(60), "the room is there again"


def test_a_closed_service_ends_what_runs_and_takes_nothing(service: Service) -> None:
    sender = Sender()
    service.submit(Request((1, 2), 900), sender)
    service.close()
    assert sender.over.wait(60)
    with pytest.raises(ExecutorError, match="Deployment 'tiny' is closed"):
        service.submit(Request((1, 2), 3), Sender())


def test_a_service_that_is_closed_with_patience_lets_answers_end(folder: Path) -> None:
    made = Service("tiny", deploy(open_plan(folder), folder, TINY.parent))
    sender = Sender()
    made.submit(Request((1, 2), 50), sender)
    made.close(patience_s=60)
    assert len(sender.tokens) == 50


def test_tokens_take_the_bytes_of_their_caches(folder: Path) -> None:
    plan = open_plan(folder)
    assert bytes_per_token(plan) == 4 * 2 * 2 * 32 * 4, "layers, keys and values, heads, width, float32"
    free = free_bytes()
    found = tokens_that_fit(plan, 0.5)
    assert free is not None
    assert found is not None
    assert 0.2 * free < found * bytes_per_token(plan) < 1.2 * free
