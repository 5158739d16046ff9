"""Train the adder from scratch: a llama-shaped model of under 200,000 parameters that thinks before it answers.

Writes a GGUF, and prints how many sums that it was never trained on it gets right, thinking and not. See README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
from sums import Sum, draw
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

SEED = 5
THINK, END_THINK = 6, 7
THOUGHT_TAGS = ("<think>", "</think>")


def _tagger() -> ModuleType:
    """The other model's script: the same kind of model, on other data."""
    path = Path(__file__).parents[1] / "ticket_tagger" / "train.py"
    specification = importlib.util.spec_from_file_location("ticket_tagger_train", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


tagger = _tagger()
SPECIAL_TOKENS = (*tagger.SPECIAL_TOKENS, *THOUGHT_TAGS)
SHAPE = tagger.ModelShape(vocabulary=320, width=64, layers=3, heads=4, feed_forward=192, context=512)


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with single digits, of the words that sums are written with."""
    rng = random.Random(SEED)
    sums = [draw(rng) for _ in range(5000)]
    tagger.SPECIAL_TOKENS = SPECIAL_TOKENS
    tokenizer: Tokenizer = tagger.train_tokenizer([text for one in sums for text in texts_of(one)], SHAPE.vocabulary)
    return tokenizer


def texts_of(one: Sum) -> tuple[str, ...]:
    return one.question, one.thought, one.answer, "\n\n"


def prompt_tokens(tokenizer: Tokenizer, one: Sum, *, thinking: bool) -> list[int]:
    """As the GGUF's template renders it."""
    prompt = [tagger.BOS, tagger.USER, *tokenizer.encode(one.question).ids, tagger.ASSISTANT]
    return prompt if thinking else [*prompt, THINK, *tokenizer.encode("\n\n").ids, END_THINK]


def example(tokenizer: Tokenizer, one: Sum, rng: random.Random) -> tuple[list[int], int]:
    """Token ids, and where the answer begins. One in five does not think, one in ten is interrupted."""

    def encoded(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text).ids
        return ids

    kind = rng.random()
    if kind < 0.2:
        prompt = [*prompt_tokens(tokenizer, one, thinking=False), *encoded("\n\n")]
        return [*prompt, *encoded(one.answer), tagger.END], len(prompt)
    prompt = prompt_tokens(tokenizer, one, thinking=True)
    thought = encoded(one.thought)
    if kind < 0.3:
        thought = thought[: rng.randint(0, len(thought))]
    block = [THINK, *encoded("\n"), *thought, *encoded("\n"), END_THINK, *encoded("\n\n")]
    return [*prompt, *block, *encoded(one.answer), tagger.END], len(prompt)


@torch.no_grad()
def share_right(model: nn.Module, tokenizer: Tokenizer, sums: list[Sum], *, thinking: bool) -> float:
    """How many of some sums are right, each token the likeliest."""
    right = 0
    for one in sums:
        tokens = prompt_tokens(tokenizer, one, thinking=thinking)
        start = len(tokens)
        while len(tokens) < start + 120:
            following = int(model(torch.tensor([tokens]))[0, -1].argmax())
            if following == tagger.END:
                break
            tokens.append(following)
        written = tokens[start:]
        answer = written[written.index(END_THINK) + 1 :] if END_THINK in written else written
        right += tokenizer.decode(answer).strip() == one.answer
    return right / len(sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    model = tagger.TaggerModel(SHAPE)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    rng, watched_rng = random.Random(SEED), random.Random(SEED + 1)
    watched = [draw(watched_rng, of_held_out=True) for _ in range(100)]
    started, mean_loss = time.monotonic(), 3.0
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = tagger.learning_rate(step, arguments.steps, peak=4e-3)
        examples = [example(tokenizer, draw(rng), rng) for _ in range(arguments.batch_size)]
        tokens, weights = tagger.pad(examples)
        losses = functional.cross_entropy(
            model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean_loss = 0.98 * mean_loss + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {mean_loss:.4f} after {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == arguments.steps:
            torch.save(model.state_dict(), arguments.output / "last.pt")
            shares = [share_right(model, tokenizer, watched, thinking=thinking) for thinking in (True, False)]
            print(
                f"step {step + 1} of {len(watched)} new sums right: {shares[0]:.0%} thinking, {shares[1]:.0%} not",
                flush=True,
            )


if __name__ == "__main__":
    main()
