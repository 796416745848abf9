"""The engine proper: token ids in, finished paths out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastsi import ops
from fastsi.engine.config import EngineConfig
from fastsi.engine.control import GroupController
from fastsi.engine.decode_run import MOST_LISTED, give_ahead
from fastsi.engine.detokenizer import Detokenizer
from fastsi.engine.kv_pool import KVPool
from fastsi.engine.logprobs import launch_likeliest, note_likeliest, note_run, score_given
from fastsi.engine.model_runner import ModelRunner
from fastsi.engine.pipeline import Flight, Pipeline
from fastsi.engine.plan import Step
from fastsi.engine.prefix_tree import PrefixTree
from fastsi.engine.requests import Group, PathParams, PathState
from fastsi.engine.sampler import Sampler
from fastsi.engine.scheduler import Scheduler
from fastsi.engine.stats import EngineStats
from fastsi.engine.stops import StopFinder

_WORD = 2**64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineRequest:
    """One prompt with its settings, or with continuations to score."""

    prompt: Sequence[int]
    params: PathParams
    continuations: Sequence[Sequence[int]] = ()
    """If given, each is scored instead of sampled; ``params.params.n`` is ignored."""
    top: int | None = None
    """For scoring: how many of the most likely tokens to report per position."""
    controller: GroupController | None = None
    """Says how many of the paths are needed; None: all."""


@dataclass(slots=True)
class RequestPaths:
    """What became of a request."""

    paths: list[PathState] = field(default_factory=list)
    """In path order; where a controller decided, those that count."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were there before the call."""


class Engine:
    """One model, one KV pool, one prefix tree. Not safe to call from two threads at once."""

    def __init__(self, runner: ModelRunner, config: EngineConfig, detokenizer: Detokenizer) -> None:
        self.config, self._runner, self._text = config, runner, detokenizer
        self.pool = KVPool(
            runner.layers,
            num_pages=-(-config.kv_cache_tokens // config.page_size),
            page_size=config.page_size,
            dtype=runner.kv_dtype,
            device=runner.device,
        )
        self.tree = PrefixTree(self.pool, config.prefix_block)
        self.stats = EngineStats(kv_bytes_per_token=self.pool.bytes_per_token)
        self.scheduler = Scheduler(config, self.pool, self.tree, self.stats)
        self._stops = StopFinder(detokenizer, config.max_batch_rows, runner.device)
        self._sampler = Sampler(config.logprobs_mode, config.max_batch_rows, runner.device)
        ahead = runner.device.type == "cuda" if config.pipeline == "auto" else config.pipeline
        self._pipeline = Pipeline(ahead=ahead)
        runner.use_graphs(config.graphs, self.pool, self._sampler, max_rows=config.max_batch_rows)
        self._calls = 0

    def run(
        self,
        requests: Sequence[EngineRequest],
        on_finish: Callable[[PathState], None] = lambda path: None,
    ) -> list[RequestPaths]:
        """Sample or score every path of every request.

        Args:
            requests: in any order; equal prompts share their prefill and get different streams.
            on_finish: called with each path as it ends or is cancelled.

        Returns:
            For each request its paths in path order.

        Raises:
            CacheFull: a path cannot fit the KV cache.
            NumericalError: the model produced NaN, or every token was banned.
        """
        self._calls += 1
        results = [RequestPaths() for _ in requests]
        groups = self._make_groups(requests, results)
        try:
            self.tree.number()
            self._stops.begin(self.scheduler.table, (request.params for request in requests))
            self.scheduler.add(groups)
            with self._runner.session():
                while self.scheduler.has_work:
                    for path in self.step():
                        self.stats.paths += 1
                        on_finish(path)
                        if path.group.controller is not None:
                            for dropped in self._consult(path.group.controller, path, results):
                                on_finish(dropped)
        finally:
            self._pipeline.take()  # rows of paths that have ended
            self.scheduler.abort()
            self.tree.prune()
        return results

    def step(self) -> list[PathState]:
        """One forward pass; returns the paths that ended, as far as the host has seen.

        With the pipeline on, tokens are read one step late: those of the last step after this one
        has been launched.
        """
        stats, table = self.stats, self.scheduler.table
        if self._pipeline.flight is not None and not self.scheduler.can_run_ahead():
            ended = self._land(self._pipeline.take())
            if ended:  # what is to run next may depend on them
                return ended
        with stats.phase("schedule"):
            step = self.scheduler.schedule()
            count = self._steps_at_once(step)
        if count > 1:
            return self._decode(step, count)
        with stats.phase("forward"):
            logits, drawn = self._runner.forward(step, self.pool, self._sampler.last)
        with stats.phase("sample"):
            score_given(step, logits)
            if drawn is None:  # else it was part of the pass
                drawn = self._sampler.draw(logits, table, step.draw_slots, step.draw_rows)
            likeliest = launch_likeliest(logits, table, step.draw_slots, drawn)
            hits = self._stops.match(table, drawn)
            before = self._pipeline.launch(Flight(step, table, drawn, hits, likeliest))
        with stats.phase("commit"):
            ended = self.scheduler.advance(step)
        stats.steps += 1
        ended += self._land(before)
        if self._pipeline.must_land(step, table):
            ended += self._land(self._pipeline.take())
        stats.peak_pages = max(stats.peak_pages, self.pool.peak_used)
        return ended

    def _steps_at_once(self, step: Step) -> int:
        """How many steps, this one included, one call of the extension may make."""
        table, slots = self.scheduler.table, self.scheduler.table.active
        if step.chunks or self.config.steps_per_call == 1 or self._pipeline.ahead:
            return 1
        if table.adjusted[slots].any() or (table.top_count[slots] > MOST_LISTED).any():
            return 1  # these are worked out between steps
        if not (self._runner.can_decode() and self._stops.beside_tokens):
            return 1
        return give_ahead(table, self.pool, self.config.page_size, self.config.steps_per_call)

    def _decode(self, step: Step, count: int) -> list[PathState]:
        """Up to ``count`` steps from this one on; returns the paths that ended with the last."""
        stats, table, slots = self.stats, self.scheduler.table, step.draw_slots
        with stats.phase("schedule"):
            run = self._sampler.run(table, slots, count, self._stops.search(table, slots))
        with stats.phase("forward"):
            self._runner.decode(step, self.pool, run)
        stats.move("forward", "sample", run.draw_seconds)
        with stats.phase("commit"):
            tokens = run.drawn.token[: run.steps].numpy()
            logprobs = self._sampler.reported(run.drawn)[: run.steps].double().numpy()
            ops.require_drawn(tokens[-1], step.draw_rows)
            if run.top is not None:
                note_run(table, slots, tokens, logprobs, run.top)
            at = table.record_run(slots, tokens, logprobs)
        with stats.phase("text"):
            hits = None if run.search is None else run.search.hit.numpy().astype(bool)
            ends = self._stops.find(table, slots, tokens[-1], hits)
        with stats.phase("commit"):
            ended = self.scheduler.commit(slots, at, tokens[-1], logprobs[-1], ends)
        stats.steps += run.steps
        stats.generated_tokens += tokens.size
        stats.peak_pages = max(stats.peak_pages, self.pool.peak_used)
        return ended

    def _land(self, flight: Flight | None) -> list[PathState]:
        """Read the tokens of a launched step, if there is one; returns the paths that ended."""
        if flight is None:
            return []
        stats, table = self.stats, self.scheduler.table
        with stats.phase("sample"):
            landed = flight.land(table)
            drawn = (landed.slots, landed.tokens, landed.logprobs)
            if landed.likeliest is not None:
                note_likeliest(table, *drawn, *landed.likeliest)
        with stats.phase("text"):
            ends = self._stops.find(table, landed.slots, landed.tokens, landed.hits)
        with stats.phase("commit"):
            ended = self.scheduler.commit(
                landed.slots, landed.at, landed.tokens, landed.logprobs, ends
            )
        stats.generated_tokens += len(landed.slots)
        stats.dropped_tokens += landed.num_dropped
        return ended

    def _consult(
        self, controller: GroupController, path: PathState, results: list[RequestPaths]
    ) -> list[PathState]:
        """Tell a controller of a path that ended; returns the paths it cancels."""
        group = path.group
        with self.stats.phase("text"):
            count = controller.finished(path.index, self._text.path_text(path))
            if count is None:
                group.wanted = controller.wanted
                return []
        dropped = self.scheduler.cancel(group, path.request, count)
        del results[path.request].paths[count:]
        self.stats.cancelled_paths += len(dropped)
        self.stats.cancelled_tokens += sum(len(each.tokens) for each in dropped)
        return dropped

    def _make_groups(
        self, requests: Sequence[EngineRequest], results: list[RequestPaths]
    ) -> list[Group]:
        """A group per distinct prompt; every copy of a prompt continues its numbering of paths."""
        groups: dict[bytes, Group] = {}
        counts: Counter[tuple[bytes, int]] = Counter()
        apart = self.config.sharing == "none"
        for number, request in enumerate(requests):
            digest = ops.prompt_digest(request.prompt)
            seed = self._seed(request)
            copies: Sequence[Sequence[int] | None] = request.continuations
            copies = copies or [None] * request.params.params.n
            for index, given in enumerate(copies):
                name = digest if not apart else b"%d/%d" % (number, index)
                if request.controller is not None:
                    name = b"%d" % number  # its paths are held back and cancelled together
                if name not in groups:
                    leaf = self.tree.insert(request.prompt, private=apart)
                    groups[name] = Group(leaf=leaf, prompt=request.prompt)
                    if request.controller is not None:
                        groups[name].controller = request.controller
                        groups[name].wanted = request.controller.wanted
                path = PathState(
                    group=groups[name],
                    request=number,
                    index=index,
                    params=request.params,
                    key=ops.path_key(seed, digest, counts[digest, seed]),
                    forced=given is not None,
                    tokens=list(given or ()),
                    top_count=request.top,
                )
                counts[digest, seed] += 1
                groups[name].pending.append(path)
                results[number].paths.append(path)
        self._count_prompts(requests, results, groups)
        return list(groups.values())

    def _count_prompts(
        self,
        requests: Sequence[EngineRequest],
        results: list[RequestPaths],
        groups: dict[bytes, Group],
    ) -> None:
        chains = {id(group.leaf): group.leaf.chain() for group in groups.values()}
        cached = {leaf: sum(node.filled for node in chain) for leaf, chain in chains.items()}
        self.stats.requests += len(requests)
        for request, result in zip(requests, results, strict=True):
            result.cached_tokens = cached[id(result.paths[0].group.leaf)]
            self.stats.prompt_tokens += len(request.prompt) * len(result.paths)

    def _seed(self, request: EngineRequest) -> int:
        """The request's seed, or one that changes from call to call, as a signed 64-bit integer."""
        given = request.params.params.seed
        if given is not None:
            return given
        mixed = (self.config.seed * 0x9E3779B97F4A7C15 + self._calls * 0xBF58476D1CE4E5B9) % _WORD
        return mixed - _WORD if mixed >= _WORD // 2 else mixed

    def reset_prefix_cache(self) -> None:
        """Forget all cached prompts; the next call computes them again."""
        self.tree.clear()
